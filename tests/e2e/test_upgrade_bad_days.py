"""The way between releases when it is not walked as the guide says: no acknowledged write is lost, and a way out is named."""

import os
import signal
import subprocess

from fleet import (
    BOUND,
    command,
    launch,
    lines,
    mark,
    member_ids,
    put_etcd,
    replace_etcd,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab import install
from muster_tools.lab.instance import REGION
from muster_tools.lab.node import static_list_arguments
from test_disks import Writing, fill, wait_kept
from test_upgrade import ask_health, form_on, roll, wait_ready_for

NEWEST_3_5 = install.newest("3.5.", install.DEFAULT_CACHE)
SEEDS_WAY = ["3.3.25", "3.4.23", NEWEST_3_5, "3.6.16", "3.7.3"]
MACHINE = slice(18, 20)  # of an ELF header (elf(5): e_machine)
VAX = (75).to_bytes(2, "little")  # which no emulator on a test machine is registered for


def version_of(release: str) -> str:
    """As etcd writes a cluster's version."""
    return f"{release.rpartition('.')[0]}.0"


def wait_stepped(lab, nodes, version: str) -> None:
    """Cluster and data: an etcd of that release may start only when both say so. 3.5 tells no version of its data."""

    def is_there() -> bool:
        told = [node.etcd.peer_version() for node in nodes]
        return all(one["etcdcluster"] == version and one.get("storage", version) == version for one in told)

    lab.wait(is_there, BOUND, f"cluster and data of version {version}")


def swap_all(nodes, release: str) -> None:
    """The whole fleet at once, as a new image for all hosts does."""
    for node in nodes:
        node.kill(signal.SIGTERM)
    for node in nodes:
        assert node.wait_exit(BOUND) == 0
        put_etcd(node, release)
    start(*nodes)


def move(lab, node, release: str, nodes) -> None:
    """One of these nodes to another release."""
    put_etcd(node, release)
    assert stop(node) == 0
    start(node)
    wait_formed(lab, *nodes)


def crash(*nodes) -> None:
    """Supervisor and etcd at once, by SIGKILL."""
    for node in nodes:
        node.power_off()


def wait_held(lab, node, *parts: str, since: int = 0) -> None:
    """It says so, and goes on saying so without an etcd."""
    wait_said(lab, node, "hold: ", *parts, since=since)
    wait_looks(lab, node)
    assert not node.etcd_pids()


def etcdctl(node, *arguments: str) -> None:
    program = install.etcd_binaries("3.7.3") / "etcdctl"
    done = subprocess.run(
        [program, f"--endpoints={node.client_url}", *arguments], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# From where the pattern of a bash script, docker.sock and etcd 3.3 left it.


def test_a_hand_made_cluster_of_3_3_becomes_a_current_one(lab):
    """With the variables, the places and the data that it has, and with a monitor that asks for its /health."""
    first, *later = SEEDS_WAY
    variables = {
        "DOCKER_SOCKET": "/var/run/docker.sock",
        "DOCKER_AWSCLI": "anigeo/awscli",
        "DOCKER_AWSREG": REGION,
        "DOCKER_EC2TAG": "etcd",
        "DOCKER_EC2VAL": "1",
        "CLNT_PORT": "2379",
        "CLNT_SCHEMA": "http",
        "PEER_PORT": "2380",
        "PEER_SCHEMA": "http",
        "ETCD_MEMBER_ADD_OK": "201",
        "ETCD_MEMBER_DEL_OK": "204",
    }
    nodes = launch(lab, 3, **variables)
    for node in nodes:
        put_etcd(node, first)
        program = node.home / "bin" / "etcd"
        places = [f"--data-dir={node.data}", f"--wal-dir={node.wal}"]
        node.start_program([str(program), *places, *static_list_arguments(node, nodes, token="etcd-cluster")], {})
    wait_formed(lab, *nodes)
    members = member_ids(nodes[0])
    keys = fill(lab, nodes[0], "by-hand")
    with Writing(*nodes) as writing:
        for node in nodes:
            ask_health(node)
            node.kill(signal.SIGTERM)
            node.wait_exit(BOUND)
            start(node)
            wait_formed(lab, *nodes)
            ask_health(node)
        for release in later:
            wait_ready_for(lab, nodes, release)
            roll(lab, nodes, release)
    wait_kept(lab, nodes, keys + writing.acknowledged)
    assert member_ids(nodes[0]) == members, "a member was replaced on the way"
    assert not any(list(node.data.glob("quarantine-*")) for node in nodes)


# In the middle of an upgrade.


def test_a_member_left_behind_holds_the_version_back_and_nothing_else(lab):
    nodes = form_on(lab, NEWEST_3_5, 3)
    ahead, behind = nodes[:2], nodes[2]
    with Writing(*nodes) as writing:
        for node in ahead:
            move(lab, node, "3.6.16", nodes)
        check = command(lab, ahead[0], "upgrade", "--check", "3.7.3")
        left = member_ids(behind)[behind.peer_url]
        assert check.returncode == 1 and f"member {left} runs etcd {NEWEST_3_5}; upgrade every member to 3.6 first" in check.stdout
        # Whoever goes on all the same is held, and its data is as 3.6 left it.
        assert stop(ahead[0]) == 0
        put_etcd(ahead[0], "3.7.3")
        since = mark(ahead[0])
        before = tree(ahead[0].data / "member", ahead[0].wal)
        start(ahead[0])
        wait_held(lab, ahead[0], "the etcd here is 3.7.3", "run 3.6 on every member first", since=since)
        assert tree(ahead[0].data / "member", ahead[0].wal) == before
        put_etcd(ahead[0], "3.6.16")
        wait_formed(lab, *nodes)
        assert {node.etcd.peer_version()["etcdcluster"] for node in nodes} == {"3.5.0"}
        move(lab, behind, "3.6.16", nodes)
        wait_stepped(lab, nodes, "3.6.0")
    wait_kept(lab, nodes, writing.acknowledged)


def test_a_fleet_upgraded_all_at_once_is_whole_again_or_says_what_it_lacks(lab):
    nodes = form_on(lab, NEWEST_3_5, 3)
    with Writing(*nodes) as writing:
        fill(lab, nodes[0], "before")
        swap_all(nodes, "3.7.3")
        for node in nodes:
            wait_held(lab, node, "the etcd here is 3.7.3", "run 3.6 on every member first")
        # The way out that the line names, without a restart of anything.
        for node in nodes:
            put_etcd(node, "3.6.16")
        wait_formed(lab, *nodes)
        wait_ready_for(lab, nodes, "3.7.3")
        swap_all(nodes, "3.7.3")
        wait_formed(lab, *nodes)
        wait_stepped(lab, nodes, "3.7.0")
    wait_kept(lab, nodes, writing.acknowledged)


def replaced(lab, nodes, old, release: str):
    """By a new instance, which isn't one of the nodes yet: it may be held."""
    lab.terminate(old)
    nodes.remove(old)
    new = lab.add_node()
    put_etcd(new, release)
    start(new)
    return new


def test_an_instance_replaced_in_the_middle_joins_with_what_the_cluster_can_take(lab):
    """As an operator or a group's refresh replaces it: with 3.6 beside 3.5 at once, with 3.7 beside 3.6 by the operator's word."""
    nodes = form_on(lab, NEWEST_3_5, 3)
    first, second, third = nodes
    with Writing(*nodes) as writing:
        nodes = writing.nodes
        move(lab, first, "3.6.16", nodes)
        nodes.append(replaced(lab, nodes, second, "3.6.16"))
        wait_formed(lab, *nodes)
        move(lab, third, "3.6.16", nodes)
        wait_stepped(lab, nodes, "3.6.0")
        late = replaced(lab, nodes, third, "3.7.3")
        wait_held(lab, late, "the etcd here is 3.7.3, but the cluster is at 3.6", "or install 3.6 here", "MUSTER_JOIN_NEWER=yes")
        assert late.peer_url not in member_ids(first) and len(member_ids(first)) == 3
        put_etcd(late, "3.6.16")
        nodes.append(late)
        wait_formed(lab, *nodes)
        # The word that docs/upgrade.md has for it: the check says go on every member, and each was restarted since.
        wait_ready_for(lab, nodes, "3.7.3")
        for node in nodes:
            move(lab, node, "3.6.16", nodes)
        lab.env["MUSTER_JOIN_NEWER"] = "yes"
        nodes.append(replaced(lab, nodes, first, "3.7.3"))
        wait_formed(lab, *nodes)
        for node in nodes[:2]:
            move(lab, node, "3.7.3", nodes)
        wait_stepped(lab, nodes, "3.7.0")
    wait_kept(lab, nodes, writing.acknowledged)


def test_a_crash_in_the_middle_ends_in_a_whole_cluster(lab):
    """Of one while its new etcd starts, and of all while they run two releases."""
    nodes = form_on(lab, NEWEST_3_5, 3)
    first, second, third = nodes
    with Writing(*nodes) as writing:
        assert stop(first) == 0
        put_etcd(first, "3.6.16")
        start(first)
        lab.wait(first.etcd_pids, BOUND, "an etcd that starts")
        crash(first)
        start(first)
        wait_formed(lab, *nodes)
        move(lab, second, "3.6.16", nodes)
        crash(*nodes)
        put_etcd(third, "3.6.16")
        start(*nodes)
        wait_formed(lab, *nodes)
        wait_stepped(lab, nodes, "3.6.0")
    wait_kept(lab, nodes, writing.acknowledged)


def test_a_crash_between_a_raft_snapshot_and_its_record_is_made_good(lab):
    """etcd writes the file first, then the log's record of it. Without the record it never begins with that file, so another is due."""
    (node,) = form_on(lab, NEWEST_3_5, 1)
    node.etcd.put("key", "value")
    assert stop(node) == 0
    before = node.snapshot()
    put_etcd(node, "3.6.16")
    start(node)
    wait_said(lab, node, "etcd has written the raft snapshot")
    wait_formed(lab, node)
    assert stop(node) == 0
    (written,) = (node.data / "member" / "snap").glob("*.snap")
    content = written.read_bytes()
    node.restore(before)
    written.write_bytes(content)
    since = mark(node)
    replace_etcd(node, "sleep 1\nexec $ETCD")  # so that it has written nothing yet when it is first looked for
    start(node)
    wait_formed(lab, node)
    wait_ready_for(lab, [node], "3.7.3")
    assert node.etcd.get("key") == "value"
    runs = [line for line in lines(node, since) if "this run writes a raft snapshot at its start" in line]
    assert len(runs) == 1, "the file was taken for a snapshot, and etcd stopped before it had written one"


# Back.


def test_a_downgrade_that_begins_with_a_member_down_waits_for_it_and_can_be_cancelled(lab):
    nodes = form_on(lab, "3.7.3", 3)
    early, second, _ = nodes
    with Writing(*nodes) as writing:
        wait_stepped(lab, nodes, "3.7.0")
        # etcd reports success and never steps: who starts the older release now is held, not refused again and again.
        assert stop(early) == 0
        etcdctl(second, "downgrade", "enable", "3.6.0")
        put_etcd(early, "3.6.16")
        start(early)
        wait_held(lab, early, "the etcd here is 3.6.16", "install 3.7")
        assert second.etcd.peer_version()["etcdcluster"] == "3.7.0"
        put_etcd(early, "3.7.3")
        wait_formed(lab, *nodes)
        wait_stepped(lab, nodes, "3.6.0")
        check = command(lab, second, "upgrade", "--check", "3.7.3")
        assert check.returncode == 1 and "being downgraded to 3.6.0" in check.stdout
        etcdctl(second, "downgrade", "cancel")
        wait_stepped(lab, nodes, "3.7.0")
    wait_kept(lab, nodes, writing.acknowledged)


def test_a_cluster_goes_back_two_releases_one_by_one(lab):
    """Each downgrade ends by itself, with the last member on the older release."""
    nodes = form_on(lab, "3.7.3", 3)
    with Writing(*nodes) as writing:
        wait_stepped(lab, nodes, "3.7.0")
        for older in ("3.6.16", NEWEST_3_5):
            is_enabled = lambda: any(node.etcd.status().get("downgradeInfo", {}).get("enabled") for node in nodes)
            lab.wait(lambda: not is_enabled(), BOUND, "the end of the downgrade before")
            etcdctl(nodes[0], "downgrade", "enable", version_of(older))
            wait_stepped(lab, nodes, version_of(older))
            for node in nodes:
                move(lab, node, older, nodes)
        wait_stepped(lab, nodes, version_of(NEWEST_3_5))
    wait_kept(lab, nodes, writing.acknowledged)


def test_nobody_is_replaced_while_the_cluster_is_downgraded(lab):
    """etcd refuses the newcomer, of either release, and keeps its entry. The way out: cancel, and go on."""
    nodes = form_on(lab, "3.7.3", 3)
    first, second, third = nodes
    with Writing(first, second) as writing:
        wait_stepped(lab, nodes, "3.7.0")
        etcdctl(first, "downgrade", "enable", "3.6")
        wait_stepped(lab, nodes, "3.6.0")
        move(lab, first, "3.6.16", nodes)
        late = replaced(lab, nodes, third, "3.6.16")
        wait_held(lab, late, "the cluster is being downgraded to 3.6")
        assert late.peer_url not in member_ids(second) and third.peer_url in member_ids(second)
        # The lost member would block the end for ever; the version stays down while a member of the older release lives.
        etcdctl(second, "downgrade", "cancel")
        nodes.append(late)
        wait_formed(lab, *nodes)
        move(lab, second, "3.6.16", nodes)
    wait_kept(lab, nodes, writing.acknowledged)
    wait_stepped(lab, nodes, "3.6.0")


# What was put in place of an etcd, or of its data.


def test_an_etcd_for_another_machine_is_said(lab):
    (node,) = form_on(lab, NEWEST_3_5, 1)
    assert stop(node) == 0
    before = tree(node.data / "member", node.wal)
    program = node.home / "bin" / "etcd"
    whole = bytearray(program.read_bytes())
    whole[MACHINE] = VAX
    program.unlink()
    program.write_bytes(whole)
    program.chmod(0o755)
    since = mark(node)
    start(node)
    assert node.wait_exit(BOUND) == os.EX_OSFILE
    assert said(node, "etcd can't be run: Exec format error", since=since)
    assert not node.etcd_pids() and tree(node.data / "member", node.wal) == before
    put_etcd(node, NEWEST_3_5)
    start(node)
    wait_formed(lab, node)


def test_data_that_a_release_cannot_take_stays_as_it_is(lab):
    """One line names the way out, and that way leads to the data."""
    cases = {
        ("3.3.25", NEWEST_3_5): "run 3.4 on every member first",
        ("3.4.23", "3.6.16"): "run 3.5 on every member first",
        ("3.4.23", "3.7.3"): "run 3.5 on every member first",
        ("3.7.3", "3.3.25"): "install 3.7 again",
    }
    nodes = {}
    for place, (had, _) in enumerate(cases):
        env = {"MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"one={place}"}
        nodes[place] = lab.add_node(env=env, tags={"one": str(place)})
        put_etcd(nodes[place], had)
    start(*nodes.values())
    for node in nodes.values():
        wait_formed(lab, node)
        node.etcd.put("key", "value")
    for (had, put), line, node in zip(cases, cases.values(), nodes.values()):
        wait_stepped(lab, [node], version_of(had))
        assert stop(node) == 0
        before = tree(node.data / "member", node.wal)
        put_etcd(node, put)
        start(node)
        wait_held(lab, node, f"the etcd here is {put}", line)
        assert tree(node.data / "member", node.wal) == before, f"{put} on data of {had}"
        put_etcd(node, had)
    for node in nodes.values():
        wait_formed(lab, node)
        assert node.etcd.get("key") == "value"
