"""What differs from release to release of etcd: the names of settings, words at an end, what a question costs. Run on each."""

from __future__ import annotations

import pytest
from fleet import BOUND, command, form, launch, leader_of, said, start, stop, tree, wait_formed, wait_said
from muster_tools.lab import install
from muster_tools.lab.watch import Watch

CONFIG = 78

pytestmark = [pytest.mark.core, pytest.mark.release]


@pytest.fixture
def release(etcd_version) -> list[int]:
    return install.number(etcd_version)


def alone(lab, cases: dict[str, dict[str, str]]) -> dict[str, object]:
    """A cluster of one for each, with these settings."""
    return {
        name: lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"one={name}", **env}, tags={"one": name})
        for name, env in cases.items()
    }


@pytest.mark.no_learners
def test_settings_that_etcd_refuses_end_the_supervisor_by_etcds_words(lab, release):
    """A supervisor that starts it again and again would hide a typo; nothing but etcd's own words tells one from another end."""
    cases = {"interval": {"ETCD_HEARTBEAT_INTERVAL": "often"}, "quota": {"ETCD_QUOTA_BACKEND_BYTES": "2GB"}}
    if release >= [3, 4]:
        cases["compaction"] = {"ETCD_AUTO_COMPACTION_RETENTION": "weird"}
        cases["token"] = {"ETCD_AUTH_TOKEN": "bad"}
        cases["level"] = {"ETCD_LOG_LEVEL": "bogus"}
    if release >= [3, 6]:
        cases["gate"] = {"ETCD_FEATURE_GATES": "NoSuchGate=true"}
        cases["persist"] = {"ETCD_FEATURE_GATES": "LeaseCheckpointPersist=true"}
        cases["v2"] = {"ETCD_V2_DEPRECATION": "not-yet"}
        cases["format"] = {"ETCD_LOG_FORMAT": "bogus"}
    nodes = alone(lab, cases)
    if release >= [3, 5, 8]:
        node = alone(lab, {"port": {}})["port"]
        node.env["ETCD_LISTEN_CLIENT_HTTP_URLS"] = node.client_url
        nodes["port"] = node
    start(*nodes.values())
    for name, node in nodes.items():
        assert node.wait_exit(BOUND) == CONFIG, f"{name}: {node.log_tail()}"
        assert said(node, "etcd refuses its settings: "), f"{name}: {node.log_tail()}"
        assert not list(node.data.glob("quarantine-*"))


@pytest.mark.no_learners
def test_a_setting_goes_by_the_name_that_this_release_has_for_it(lab, release):
    """3.7 would ignore the old name with a warning, 3.5 the new one, and 3.6 doesn't start with both."""
    old, new = "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL"
    switch = "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK"
    cases = {"old": {old: "1m"}, "new": {new: "1m"}, "both": {old: "1m", new: "1m"}, "switch": {switch: "true"}}
    nodes = alone(lab, cases)
    start(*nodes.values())
    for node in nodes.values():
        wait_formed(lab, node)
    known = {"old": release < [3, 6], "new": release >= [3, 6], "switch": release < [3, 6]}
    if release >= [3, 4]:
        for name, node in nodes.items():
            assert "unrecognized environment variable" not in node.log_text(), name
            told = said(node, "ETCD_EXPERIMENTAL_") or said(node, new)
            assert bool(told) != known.get(name, False), f"{name}: {told}"
    else:
        assert said(nodes["old"], old, "does not know this setting")
    assert stop(nodes["switch"]) == 0
    start(nodes["switch"])
    wait_formed(lab, nodes["switch"])
    assert "initial corruption check" in nodes["switch"].log_text()


@pytest.mark.no_learners
def test_the_v2_api_is_refused_where_it_is_gone(lab, release):
    """Its clients would find nothing, and it must show before anything is agreed on."""
    (node,) = launch(lab, 1, size=1, ETCD_ENABLE_V2="true")
    start(node)
    if release < [3, 6]:
        return wait_formed(lab, node)
    assert node.wait_exit(BOUND) == CONFIG
    assert said(node, "ETCD_ENABLE_V2=true", "v2")
    assert not tree(node.data / "member") and not node.etcd_pids()
    node.env["ETCD_ENABLE_V2"] = "false"
    start(node)
    wait_formed(lab, node)
    assert said(node, "ETCD_ENABLE_V2", "it has no effect")


@pytest.mark.no_learners
def test_an_etcd_that_writes_when_asked_for_its_health_is_never_asked(lab, release):
    """Each /health of 3.3 and 3.4 is an entry of the raft log, and 3.6 doesn't come up over one that holds such entries."""
    if release >= [3, 5]:
        pytest.skip("its /health only reads")
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "is healthy and votes")
    for words in (["health"], ["health", "--cluster"], ["members"], ["status"]):
        shown = command(lab, nodes[0], *words)
        assert shown.returncode == 0, shown.stdout + shown.stderr
    # At rest it asks for a read in place of it.
    before = {node: node.etcd.metric("grpc_server_handled_total") for node in nodes}
    for node in nodes:
        lab.wait(lambda: node.etcd.metric("grpc_server_handled_total") > before[node] + 1, BOUND, "a question at rest")
    leader = leader_of(lab, *nodes)
    assert stop(leader) == 0
    assert said(leader, "leadership moved")
    for node in nodes:
        if node is not leader:
            asked = [node.etcd.metric(f"etcd_server_health_{kind}") for kind in ("success", "failures")]
            assert asked == [0, 0]


def test_a_stop_with_a_watching_client_is_clean_and_short(lab):
    """3.5.16 and later wait 7 s for it, and 3.6 says four times at level error that it has ended in order."""
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    with Watch(leader.etcd, "key") as watch:
        assert stop(leader) == 0
        lab.wait(lambda: watch.ended_at, BOUND, "the watch's end")
    assert not said(leader, "etcd reported damaged data") and not leader.process.session()
    start(leader)
    wait_formed(lab, *nodes)


def test_a_cluster_answers_every_question_of_the_commands(lab, release):
    """Status, list and health of each release are read, and what only a newer one tells isn't missed."""
    nodes = form(lab, 3, size=3)
    for words in (["health", "--cluster"], ["members"], ["members", "--json"], ["status"], ["plan"]):
        shown = command(lab, nodes[0], *words)
        assert shown.returncode == 0, shown.stdout + shown.stderr
    assert ".".join(map(str, release)) in command(lab, nodes[0], "members").stdout
