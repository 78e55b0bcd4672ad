"""Whoever reaches a port can open connections to it, send what it likes, and choose words: that is all it can do."""

from __future__ import annotations

import http.client
import json
import re
import resource
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    command,
    form,
    launch,
    looks,
    start,
    stop,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.crowd import Crowd
from muster_tools.lab.ec2_faults import edited, hidden
from muster_tools.lab.http_server import HttpServer, Reply
from muster_tools.lab.security import AUTO, Security

PEER, STATUS = 2380, 2382
HELLO = "/muster/v1/hello"
CONFIG = 78


def crowd_address(lab) -> str:
    return f"{lab.network}.250"


def resident(node) -> int:
    """KiB"""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{node.process.pid}/status").read_text())[1])


def get(node, port: int, path: str, timeout: float = 2, **headers: str) -> int:
    connection = http.client.HTTPConnection(node.address, port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def holding(lab, **env: str):
    """A fresh node that waits for two others, which are there by EC2's word."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="10m", BOOTSTRAP_WAIT="20s", **env)
    start(nodes[0])
    wait_said(lab, nodes[0], "hold: ", "did not answer")
    return nodes


# Connections.


@pytest.mark.parametrize("port,path", [(PEER, HELLO), (STATUS, "/livez")])
def test_a_probe_is_answered_while_others_hold_connections(lab, port, path):
    """A liveness probe that fails ends etcd; a hello that isn't answered is silence, and holds a founding up."""
    node, *_ = holding(lab)
    stop(node)
    node.env["MUSTER_STATUS_LISTEN"] = f"{node.address}:{STATUS}"
    start(node)
    wait_said(lab, node, "status is served at MUSTER_STATUS_LISTEN")
    lab.wait(lambda: get(node, port, path) == 200, BOUND, "an answer to nobody's disturbance")
    with Crowd((node.address, port), crowd_address(lab), idle=600):
        for _ in range(20):
            assert get(node, port, path) == 200
        with ExitStack() as others:
            for number in range(60):  # by as many hosts, of which each holds few
                other = others.enter_context(socket.socket())
                other.bind((f"{lab.network}.{100 + number}", 0))
                other.connect((node.address, port))
            assert get(node, port, path) == 200


def test_the_socket_beside_the_data_answers_while_others_hold_it(lab):
    """`etcd-muster status` and a container's probe ask there."""
    node, *_ = holding(lab)
    with ExitStack() as idle:
        for _ in range(40):
            one = idle.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(node.data / "muster/status.sock"))
        for _ in range(5):
            assert "hold: " in command(lab, node, "status").stdout


def test_a_half_head_is_waited_for_a_second(lab):
    """A caller that connects has its question at hand: what comes slower is no caller."""
    node, *_ = holding(lab)
    with socket.create_connection((node.address, PEER), timeout=BOUND) as slow:
        slow.sendall(b"GET /muster/v1/hello HTTP/1.1\r\nx: ")
        other = socket.create_connection((node.address, PEER), timeout=BOUND)
        with other:
            other.sendall(b"GET /muster/v1/hello HTTP/1.1\r\nhost: x\r\nx-muster-from: " + b"x" * 300_000 + b"\r\n\r\n")
            answer = b""
            with suppress(ConnectionResetError):
                answer = other.recv(100)
            assert answer == b"" or b" 431 " in answer, "a head has an end"
        assert slow.recv(100) == b""


def test_a_handshake_is_waited_for_as_a_head_is(lab):
    """With TLS a caller that says nothing must not be held longer than one without."""
    lab.security = Security(peer=AUTO)
    node, *_ = holding(lab)
    with socket.create_connection((node.address, PEER), timeout=BOUND) as mute:
        with Crowd((node.address, PEER), crowd_address(lab), idle=300):
            for _ in range(5):
                assert node.etcd.request("GET", HELLO, PEER)[0] == 200
            assert mute.recv(1) == b""


def first_free(pid: int) -> int:
    """The lowest descriptor that isn't open: the limit is on their numbers."""
    time.sleep(0.005)
    numbers = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def test_without_descriptors_callers_wait_and_nothing_spins(lab):
    """EMFILE passes; until then a loop that tries at once burns the CPU that etcd needs."""
    node, *_ = holding(lab)
    pid = node.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # Between two observations: what one of them has open for a moment would be free for a caller after it.
    free = min(first_free(pid) for _ in range(200))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    with socket.create_connection((node.address, PEER), timeout=BOUND) as waiting:
        waiting.sendall(b"GET /muster/v1/hello HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_said(lab, node, "connections can't be accepted", "(os error 24)")
        spent = cpu_ticks(pid)
        with pytest.raises(TimeoutError):
            waiting.settimeout(2)
            waiting.recv(1)
        assert cpu_ticks(pid) - spent < 40, "of 200: it waits"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    lab.wait(lambda: get(node, PEER, HELLO) == 200, BOUND, "an answer once there are descriptors")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# What they say.


def test_strangers_cost_no_calls_and_no_memory(lab):
    """An account's DescribeInstances can be throttled away for everybody in it; memory that isn't given back ends the host's etcd."""
    node, *_ = holding(lab)
    wait_looks(lab, node, more=1)
    calls, memory, seen = len(node.front.answered), resident(node), looks(node)
    with Crowd((node.address, PEER), crowd_address(lab), idle=300, requests=60) as crowd:
        lab.wait(lambda: len(node.front.answered) >= calls + 4, BOUND, "calls to EC2 that strangers ask for")
        more, looked = resident(node) - memory, looks(node) - seen
    assert crowd.met["answered"] > 300 and crowd.met["unanswered"] == 0
    moments = [began for began, _ in node.front.answered[calls:]]
    assert all(later - earlier > 4 for earlier, later in zip(moments[1:], moments[2:])), "but for the first, no more than all 5 s"
    assert looked <= 12, "and none of them was a reason to look more often"
    assert more <= 8 * 1024


def test_a_name_that_is_none_is_not_kept(lab):
    """Hundreds of kilobytes of name were, for each caller; and while a node holds over its certificates nobody looks and forgets them."""
    missing = {"CLNT_SCHEMA": "https", "MUSTER_CA_CERT": "/nonexistent", "MUSTER_CA_KEY": "/nonexistent"}
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", **missing})
    start(node)
    wait_said(lab, node, "hold: ", "/nonexistent")
    memory = resident(node)
    for number in range(400):
        name = f"i-{number:05}" + "x" * 60_000
        with suppress(ConnectionError):
            assert get(node, PEER, HELLO, timeout=10, **{"x-muster-from": name}) in (200, 431)
    for number in range(2000):
        name = f"i-{number:05}" + "x" * (57 if number % 2 else 3_000)
        assert get(node, PEER, HELLO, timeout=10, **{"x-muster-from": name}) == 200
    assert resident(node) - memory <= 3 * 1024
    for odd in ("a b", "\xe9", "a/b", ""):
        assert get(node, PEER, HELLO, **{"x-muster-from": odd}) == 200


def test_three_found_beside_a_crowd(lab):
    """Founding is when everybody knocks; whoever knocks for nothing must not stop it."""
    nodes = holding(lab)
    with Crowd((nodes[0].address, PEER), crowd_address(lab), idle=300, requests=60):
        start(*nodes[1:])
        wait_formed(lab, *nodes)


# Words.

EVIL = "x\nREADY=1\nMAINPID=1\x1b[2J\x9b31m\u2028\u202egpj"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")


@contextmanager
def peer_of_evil_words(node):
    """Another of the roster, whose charter says what it likes."""
    hello = {
        "listed": {"instance": node.instance.id, "name": EVIL, "peer_urls": ["http://x"]},
        "has_data": False,
        "cluster": None,
        "charter": {"size": 3, "token_prefix": EVIL, "first": [], "claim": None, "written": None},
        "promised": None,
        "chosen": None,
    }
    answer = Reply(200, json.dumps(hello).encode(), content_type="application/json")
    with HttpServer(node.address, PEER, lambda _: answer):
        yield


def test_others_words_steer_nothing(lab):
    """READY=1 in a charter made a unit ready; an escape in a tag moves whatever stands on the operator's screen."""
    nodes = launch(lab, 3, size=3)
    node, evil = nodes[0], nodes[1]
    lab.ec2.set_tags(node.instance.id, {"Name": "evil\u202e\u2028gpj\u0085name"})
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager, peer_of_evil_words(evil):
        manager.bind(str(node.directory / "notify"))
        manager.settimeout(0.05)
        node.env["NOTIFY_SOCKET"] = str(node.directory / "notify")
        told = []

        def heard() -> bool:
            with suppress(TimeoutError):
                while True:
                    told.append(manager.recv(8192).decode())
            return any("READY=1" in message for message in told)

        start(node)
        wait_said(lab, node, "hold: ", "has a different bootstrap configuration")
        lab.wait(heard, BOUND, "the charter's words at the service manager")
        assert all("\n" not in message and not STEERING.search(message) for message in told), told
        assert not STEERING.search(node.log_text())
        for words in (["plan"], ["plan", "--json"], ["status"], ["status", "--json"], ["discover"], ["discover", "--json"]):
            done = command(lab, node, *words)
            shown = done.stdout + done.stderr
            assert not STEERING.search(shown), (words, shown)
            assert not any(line.startswith("READY=1") for line in shown.splitlines()), (words, shown)
        for path in ("/readyz", "/status", "/metrics"):
            assert not STEERING.search(at_socket(node, path))
        assert re.search(r"evil\?? ?gpj name", command(lab, node, "discover").stdout)


def test_a_tag_steers_no_terminal_of_a_running_cluster(lab):
    """Who may tag an instance is not who may log in."""
    (node,) = form(lab, 1, size=1)
    lab.ec2.set_tags(node.instance.id, {"Name": "a\u202e\u2028b\u0085c"})
    for words in (["members"], ["members", "--json"], ["discover"], ["health"], ["status"]):
        done = command(lab, node, *words)
        assert not STEERING.search(done.stdout + done.stderr), (words, done.stdout, done.stderr)
    (row,) = json.loads(command(lab, node, "members", "--json").stdout)["members"]
    assert row["nameTag"] == "a\u202e\u2028b\u0085c", "in JSON it is whole, escaped"


def at_socket(node, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(BOUND)
        one.connect(str(node.data / "muster/status.sock"))
        one.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        text = b""
        while more := one.recv(65536):
            text += more
    return text.decode().partition("\r\n\r\n")[2]


# Secrets.


def secrets_everywhere(node) -> dict[str, str]:
    """A secret of its own in every variable that could hold one and leaves a run possible."""
    front, imds = node.front.url.removeprefix("http://"), node.imds.url.removeprefix("http://")
    password = node.directory / "password"
    password.write_text("hunter-file\n")
    return {
        "AWS_ACCESS_KEY_ID": "AKIAHUNTER",
        "AWS_SECRET_ACCESS_KEY": "hunter-key",
        "AWS_SESSION_TOKEN": "hunter-session",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "hunter-container",
        "AWS_ENDPOINT_URL": f"http://u:hunter-all@{front}/?hunter-all-query",
        "AWS_ENDPOINT_URL_EC2": f"http://u:hunter-ec2@{front}/?token=hunter-ec2-query",
        "AWS_ENDPOINT_URL_S3": f"http://u:hunter-s3@{front}/?token=hunter-s3-query",
        "AWS_ENDPOINT_URL_SSM": f"http://u:hunter-ssm@{front}/?token=hunter-ssm-query",
        "AWS_ENDPOINT_URL_AUTO_SCALING": f"http://u:hunter-as@{front}/?token=hunter-as-query",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://u:hunter-imds@{imds}",
        "HTTPS_PROXY": "http://u:hunter-proxy@127.0.0.1:1",
        "https_proxy": "http://u:hunter-lower@127.0.0.1:1",
        "HTTP_PROXY": "http://u:hunter-http@127.0.0.1:1",
        "MUSTER_ETCD_USER": "root",
        "MUSTER_ETCD_PASSWORD_FILE": str(password),
        "MUSTER_CLAIM": "s3://bucket/prefix",
        "MUSTER_LIFECYCLE_HOOK": "hook",
        "MUSTER_LEAVE": "on-terminate",
        "OTHER_PASSWORD": "hunter-foreign",
        "MUSTER_LOG": "trace",
    }


# Those that end a run: each with what stands in its place.
REFUSED = {
    "MUSTER_ETCD_PASSWORD": "hunter-typo",
    "MUSTER_CA_KEYS": "-----BEGIN PRIVATE KEY-----hunter-pem",
    "MUSTER_CA_KEY": "-----BEGIN PRIVATE KEY-----hunter-pem",
    "MUSTER_ETCD_PASSWORD_FILE": "hunter-itself",
    "ETCD_OPTS": "--user root:hunter-opts",
    "ETCD_DISCOVERY": "https://discovery.etcd.io/hunter-token",
    "ETCD_DISCOVERY_SRV": "hunter-token",
    "AWS_ENDPOINT_URL_EC2": "u:hunter-no-url@h",
    "AWS_ENDPOINT_URL": "ftp://u:hunter-ftp@h?hunter",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/c?token=hunter-uri",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "@192.0.2.1/?hunter-path",
    "HTTPS_PROXY": "https://u:hunter-tls@h:1",
}
COMMANDS = (["plan"], ["plan", "--json"], ["env"], ["discover"], ["health"], ["status"], ["status", "--json"], ["members"])


def written(node) -> str:
    """Everything in its directory but etcd's own files."""
    files = [path for path in node.directory.rglob("*") if path.is_file() and path.name != "password"]
    return "".join(path.read_bytes().decode("latin-1") for path in files if "member" not in path.parts and "home" not in path.parts)


def test_no_secret_is_written_anywhere(lab):
    """The log goes to a pipeline, the journal to a ticket: what was typed under whatever name must be in neither."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1"})
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager:
        manager.bind(str(node.directory / "notify"))
        node.env |= secrets_everywhere(node) | {"NOTIFY_SOCKET": str(node.directory / "notify")}
        manager.settimeout(BOUND)
        start(node)
        wait_said(lab, node, "hold: ")
        node.front.stop()  # errors name what they could not reach
        wait_looks(lab, node)
        shown = [manager.recv(8192).decode()]
        for words in COMMANDS:
            done = command(lab, node, *words, MUSTER_LOG="trace")
            shown += [done.stdout, done.stderr]
        endpoint = f"http://u:hunter-endpoint@{node.address}:1/?hunter-endpoint"
        done = command(lab, node, "health", "--endpoint", endpoint, MUSTER_LOG="trace")
        shown += [done.stdout, done.stderr]
        for path in ("/readyz", "/status", "/metrics"):
            shown.append(at_socket(node, path))
        text = "".join(shown) + written(node)
    assert "hunter" not in text, re.findall(r".*hunter.*", text)[:5]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_setting_is_named_without_its_secret(lab, name):
    """A password typed under the wrong name was printed; the way out was not."""
    node = lab.add_node(launch=False)
    for words in (["run"], *COMMANDS[:4]):
        done = command(lab, node, *words, MUSTER_LOG="trace", **{name: REFUSED[name]})
        assert "hunter" not in done.stdout + done.stderr, (words, done.stdout, done.stderr)
        if words != ["env"]:
            assert done.returncode == CONFIG and name in done.stderr, done.stderr
            assert name != "MUSTER_ETCD_PASSWORD" or "did you mean MUSTER_ETCD_PASSWORD_FILE?" in done.stderr


# What EC2 says, and doesn't.


def test_an_empty_answer_about_an_instance_is_no_death(lab):
    """EC2 has a code for what is gone; a proxy's, or a stale replica's, empty set is none."""
    nodes = form(lab, 3, size=3, MUSTER_REMOVE_INTERVAL="1s", MUSTER_REMOVE_AFTER="1s")
    dead, *others = nodes
    for node in nodes:
        node.front.add(hidden_everywhere(dead.instance.id), action="DescribeInstances")
    dead.power_off()
    leader = lab.wait(lambda: next((n for n in others if n.etcd.is_leader()), None), BOUND, "a leader")
    wait_said(lab, leader, f"the state of {dead.instance.id} is unknown")
    assert len(leader.etcd.members()) == 3


def hidden_everywhere(instance: str):
    def hide(call, root):
        for item in root.findall(".//{*}reservationSet/{*}item"):
            if any(one.text == instance for one in item.findall(".//{*}instanceId")):
                root.find("{*}reservationSet").remove(item)

    return edited(hide)


def test_reconciling_with_an_empty_roster_says_so_once(lab):
    """A wrong region lists nobody: the operator who waits for the dead to be removed must see why none is."""
    (node,) = form(lab, 1, size=1, MUSTER_REMOVE_INTERVAL="300ms")
    calls = sum(node.front.calls.values())
    node.front.add(edited(lambda call, root: root.find("{*}reservationSet").clear()), action="DescribeInstances")
    wait_said(lab, node, "reconcile: no instance with etcd=1 is listed", "no member is removed")
    lab.wait(lambda: sum(node.front.calls.values()) > calls + 2, BOUND, "further looks")
    assert node.log_text().count("reconcile: no instance") == 1


def test_settings_that_endanger_data_are_said_at_the_start(lab):
    """Copied from a benchmark, they stay for years."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "ETCD_UNSAFE_NO_FSYNC": "true"})
    node.env["ETCD_STRICT_RECONFIG_CHECK"] = "false"
    start(node)
    wait_said(lab, node, "ETCD_UNSAFE_NO_FSYNC=true: ", "power cut")
    wait_said(lab, node, "ETCD_STRICT_RECONFIG_CHECK=false: ")


def test_an_empty_tag_value_is_an_error_that_says_what_to_write(lab):
    """Set and empty was silently 1: another machine than the one asked for."""
    node = lab.add_node(launch=False)
    done = command(lab, node, "discover", DOCKER_EC2VAL="")
    assert done.returncode == CONFIG and "MUSTER_TAGS='etcd='" in done.stderr
