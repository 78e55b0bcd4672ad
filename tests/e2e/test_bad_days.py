"""Bad input and bad days: each says what is wrong, its value and the way out, ends as it should, and loses nothing."""

import os
from datetime import timedelta

import pytest
from fleet import (
    BOUND,
    command,
    complaint,
    etcd_pid,
    form,
    goes_on_answering,
    launch,
    lines,
    looks,
    occupied,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.ec2_faults import (
    cut,
    dropped,
    edited,
    hanging,
    malformed,
    refused,
    repeating_page,
    skewed_clock,
    throttled,
    truncated,
    unauthorized,
    unavailable,
)
from muster_tools.lab.etcd import CLIENT_PORT, PEER_PORT
from muster_tools.lab.imds import ROLES_PATH
from muster_tools.lab.instance import ROLE, Credentials

# The exit codes of src/exit.rs.
STATE_UNREADABLE, UNAVAILABLE, ETCD_MISSING, UNWRITABLE, DENIED, CONFIG = 65, 69, 72, 73, 77, 78


def no_etcd(node) -> bool:
    return not node.etcd_pids() and not said(node, "etcd runs as process")


# Settings.


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MUSTER_BOOTSTRAP_ALONE", "maybe", "yes"),
        ("ETCD_MEMBER_TYPE", "dns", "host, ip"),
        ("MUSTER_REMOVE", "all", "gone"),
        ("MUSTER_LOG", "loud", "debug"),
        ("CLNT_SCHEMA", "ftp", "http"),
        ("MUSTER_CLUSTER_SIZE", "three", "number"),
        ("MUSTER_CLUSTER_SIZE", "0", "from 1"),
        ("MUSTER_BOOTSTRAP_GRACE", "soon", "30s"),
        ("BOOTSTRAP_WAIT", "-1", "5m"),
        ("CLNT_PORT", "70000", "65535"),
        ("PEER_PORT", "0", "65535"),
        ("PEER_PORT", "2379", "CLNT_PORT"),
        ("MUSTER_TAGS", "=1", "no key"),
        ("MUSTER_TAGS", "etcd", "key=value"),
        ("ETCD_INITIAL_CLUSTER_STATE", "new", "unset"),
        ("ETCD_FORCE_NEW_CLUSTER", "true", "by hand"),
        ("AWS_ENDPOINT_URL_EC2", "localhost:5000", "http://host:port"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_way_out(lab, variable, value, words):
    """A typo found at the start costs a minute; one that is taken for a default costs a cluster."""
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "run", **{variable: value}), CONFIG)
    assert f"{variable}={value}" in line and words in line
    assert not tree(node.data, node.wal)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MUSTER_CLUSTER_SIZ", "3", "did you mean MUSTER_CLUSTER_SIZE?"),
        ("MUSTER_FUOND_ALONE", "yes", "did you mean MUSTER_BOOTSTRAP_ALONE?"),
        ("ETCD_OPTS", "snapshot-count", "word 1 is not of the form --flag=value"),
    ],
)
def test_a_wrong_setting_whose_value_may_be_a_secret_is_named_without_it(lab, variable, value, words):
    """Under a name that nobody knows a value may be a password, and so may a word that was meant for etcd."""
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "run", **{variable: value}), CONFIG)
    assert variable in line and words in line and f"={value}" not in line and f" {value}" not in line
    assert not tree(node.data, node.wal)


def test_a_tag_without_a_key_is_refused(lab):
    """DOCKER_EC2TAG left empty in a template: the default is not what was meant to be found by an empty key."""
    node = lab.add_node(launch=False)
    assert "MUSTER_TAGS" in complaint(command(lab, node, "discover", MUSTER_TAGS="=prod"), CONFIG)


def test_all_wrong_settings_are_reported_together(lab):
    """Three typos are one round of corrections, not three."""
    node = lab.add_node(launch=False)
    wrong = {"CLNT_PORT": "http", "MUSTER_CLUSTER_SIZE": "many", "BOOTSTRAP_WAIT": "x"}
    done = command(lab, node, "run", **wrong)
    assert done.returncode == CONFIG and done.stdout == ""
    spoken = done.stderr.splitlines()
    assert len(spoken) == 3 and all(line.startswith("etcd-muster: ") for line in spoken)
    assert all(any(f"{name}={value}: " in line for line in spoken) for name, value in wrong.items())


def test_settings_of_the_original_that_do_nothing_are_reported_once(lab):
    """An old unit file keeps working, and says what can go."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "DOCKER_SOCKET": "/var/run/docker.sock"})
    start(node)
    wait_formed(lab, node)
    assert len([line for line in lines(node) if "DOCKER_SOCKET is no longer needed" in line]) == 1


def test_tls_that_was_asked_for_is_never_answered_with_plain(lab):
    """Certificates in place and no encryption would be the worst of both."""
    node = lab.add_node(launch=False)
    (node.ssl / "peer.crt").write_text("a certificate")
    assert str(node.ssl / "peer.crt") in complaint(command(lab, node, "run"), CONFIG)


def test_a_setting_that_etcd_refuses_ends_with_its_line_and_touches_no_data(lab):
    """A restart loop over a typo helps nobody, and a wipe after so many exits is how clusters were lost."""
    nodes = form(lab, 3, size=3)
    nodes[0].etcd.put("key", "value")
    assert stop(nodes[0]) == 0
    held = tree(nodes[0].data / "member", nodes[0].wal)
    nodes[0].env["ETCD_HEARTBEAT_INTERVAL"] = "often"
    start(nodes[0])
    assert nodes[0].wait_exit(BOUND) == CONFIG
    last = lines(nodes[0])[-1]
    assert "ETCD_HEARTBEAT_INTERVAL" in last and "often" in last
    assert tree(nodes[0].data / "member", nodes[0].wal) == held
    del nodes[0].env["ETCD_HEARTBEAT_INTERVAL"]
    start(nodes[0])
    wait_formed(lab, *nodes)


def test_a_first_start_that_etcd_refused_goes_on_once_the_setting_is_right(lab):
    """The typo is in the very first configuration of the fleet: mending it must be all there is to do."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")  # none is founded without
    for node in nodes:
        node.env["ETCD_HEARTBEAT_INTERVAL"] = "often"
    start(*nodes)
    for node in nodes:
        assert node.wait_exit(BOUND) == CONFIG
        del node.env["ETCD_HEARTBEAT_INTERVAL"]
    start(*nodes)
    wait_formed(lab, *nodes)


def test_a_name_that_another_instance_has_is_halted_on(lab):
    """ETCD_NAME in a shared template: the new node must not take its neighbour for its own lost disk and remove it."""
    nodes = form(lab, 2, size=3, MUSTER_BOOTSTRAP_GRACE="1s")
    named = nodes[0].instance.id
    third = lab.add_node(env={"ETCD_NAME": named})
    start(third)
    reason = wait_said(lab, third, "halt: ", f"ETCD_NAME={named}")
    assert nodes[0].peer_url in reason and "unset ETCD_NAME" in reason
    goes_on_answering(lab, third)
    wait_formed(lab, *nodes)
    assert not third.etcd_pids()


# The machine.


def test_a_missing_etcd_is_named(lab):
    """The image lacks the one thing it is for: say where it was looked for."""
    node = lab.add_node(launch=False, env={"PATH": "/nowhere"})
    (node.home / "bin" / "etcd").unlink()
    line = complaint(command(lab, node, "run"), ETCD_MISSING)
    assert str(node.home / "bin" / "etcd") in line and "PATH" in line and "ED_HOME" in line


def test_an_etcd_that_is_not_executable_is_named(lab):
    """COPY without --chmod: one word mends it."""
    node = lab.add_node(launch=False, env={"PATH": "/nowhere"})
    program = node.home / "bin" / "etcd"
    program.unlink()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    line = complaint(command(lab, node, "run"), ETCD_MISSING)
    assert str(program) in line and "chmod +x" in line


def test_an_etcd_of_another_architecture_is_named(lab):
    """An arm64 binary in an x86 image: the kernel's own word, and which file."""
    node = lab.add_node()
    program = node.home / "bin" / "etcd"
    program.unlink()
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64))
    program.chmod(0o755)
    line = complaint(command(lab, node, "run"), ETCD_MISSING)
    assert str(program) in line and "Exec format error" in line


def test_a_file_in_place_of_the_data_directory_is_named(lab):
    """A mount that went wrong: nothing is started, the path and the variable are named."""
    node = lab.add_node(launch=False)
    node.data.rmdir()
    node.data.write_text("not a directory")
    line = complaint(command(lab, node, "run"), UNWRITABLE)
    assert str(node.data) in line and "ED_DATA" in line
    assert node.data.read_text() == "not a directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights")
def test_a_data_directory_of_another_user_is_named(lab, tmp_path):
    """A volume owned by root under a user's container: who may write is half of the answer."""
    node = lab.add_node(launch=False)
    lab.directory.chmod(0o755)
    wrapper = lab.directory / "as-nobody"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    lab.muster = wrapper
    line = complaint(command(lab, node, "run"), UNWRITABLE)
    assert str(node.data) in line and "uid 65534" in line and "ED_DATA" in line


def test_a_torn_state_file_is_named_and_kept(lab):
    """It holds promises made to other nodes: starting over it could make a second cluster."""
    node = lab.add_node(launch=False)
    (node.data / "muster").mkdir()
    ledger = node.data / "muster" / "ledger.json"
    ledger.write_text('{"nonce": 1')
    line = complaint(command(lab, node, "run"), STATE_UNREADABLE)
    assert str(ledger) in line and "restore it" in line
    assert ledger.read_text() == '{"nonce": 1'


def test_a_peer_port_in_use_is_waited_for(lab):
    """A leftover etcd on 2380: named, and taken as soon as it is free."""
    (node,) = launch(lab, 1, size=1)
    with occupied(node.address, PEER_PORT):
        start(node)
        reason = wait_said(lab, node, "hold: ", f"{node.address}:{PEER_PORT}")
        assert "PEER_PORT" in reason and "stop the program that uses" in reason
        assert no_etcd(node)
    wait_formed(lab, node)


def test_a_client_port_in_use_is_waited_for_and_no_data_is_lost(lab):
    """etcd itself fails then, again and again; the data it may have begun is not the cause."""
    nodes = form(lab, 3, size=3)
    assert stop(nodes[0]) == 0
    with occupied(nodes[0].address, CLIENT_PORT):
        start(nodes[0])
        wait_said(lab, nodes[0], "etcd exited with 1")
        lab.wait(lambda: "address already in use" in nodes[0].log_text(), BOUND, "etcd's own word")
    wait_formed(lab, *nodes)
    assert not list(nodes[0].data.glob("quarantine-*"))


def test_a_client_port_in_use_at_the_first_start_is_got_over(lab):
    """The same before there is any data: the founding goes on when the port is free."""
    (node,) = launch(lab, 1, size=1)
    with occupied(node.address, CLIENT_PORT):
        start(node)
        wait_said(lab, node, "etcd exited with 1")
    wait_formed(lab, node)


# The metadata service.


METADATA_TROUBLE = {
    "no-listener": ["metadata service does not answer", "connection refused", "AWS_EC2_METADATA_SERVICE_ENDPOINT"],
    "silent": ["PUT", "HttpPutResponseHopLimit", "--network host"],
    "disabled": ["403", "--http-endpoint enabled"],
    "no-role": ["no IAM role", "ec2:DescribeInstances"],
    "creds-code-failed": [ROLE, "AssumeRoleUnauthorizedAccess", "trust policy"],
}


def test_metadata_trouble_is_named_and_waited_out(lab):
    """The first line a new user sees on a wrongly set up instance decides whether he stays."""
    nodes = launch(lab, len(METADATA_TROUBLE))
    for node, fault in zip(nodes, METADATA_TROUBLE):
        node.imds.fault = fault
    start(*nodes)
    for node, words in zip(nodes, METADATA_TROUBLE.values()):
        wait_said(lab, node, "hold: ", *words)
    assert all(no_etcd(node) for node in nodes)
    for node in nodes:
        node.imds.fault = None
    wait_formed(lab, *nodes)


@pytest.mark.parametrize(("fault", "code"), [("no-listener", UNAVAILABLE), ("no-role", DENIED)])
def test_a_command_without_metadata_ends_with_that_line(lab, fault, code):
    """A script that calls it must see more than an empty list."""
    (node,) = launch(lab, 1)
    node.imds.fault = fault
    line = complaint(command(lab, node, "discover"), code)
    assert METADATA_TROUBLE[fault][0] in line


def test_a_session_token_of_the_metadata_service_is_renewed(lab):
    """The service restarts and forgets its tokens: one more PUT, not a failure."""
    (node,) = launch(lab, 1, size=1)
    node.imds.fault = "token-rejected-once"
    done = command(lab, node, "discover")
    assert done.returncode == 0, done.stderr
    assert node.imds.requests["/latest/api/token"] == 2


# EC2 refuses.


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
def test_a_missing_right_prints_the_policy_that_grants_it(lab, code):
    """Nobody knows IAM by heart: what to paste is in the line."""
    (node,) = launch(lab, 1, size=1)
    if code == "AccessDenied":
        lab.ec2.set_role_actions("s3:GetObject")  # moto's own refusal
    else:
        node.front.add(unauthorized())
    line = complaint(command(lab, node, "discover"), DENIED)
    assert code in line and '"Action":"ec2:DescribeInstances"' in line and '"Effect":"Allow"' in line
    start(node)
    assert '"Action":"ec2:DescribeInstances"' in wait_said(lab, node, "hold: EC2 can't be queried", code)
    assert no_etcd(node)
    node.front.clear()
    lab.ec2.set_role_actions("ec2:DescribeInstances")
    wait_formed(lab, node)


def test_a_wrong_secret_is_refused_and_never_shown(lab):
    """The line says what to check, and the log is no place for a secret."""
    (node,) = launch(lab, 1, size=1)
    real = lab.ec2.role_credentials()
    node.imds.rotate_credentials(Credentials(real.access_key_id, "hunter2hunter2", real.token, real.expiration))
    line = complaint(command(lab, node, "discover"), DENIED)
    assert "AuthFailure" in line and "secret" in line
    start(node)
    wait_said(lab, node, "hold: EC2 can't be queried", "AuthFailure")
    assert "hunter2" not in node.log_text() + line and real.token not in node.log_text()
    node.imds.rotate_credentials()
    wait_formed(lab, node)


def test_a_key_without_its_secret_is_named(lab):
    """Half of a pair is a mistake, not a reason to look elsewhere."""
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "discover", AWS_ACCESS_KEY_ID="AKIAEXAMPLE"), CONFIG)
    assert "AWS_SECRET_ACCESS_KEY" in line and "AWS_ACCESS_KEY_ID" in line


def test_an_expired_token_is_renewed(lab):
    """Sessions end; the next call has new credentials without anybody noticing."""
    (node,) = launch(lab, 1, size=1)
    node.front.add(refused(400, "ExpiredToken", "The provided token has expired."), calls=1)
    done = command(lab, node, "discover")
    assert done.returncode == 0, done.stderr
    assert node.front.calls["DescribeInstances"] == 2 and node.imds.requests[ROLES_PATH + ROLE] == 2


def test_credentials_past_their_expiration_are_fetched_again(lab):
    """What is about to expire is never relied on for a second call."""
    node, other = launch(lab, 2, size=3)
    node.imds.fault = "expired-credentials"
    start(node)
    wait_looks(lab, node, more=5)
    calls = node.front.calls["DescribeInstances"]  # read first: each follows its own credentials
    assert node.imds.requests[ROLES_PATH + ROLE] >= calls >= 1


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_off_is_worked_around(lab, hours):
    """An instance without NTP still finds its peers: signed again by EC2's own clock, once."""
    (node,) = launch(lab, 1, size=1)
    node.front.add(skewed_clock(timedelta(hours=hours)))
    done = command(lab, node, "discover")
    assert done.returncode == 0 and node.instance.id in done.stdout, done.stderr
    assert node.front.calls["DescribeInstances"] == 2
    start(node)
    wait_formed(lab, node)


def test_throttling_is_backed_off_from(lab):
    """A fleet that hammers a throttled API keeps it throttled."""
    (node,) = launch(lab, 1, size=1)
    node.front.add(throttled())
    start(node)
    line = wait_said(lab, node, "hold: EC2 can't be queried", "RequestLimitExceeded")
    assert "503" in line
    wait_looks(lab, node, more=1)
    assert node.front.calls["DescribeInstances"] <= 3 * (looks(node) + 1)
    assert no_etcd(node)
    node.front.clear()
    wait_formed(lab, node)


# EC2 answers with damage.


DAMAGES = [
    (malformed, "malformed XML"),
    (truncated, "XML"),  # malformed, where the end falls into a tag
    (cut, "http://"),
    (repeating_page, "repeats the page token"),
    (unavailable, "<html>"),
    (dropped, "closed without an answer"),
]


def test_a_damaged_answer_is_named_and_never_read_as_a_short_fleet(lab):
    """Half a listing looks like a smaller fleet; founding on it would be founding on an error."""
    nodes = launch(lab, len(DAMAGES), MUSTER_BOOTSTRAP_GRACE="1s")
    for node, (fault, _) in zip(nodes, DAMAGES):
        node.front.add(fault())
    start(*nodes)
    for node, (_, words) in zip(nodes, DAMAGES):
        wait_said(lab, node, "hold: EC2 can't be queried: ", words)
    assert all(no_etcd(node) for node in nodes)
    lab.heal_ec2()
    wait_formed(lab, *nodes)


def test_an_answer_that_never_comes_is_named(lab):
    """A hung connection must not hang the node's words: a probe and a stop still work."""
    (node,) = launch(lab, 1, size=1)
    node.front.add(hanging())
    start(node)
    lab.wait(lambda: node.front.calls["DescribeInstances"] >= 1, BOUND, "a call that hangs")
    assert lab.wait(lambda: node.etcd.request("GET", "/members", PEER_PORT)[0] in (404, 503), BOUND, "an answer")
    assert stop(node) == 0


def test_an_instance_without_a_private_address_is_named_and_waited_for(lab):
    """Just launched, EC2 shows no address yet: it can't be listed, and it must not be left out in silence."""
    *present, newborn = launch(lab, 3, size=3)

    def no_address(call, root):
        for item in root.iterfind(".//{*}instancesSet/{*}item"):
            if item.findtext("{*}instanceId") == newborn.instance.id:
                for name in ("privateIpAddress", "networkInterfaceSet"):
                    for element in item.findall(f"{{*}}{name}"):
                        item.remove(element)

    lab.fault_ec2(edited(no_address))
    start(*present)
    lab.wait(
        lambda: any(said(node, f"hold: {newborn.instance.id} has no usable private address") for node in present),
        BOUND,
        "a hold that names it",
    )
    wait_looks(lab, *present)
    assert all(no_etcd(node) for node in present)
    lab.heal_ec2()
    start(newborn)
    wait_formed(lab, *present, newborn)


def test_an_instance_outside_the_filter_is_told_its_own_tags(lab):
    """A tag that is missing or misspelt: what it has beside what is asked for shows the difference."""
    nodes = launch(lab, 2)
    stray = nodes[0].instance.id
    lab.ec2.set_tags(stray, {"etcd": None, "Etcd": "1"})
    start(*nodes)
    line = wait_said(lab, nodes[0], "hold: this instance does not match the filter etcd=1")
    assert "Etcd=1" in line and "MUSTER_TAGS" in line
    wait_looks(lab, *nodes)
    assert all(no_etcd(node) for node in nodes)
    lab.ec2.set_tags(stray, {"etcd": "1"})
    wait_formed(lab, *nodes)


def test_too_few_instances_are_counted_and_waited_for(lab):
    """One of two is up: it says how many there are and how many it wants."""
    (node,) = launch(lab, 1, size=3)
    start(node)
    line = wait_said(lab, node, "hold: too few instances are tagged (or listed): 1, MUSTER_MIN_NODES requires 2")
    assert "MUSTER_MIN_NODES" in line
    wait_looks(lab, node)
    assert no_etcd(node)


# A cluster that runs.


def test_no_discovery_error_stops_a_running_etcd_nor_keeps_one_from_coming_back(lab):
    """EC2's bad day must not become etcd's: what runs goes on, and what restarts comes back."""
    nodes = form(lab, 3, size=3)
    restarted, *untouched = nodes
    pids = [etcd_pid(node) for node in untouched]
    for fault, metadata in (
        (throttled, None),
        (truncated, None),
        (unauthorized, "disabled"),
        (dropped, "creds-code-failed"),
        (repeating_page, "no-listener"),
    ):
        lab.heal_ec2()
        lab.fault_ec2(fault())
        for node in nodes:
            node.imds.fault = metadata
        assert stop(restarted) == 0
        start(restarted)
        wait_formed(lab, *nodes)
        assert [etcd_pid(node) for node in untouched] == pids
