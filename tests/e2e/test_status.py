"""What a node tells of itself: to an operator at night, to a health check, to Prometheus, to a log pipeline."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
from contextlib import ExitStack, suppress

import pytest
from fleet import (
    BOUND,
    command,
    complaint,
    etcd_pid,
    form,
    launch,
    leader_of,
    member_ids,
    occupied,
    put_etcd,
    replace_etcd,
    start,
    stop,
    wait_formed,
    wait_said,
)
from muster_tools.lab.ec2_faults import throttled, unauthorized

UNHEALTHY, UNAVAILABLE, CONFIG = 1, 69, 78
PORT = 2382


def listening(node) -> str:
    return f"{node.address}:{PORT}"


def ok(done):
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def socket_of(node):
    return node.data / "muster/status.sock"


class AtSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(node, path, method="GET", tcp=False):
    connection = http.client.HTTPConnection(node.address, PORT, timeout=5) if tcp else AtSocket(socket_of(node))
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type"), answer.read().decode()
    finally:
        connection.close()


def snapshot(node):
    code, kind, body = get(node, "/status")
    assert (code, kind) == (200, "application/json")
    return json.loads(body)


def readiness(node):
    """(200 or 503, what it does and why)"""
    code, _, text = get(node, "/readyz")
    return code, text.strip()


def wait_readiness(lab, node, code, words):
    def is_so():
        found = readiness(node)
        return found if found[0] == code and words in found[1] else None

    return lab.wait(is_so, BOUND, f"/readyz of {node.address}: {code} {words!r}")


# Prometheus' text format, as strictly as its grammar allows.

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:{{(.*)}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')


def parse_metrics(text):
    """{(name, labels): value}; anything Prometheus would refuse, or only shrug at, fails."""
    assert text.endswith("\n") and "\r" not in text
    kinds, helped, samples, family = {}, set(), {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in helped and re.fullmatch(NAME, family), line
            assert len(line.split(" ", 3)[3]) > 10, line
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and name not in kinds and kind in ("gauge", "counter"), line
            assert (kind == "counter") == name.endswith("_total"), line
            kinds[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found and found[1] == family and family in kinds, line
            labels, rest = {}, found[2] or ""
            while rest:
                label = LABEL.match(rest)
                assert label and label[1] not in labels, line
                labels[label[1]], rest = label[2], rest[label.end() :]
            value, key = float(found[3]), (found[1], tuple(sorted(labels.items())))
            assert key not in samples and (value >= 0 or kinds[family] == "gauge"), line
            samples[key] = value
    assert helped == set(kinds) == {name for name, _ in samples}
    return samples


def metrics(node, tcp=False):
    code, kind, body = get(node, "/metrics", tcp=tcp)
    assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return parse_metrics(body)


def value(samples, name, **labels):
    return samples[(name, tuple(sorted(labels.items())))]


# members


def members(lab, node, *arguments, code=0):
    done = command(lab, node, "members", "--json", *arguments)
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def members_led_by(lab, asked, nodes):
    """What it shows of a cluster whose leader is the same before and after."""

    def shown():
        leader = leader_of(lab, *nodes)
        found = members(lab, asked)
        return (found, leader) if leader.etcd.is_leader() else None

    return lab.wait(shown, BOUND, "a list between two elections")


def test_members_joins_etcds_list_with_ec2s_from_any_node(lab):
    """Which instance is which member, asked wherever one happens to be logged in: on a member, or on a spare."""
    nodes = form(lab, 3, size=3)
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: spare")
    ids = member_ids(nodes[0])
    for asked in (nodes[0], nodes[2], spare):
        found, leading = members_led_by(lab, asked, nodes)
        rows = {row["id"]: row for row in found["members"]}
        assert set(rows) == set(ids.values())
        for node in nodes:
            row = rows[ids[node.peer_url]]
            assert row["instance"] == row["name"] == node.instance.id and row["nameTag"] == node.directory.name
            assert row["state"] == "running" and row["zone"].startswith("eu-west-1")
            assert row["healthy"] is True and row["alarms"] == [] and row["dbSizeBytes"] > 0
            assert row["raftBehind"] >= 0 and row["role"] == ("leader" if node is leading else "voter")
        (leader,) = [row for row in rows.values() if row["role"] == "leader"]
        assert leader["raftBehind"] == 0
        assert found["notes"] == [f"tagged but not a member: {spare.instance.id} (running)"]
    head, *table = ok(command(lab, spare, "members")).splitlines()[1:]
    assert head.split()[:7] == ["INSTANCE", "STATE", "ZONE", "NAME", "MEMBER", "ROLE", "HEALTH"]
    for node in nodes:
        (row,) = [line.split() for line in table if line.startswith(node.instance.id)]
        assert row[1] == "running" and row[4] == ids[node.peer_url] and row[6] == "healthy"


def test_members_shows_etcds_part_when_aws_is_out_of_sight(lab):
    """AWS's trouble is when one looks; the cluster is still there, and what is missing is said."""
    nodes = form(lab, 3, size=3)
    fresh = lab.add_node()
    lab.fault_ec2(unauthorized())
    found, _ = members_led_by(lab, nodes[1], nodes)
    assert sorted(row["role"] for row in found["members"]) == ["leader", "voter", "voter"]
    assert {row["instance"] for row in found["members"]} == {node.instance.id for node in nodes}
    assert all(row["healthy"] and row["state"] is None and row["zone"] is None for row in found["members"])
    (note,) = found["notes"]
    assert "EC2 can't be queried" in note and "ec2:DescribeInstances" in note
    assert note in ok(command(lab, nodes[1], "members"))
    # A node without etcd knows of the others by EC2 alone, unless it is told whom to ask.
    done = command(lab, fresh, "members")
    assert done.returncode == UNAVAILABLE and "ec2:DescribeInstances" in done.stderr
    assert f"{fresh.address}:2379" in done.stderr
    told = members(lab, fresh, "--endpoint", f"http://{nodes[0].address}:2379")
    assert len(told["members"]) == 3
    # Nor does it take the metadata service.
    lab.heal_ec2()
    nodes[1].imds.fault = "no-listener"
    found = members(lab, nodes[1])
    assert len(found["members"]) == 3 and "metadata service" in found["notes"][0]


def test_members_says_who_is_silent_who_is_gone_and_who_has_an_alarm(lab):
    """The row that matters at night is the one that doesn't answer."""
    nodes = form(lab, 3, size=3, MUSTER_REMOVE="off")
    ids = member_ids(nodes[0])
    full = leader_of(lab, *nodes)
    alarm = {"action": "ACTIVATE", "memberID": str(int(ids[full.peer_url], 16)), "alarm": "NOSPACE"}
    full.etcd.post("/v3/maintenance/alarm", alarm)
    gone = next(node for node in nodes if node is not full)
    lab.terminate(gone)
    asked = next(node for node in nodes if node not in (full, gone))
    found = members(lab, asked)
    rows = {row["id"]: row for row in found["members"]}
    silent, alarmed = rows[ids[gone.peer_url]], rows[ids[full.peer_url]]
    assert (silent["role"], silent["healthy"], silent["raftBehind"]) == ("silent", None, None)
    assert silent["instance"] == gone.instance.id and silent["state"] == "terminated"
    assert alarmed["alarms"] == ["NOSPACE"] and alarmed["healthy"] is False
    notes = "\n".join(found["notes"])
    assert f"{gone.instance.id} does not answer: http://{gone.address}:2379" in notes and "refused" in notes
    assert f"{full.instance.id} is not healthy" in notes and "no leader answers" not in notes
    # With one of three the list is the peer port's own: shown, and a failure all the same.
    full.power_off()
    done = command(lab, asked, "members")
    assert done.returncode == UNAVAILABLE and "no member returns the member list" in done.stderr
    assert all(member in done.stdout for member in ids.values())
    assert "no quorum" in done.stdout and "no leader answers" in done.stdout and "alarms are unknown" in done.stdout


# status, /readyz, /livez


def test_status_without_a_supervisor_says_so(lab):
    """Neither a node that never ran nor what a killed supervisor leaves may look like one that holds."""
    (node,) = launch(lab, 1, size=1)
    assert "no supervisor answers" in complaint(command(lab, node, "status"), UNAVAILABLE)
    start(node)
    wait_readiness(lab, node, 200, "healthy")
    assert stat.S_IMODE(socket_of(node).stat().st_mode) == 0o600
    node.power_off()
    assert socket_of(node).exists()
    line = complaint(command(lab, node, "status", "--json"), UNAVAILABLE)
    assert str(socket_of(node)) in line and "refused" in line
    start(node)
    wait_readiness(lab, node, 200, "healthy")
    assert stop(node) == 0
    complaint(command(lab, node, "status"), UNAVAILABLE)


def test_status_follows_a_node_from_waiting_to_stopping(lab):
    """Ready is a healthy voter and nothing less; at every moment before and after, one line says what is awaited."""
    nodes = launch(lab, 2, size=3, MUSTER_BOOTSTRAP_GRACE="1s", MUSTER_STOP_TIMEOUT="50s")
    # What forbids a promotion here is authentication, with which a later etcd would tell its status to no stranger either.
    for founder in nodes:
        put_etcd(founder, "3.5.1")
    start(*nodes)
    wait_formed(lab, *nodes)
    node = lab.add_node()
    put_etcd(node, "3.5.1")
    node.front.add(throttled())
    # etcd only starts once promotion is forbidden: a learner's time is otherwise over in a blink.
    gate = node.directory / "gate"
    replace_etcd(node, f"until [ -e {gate} ]; do sleep 0.05; done\nexec $ETCD \"$@\"")
    start(node)
    wait_readiness(lab, node, 503, "hold: EC2 can't be queried")
    done = command(lab, node, "status")
    assert done.returncode == UNHEALTHY and "ready      no" in done.stdout and "RequestLimitExceeded" in done.stdout
    assert get(node, "/livez")[0] == 200
    assert snapshot(node)["kind"] == "roster_unknown"
    node.front.clear()
    wait_readiness(lab, node, 503, "run: etcd runs as process")
    token = forbid_membership_changes(nodes[0])
    gate.touch()
    wait_readiness(lab, node, 503, "is a learner")
    done = command(lab, node, "status", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == UNHEALTHY and found["kind"] == found["etcd"]["role"] == found["asked"]["role"] == "learner"
    allow_membership_changes(nodes[0], token)
    wait_readiness(lab, node, 200, "healthy and votes")
    done = command(lab, node, "status", "--json")
    found = json.loads(ok(done))
    assert found["ready"] is True and found["identity"]["instance"] == node.instance.id
    assert found["etcd"]["member"] == node.etcd.member_id() and found["etcd"]["cluster"] == node.etcd.cluster_id()
    assert found["etcd"]["pid"] == etcd_pid(node) and found["asked"]["healthy"] is True
    kinds = [(entry["step"], entry["kind"]) for entry in found["decisions"]]
    awaited = [("hold", "roster_unknown"), ("add_self", ""), ("start_existing", ""), ("run", "starting")]
    awaited += [("run", "learner"), ("run", "healthy")]
    # An election in between says one again.
    assert list(dict.fromkeys(kind for kind in kinds if kind in awaited)) == awaited
    stamps = [entry["at"] for entry in found["decisions"]]
    assert stamps == sorted(stamps) and all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at) for at in stamps)
    screen = ok(command(lab, node, "status"))
    assert "ready      yes" in screen and len(screen.splitlines()) <= 24
    assert re.search(rf"{found['etcd']['member']} of cluster {found['etcd']['cluster']}, (voter|leader), healthy", screen)
    # etcd can't stop while it is stopped: what a slow stop looks like.
    pid = etcd_pid(node)
    os.kill(pid, signal.SIGSTOP)
    node.kill(signal.SIGTERM)
    wait_readiness(lab, node, 503, "stop: ")
    assert get(node, "/livez")[0] == 200
    os.kill(pid, signal.SIGCONT)
    assert node.wait_exit(BOUND) == 0


def forbid_membership_changes(node) -> str:
    """With authentication on, only root may promote; a token of root's."""
    for path, body in (
        ("user/add", {"name": "root", "password": "root"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
    ):
        node.etcd.post(f"/v3/auth/{path}", body)
    node.etcd.post("/v3/auth/enable", {})
    return node.etcd.post("/v3/auth/authenticate", {"name": "root", "password": "root"})["token"]


def allow_membership_changes(node, token: str) -> None:
    connection = http.client.HTTPConnection(node.address, 2379, timeout=5)
    connection.request("POST", "/v3/auth/disable", "{}", {"Authorization": token})
    assert connection.getresponse().status == 200


def test_ready_ends_when_etcd_no_longer_serves(lab):
    """A member that lost its quorum, or its process, gets no more clients sent."""
    nodes = form(lab, 3, size=3)
    wait_readiness(lab, nodes[0], 200, "healthy")
    for other in nodes[1:]:
        other.power_off()
    # Asked for every ten seconds, so that is what it takes.
    wait_readiness(lab, nodes[0], 503, "run: ")
    assert command(lab, nodes[0], "status").returncode == UNHEALTHY
    start(*nodes[1:])
    wait_readiness(lab, nodes[0], 200, "healthy")


def test_status_is_there_before_the_metadata_service_is(lab):
    """The first thing that can go wrong must show as well as the last."""
    (node,) = launch(lab, 1, size=1)
    node.imds.fault = "no-listener"
    start(node)
    lab.wait(lambda: readiness(node)[1].startswith("hold: "), BOUND, "a hold for want of an identity")
    found = snapshot(node)
    assert found["identity"] is None and found["kind"] == "identity_unknown" and "metadata" in found["reason"]
    assert value(metrics(node), "etcd_muster_api_errors_total", service="imds") >= 1
    node.imds.fault = None
    wait_readiness(lab, node, 200, "healthy")
    assert snapshot(node)["identity"]["instance"] == node.instance.id


# The listener.


def test_the_listener_serves_gets_of_four_paths_and_nothing_else(lab):
    """It is for machines that only look; the roll call has a port of its own."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1"})
    node.env["MUSTER_STATUS_LISTEN"] = listening(node)
    start(node)
    wait_readiness(lab, node, 200, "healthy")
    for path in ("/livez", "/readyz", "/metrics", "/status"):
        assert get(node, path, tcp=True)[0] == 200
        for method in ("POST", "PUT", "DELETE", "HEAD"):
            assert get(node, path, method, tcp=True)[0] == 405, (method, path)
    for path in ("/", "/muster/v1/hello", "/muster/v1/call", "/metrics/x", "/health"):
        assert get(node, path, tcp=True)[0] == 404, path
    assert node.etcd.request("GET", "/status", 2380)[0] == 404


def test_callers_that_stall_hold_up_neither_etcd_nor_each_other_for_long(lab):
    """Whoever reaches the port can open connections; that is all they can do."""
    (node,) = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1"})]
    node.env["MUSTER_STATUS_LISTEN"] = listening(node)
    start(node)
    wait_readiness(lab, node, 200, "healthy")
    with ExitStack() as stalled:
        for _ in range(40):
            stalled.enter_context(socket.create_connection((node.address, PORT)))
        assert command(lab, node, "status").returncode == 0  # the socket is another listener
        node.etcd.put("key", "value")
        lab.wait(lambda: get(node, "/livez", tcp=True)[0] == 200, BOUND, "an answer behind those that stall")
    with socket.create_connection((node.address, PORT)) as rude, suppress(OSError):
        rude.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"x" * (1 << 20))
    lab.wait(lambda: get(node, "/livez", tcp=True)[0] == 200, BOUND, "an answer after an endless header")
    assert node.etcd.get("key") == "value" and node.process.exit_code() is None


def test_a_port_in_use_is_waited_for_while_etcd_serves(lab):
    """Metrics are worth less than the cluster: it forms without them, and they come when the port is free."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1"})
    node.env["MUSTER_STATUS_LISTEN"] = listening(node)
    with occupied(node.address, PORT):
        start(node)
        wait_formed(lab, node)
        line = wait_said(lab, node, f"MUSTER_STATUS_LISTEN={listening(node)}", "retrying")
        assert "in use" in line
        wait_readiness(lab, node, 200, "healthy")
    lab.wait(lambda: get(node, "/readyz", tcp=True)[0] == 200, BOUND, "the listener once the port is free")


@pytest.mark.parametrize("listen", ["2382", "localhost:2382", "127.0.0.1:0", "127.0.0.1:2379", "[::1]:2380"])
def test_an_address_that_is_none_or_etcds_is_a_config_error(lab, listen):
    """A listener on etcd's own port would keep etcd down."""
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "run", MUSTER_STATUS_LISTEN=listen), CONFIG)
    assert f"MUSTER_STATUS_LISTEN={listen}: " in line
    assert f"MUSTER_STATUS_LISTEN={listen}: " in complaint(command(lab, node, "--status-listen", listen, "plan"), CONFIG)


# /metrics


def test_metrics_are_prometheus_text_and_count_what_happens(lab):
    """The figures are the world's own: calls as EC2 and the metadata service count them, restarts as they happen."""
    nodes = launch(lab, 3, size=3)
    nodes[0].env["MUSTER_STATUS_LISTEN"] = listening(nodes[0])
    start(nodes[0])
    wait_readiness(lab, nodes[0], 503, "hold: ")
    waiting = metrics(nodes[0], tcp=True)
    assert value(waiting, "etcd_muster_ready") == value(waiting, "etcd_muster_etcd_up") == 0
    ((_, labels),) = [key for key in waiting if key[0] == "etcd_muster_step"]
    assert dict(labels)["step"] == "hold" and dict(labels)["reason"]
    assert not any(name == "etcd_muster_members" for name, _ in waiting)
    nodes[0].front.add(throttled(), calls=1)
    erred = lab.wait(lambda: with_an_error(nodes[0]), BOUND, "a counted error")
    # It asks again after a pause, in which the others could found without it.
    holds = lambda page: value(page, "etcd_muster_decisions_total", step="hold")
    lab.wait(lambda: holds(metrics(nodes[0])) > holds(erred), BOUND, "another look")
    start(*nodes[1:])
    wait_formed(lab, *nodes)
    wait_readiness(lab, nodes[0], 200, "healthy")
    formed = lab.wait(lambda: with_members(nodes[0]), BOUND, "the members counted")
    assert value(formed, "etcd_muster_members", state="voter") == 3
    assert value(formed, "etcd_muster_members", state="learner") == 0
    assert value(formed, "etcd_muster_members", state="unstarted") == 0
    assert value(formed, "etcd_muster_ready") == value(formed, "etcd_muster_etcd_up") == 1
    assert value(formed, "etcd_muster_step", step="run", reason="healthy") == 1
    assert value(formed, "etcd_muster_build_info", version=version_of(lab, nodes[0])) == 1
    assert value(formed, "etcd_muster_api_calls_total", service="ec2") == sum(nodes[0].front.calls.values())
    assert value(formed, "etcd_muster_api_calls_total", service="imds") == sum(nodes[0].imds.requests.values())
    assert value(formed, "etcd_muster_decisions_total", step="hold") > value(
        waiting, "etcd_muster_decisions_total", step="hold"
    )
    assert value(formed, "etcd_muster_decisions_total", step="start_new") == 1
    assert value(formed, "etcd_muster_etcd_restarts_total") == 0
    assert value(formed, "process_start_time_seconds") == value(waiting, "process_start_time_seconds")
    assert value(formed, "etcd_muster_seconds_since_healthy") < value(
        formed, "etcd_muster_step_start_time_seconds"
    )  # an age, not a date
    os.kill(etcd_pid(nodes[0]), signal.SIGKILL)
    lab.wait(lambda: value(metrics(nodes[0]), "etcd_muster_etcd_restarts_total") == 1, BOUND, "the death seen")
    lab.wait(lambda: value(metrics(nodes[0]), "etcd_muster_ready") == 1, BOUND, "the next life")
    after = metrics(nodes[0])
    assert value(after, "etcd_muster_etcd_restarts_total") == 1
    assert value(after, "etcd_muster_decisions_total", step="resume") == 1
    ended = [entry for entry in snapshot(nodes[0])["decisions"] if entry["kind"] == "etcd_ended"]
    assert len(ended) == 1 and "signal 9" in ended[0]["reason"]


def with_an_error(node):
    found = metrics(node)
    return found if value(found, "etcd_muster_api_errors_total", service="ec2") == 1 else None


def with_members(node):
    found = metrics(node)
    return found if any(name == "etcd_muster_members" for name, _ in found) else None


def version_of(lab, node) -> str:
    return ok(command(lab, node, "--version")).split()[1]


def test_looking_costs_nobody_a_question(lab):
    """A scrape every second must not be a call to EC2 every second."""
    (node,) = form(lab, 1, size=1)
    wait_readiness(lab, node, 200, "healthy")
    lab.wait(lambda: with_members(node), BOUND, "the last of the first questions")

    def asked():
        return sum(node.front.calls.values()), sum(node.imds.requests.values()), grpc_calls(node)

    before = asked()
    for _ in range(100):
        metrics(node)
        snapshot(node)
        readiness(node)
    after = asked()
    assert after[:2] == before[:2]
    assert after[2] - before[2] <= 2  # what the supervisor asks anyhow, should it be time for that


def grpc_calls(node) -> float:
    """Calls that this etcd has answered through its gateway, by its own count."""
    text = node.etcd.request("GET", "/metrics", 2379)[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("grpc_server_handled_total"))


# Logs and the service manager.


STANDARD = {"level", "ts", "logger", "caller", "msg"}
FIELDS = {"step", "reason", "member", "cluster", "pid"}  # ours, beside the message: a log is filtered by them


def test_json_logs_have_the_shape_of_etcds(lab):
    """One pipeline reads both: each line of the container's log is an object with a level, a time and a message; but for
    what etcd's gRPC library writes past etcd's own log."""
    (node,) = launch(lab, 1, size=1, MUSTER_LOG_FORMAT="json")
    start(node)
    wait_readiness(lab, node, 200, "healthy")
    os.kill(etcd_pid(node), signal.SIGKILL)
    lab.wait(lambda: node.log_text().count('"etcd runs as process') == 2, BOUND, "another life")
    wait_readiness(lab, node, 200, "healthy")
    assert stop(node) == 0
    entries = [json.loads(line) for line in node.log_text().splitlines() if " [core] grpc: " not in line]
    ours = [entry for entry in entries if entry.get("logger") == "etcd-muster"]
    theirs = [entry for entry in entries if entry not in ours]
    assert len(ours) > 10 and len(theirs) > 10
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    for entry in ours:
        assert list(entry)[:5] == ["level", "ts", "logger", "caller", "msg"] and set(entry) - STANDARD <= FIELDS
        assert entry["level"] in ("debug", "info", "warn", "error") and stamp.fullmatch(entry["ts"])
        assert re.fullmatch(r"[\w/]+\.rs:\d+", entry["caller"]) and entry["msg"]
    assert {"debug", "info", "warn"} <= {entry["level"] for entry in ours}
    assert {"step", "member", "pid"} <= {field for entry in ours for field in entry}
    for entry in theirs:
        assert entry["level"] in ("debug", "info", "warn", "error", "fatal") and {"ts", "caller", "msg"} <= set(entry)
    # The first few, from before etcd has set up its log, have a number for a time. 3.6 gives microseconds, 3.5 milliseconds.
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z")
    assert sum(bool(stamp.fullmatch(str(entry["ts"]))) for entry in theirs) > len(theirs) / 2


def test_the_last_line_of_a_run_is_json_too(lab):
    """Why a container keeps dying is the line one most wants to find."""
    node = lab.add_node(launch=False)
    done = command(lab, node, "run", MUSTER_LOG_FORMAT="json", MUSTER_CLUSTER_SIZE="many")
    assert done.returncode == CONFIG
    (entry,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert entry["level"] == "error" and "MUSTER_CLUSTER_SIZE=many" in entry["msg"]
    # A command speaks to whoever typed it.
    assert "MUSTER_CLUSTER_SIZE=many" in complaint(
        command(lab, node, "plan", MUSTER_LOG_FORMAT="json", MUSTER_CLUSTER_SIZE="many"), CONFIG
    )
    line = complaint(command(lab, node, "run", MUSTER_LOG_FORMAT="yaml"), CONFIG)
    assert "MUSTER_LOG_FORMAT=yaml" in line and "text, json" in line


def test_the_service_manager_is_told_of_every_turn(lab):
    """systemctl status shows what is awaited; what is ordered after this unit starts when etcd votes."""
    (node,) = launch(lab, 1, size=1)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told = []
    with manager:
        manager.bind(str(node.directory / "notify"))
        manager.setblocking(False)

        def heard(beginning):
            with suppress(BlockingIOError):
                while True:
                    told.append(manager.recv(4096).decode())
            return any(message.startswith(beginning) for message in told)

        node.env["NOTIFY_SOCKET"] = str(node.directory / "notify")
        node.front.add(throttled())
        start(node)
        lab.wait(lambda: heard("STATUS=hold: EC2 can't be queried"), BOUND, "STATUS")
        assert not heard("READY=1")
        node.front.clear()
        lab.wait(lambda: heard("READY=1"), BOUND, "READY=1")
        assert node.etcd_pids() and readiness(node)[0] == 200
        assert heard(f"STATUS=member {node.etcd.member_id()} is healthy and votes")
        assert not heard("STOPPING=1")
        assert stop(node) == 0
        assert heard("STOPPING=1")
