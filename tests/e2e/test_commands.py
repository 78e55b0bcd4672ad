"""What an operator types: each command says what is, changes nothing, and ends with a code a script can use."""

import json
import os
import subprocess
from datetime import datetime, timedelta

from fleet import (
    BOUND,
    command,
    complaint,
    form,
    launch,
    leader_of,
    looks,
    member_ids,
    start,
    stop,
)
from muster_tools.lab.http_server import Reply
from muster_tools.lab.replay import Replay, instance_id

USAGE, UNAVAILABLE, CONFIG = 64, 69, 78


def ok(done):
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


# discover


def test_discover_shows_the_fleet_with_one_call(lab):
    """What EC2 says, as the nodes see it, for one API call."""
    nodes = launch(lab, 3)
    other = lab.add_node(tags={"etcd": "2"})
    lab.terminate(nodes[2])
    head, *rows, summary = ok(command(lab, nodes[0], "discover")).splitlines()
    assert head.split() == ["INSTANCE", "STATE", "ADDRESS", "ZONE", "AGE", "NAME"]
    shown = {row.split()[0]: row.split()[1] for row in rows}
    assert shown == {
        nodes[0].instance.id: "running",
        nodes[1].instance.id: "running",
        nodes[2].instance.id: "terminated",
    }
    assert all(node.address in "".join(rows) for node in nodes) and other.instance.id not in "".join(rows)
    assert summary == "3 instances with etcd=1, 2 not terminated, 1 API calls"
    assert dict(nodes[0].front.calls) == {"DescribeInstances": 1}


def test_discover_as_json_is_one_document(lab):
    """For scripts: the same, with tags and launch times."""
    nodes = launch(lab, 3)
    found = json.loads(ok(command(lab, nodes[1], "discover", "--json")))
    assert {entry["instance"] for entry in found} == {node.instance.id for node in nodes}
    assert {entry["address"] for entry in found} == {node.address for node in nodes}
    assert all(entry["state"] == "running" and entry["tags"]["etcd"] == "1" for entry in found)
    launches = [entry["launched"] for entry in found]
    assert launches == sorted(launches)


def test_discover_of_an_empty_fleet_says_so(lab):
    """No match is an answer, not an error."""
    (node,) = launch(lab, 1)
    assert json.loads(ok(command(lab, node, "discover", "--json", MUSTER_TAGS="etcd=none"))) == []
    assert "0 instances with etcd=none" in ok(command(lab, node, "discover", MUSTER_TAGS="etcd=none"))


def test_discover_takes_the_original_pair_and_the_general_form(lab):
    """DOCKER_EC2TAG and DOCKER_EC2VAL as ever; MUSTER_TAGS where one pair is not enough: all must match."""
    blue = lab.add_node(tags={"role": "db", "colour": "blue"})
    lab.add_node(tags={"role": "db", "colour": "green"})

    def found(**env):
        return [entry["instance"] for entry in json.loads(ok(command(lab, blue, "discover", "--json", **env)))]

    assert len(found(DOCKER_EC2TAG="role", DOCKER_EC2VAL="db")) == 2
    assert found(MUSTER_TAGS="role=db,colour=blue") == [blue.instance.id]


def test_a_tag_with_commas_and_blanks_is_asked_for_in_quotes(lab):
    tags = {"team": "db, eu=west", " cost centre": "12 ", "say": 'the "best"', "etcd": "1"}
    ours = lab.add_node(tags=tags)
    lab.add_node(tags=tags | {"team": "db"})
    lab.add_node(tags=tags | {" cost centre": "12"})

    def found(asked_for):
        done = command(lab, ours, "discover", "--json", MUSTER_TAGS=asked_for)
        return [entry["instance"] for entry in json.loads(ok(done))]

    asked_for = '"team"="db, eu=west", " cost centre"="12 ",say="the \\"best\\"",etcd=1'
    assert found(asked_for) == [ours.instance.id]
    shown = 'team="db, eu=west"," cost centre"="12 ",say=the "best",etcd=1'
    assert f"1 instances with {shown}, " in ok(command(lab, ours, "discover", MUSTER_TAGS=asked_for))
    assert found(shown) == [ours.instance.id], "what is shown can be written"
    for wrong, why in (('team="db, eu', "has quotes that don't end"), ('team="db", eu', 'has no value; write key=value,key2="a value, in quotes"')):
        assert why in complaint(command(lab, ours, "discover", MUSTER_TAGS=wrong), CONFIG)


def test_a_tag_value_is_no_pattern(lab):
    """To EC2 a filter's value is one: `prod*` must not match the production fleet of another team."""
    (node,) = launch(lab, 1)
    asked_for = []

    def empty(call, proceed):
        asked_for.append(call.parameters["Filter.1.Value.1"])
        return Reply(200, b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>")

    node.front.add(empty)
    ok(command(lab, node, "discover", MUSTER_TAGS="etcd=prod*"))
    assert asked_for == [r"prod\*"]


def test_discover_reads_ten_thousand_instances_in_ten_calls(lab):
    """A page is a thousand: the largest fleets cost ten calls, and every instance is there once."""
    (node,) = launch(lab, 1)
    with Replay(10_000) as replay:
        found = json.loads(ok(command(lab, node, "discover", "--json", AWS_ENDPOINT_URL_EC2=replay.url)))
        assert replay.calls == 10
    assert [entry["instance"] for entry in found] == [instance_id(index) for index in range(10_000)]


def test_a_closed_pipe_is_no_trouble(lab):
    """`discover | head` is the reader's choice, not a crash."""
    (node,) = launch(lab, 1)
    read, write = os.pipe()
    os.close(read)
    for arguments in (["discover", "--json"], ["discover"], ["env"]):
        done = subprocess.run(
            [str(lab.muster), *arguments], env=node.environment(), stdout=write, stderr=subprocess.PIPE, text=True
        )
        assert "panicked" not in done.stderr, (arguments, done.stderr)
    os.close(write)


# plan


def listing(folder):
    """Everything below, with size and time of change; the log is the lab's."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
        if path.name != "log"
    }


def test_plan_says_what_run_would_do_and_changes_nothing(lab):
    """Look before you leap: the same observation and the same decision, and not a byte written."""
    nodes = launch(lab, 3, size=3)
    before = listing(nodes[0].directory)
    shown = ok(command(lab, nodes[0], "plan"))
    assert listing(nodes[0].directory) == before
    assert nodes[0].instance.id in shown and "data           none" in shown
    assert all(f"{node.instance.id}" in shown for node in nodes) and "connection refused" in shown
    assert "run would now  hold: " in shown
    plan = json.loads(ok(command(lab, nodes[0], "plan", "--json")))
    assert plan["instance"] == nodes[0].instance.id and plan["step"].startswith("hold: ")
    assert set(plan["seen"]) == {node.instance.id for node in nodes[1:]}
    assert listing(nodes[0].directory) == before


def plan_that_sees(lab, node, what: str) -> dict:
    """Of every peer: one look may meet an election, or an answer that comes late."""

    def shown() -> dict | None:
        plan = json.loads(ok(command(lab, node, "plan", "--json")))
        return plan if plan["seen"] and all(what in seen for seen in plan["seen"].values()) else None

    return lab.wait(shown, BOUND, f"a plan that sees {what}")


def test_plan_beside_a_cluster_shows_the_join_and_leaves_the_cluster_as_it_is(lab):
    """What a new node would do, asked on it before it is started."""
    nodes = form(lab, 2, size=3, MUSTER_BOOTSTRAP_GRACE="1s")
    fresh = lab.add_node()
    before, members = listing(fresh.directory), member_ids(nodes[0])
    plan = plan_that_sees(lab, fresh, "2 members, quorum")
    assert plan["step"].startswith("add self: ") and len(plan["seen"]) == 2
    assert listing(fresh.directory) == before and member_ids(nodes[0]) == members


def test_plan_on_a_member_shows_its_data(lab):
    """After a stop: which member of which cluster lies on this disk, and that it would resume."""
    nodes = form(lab, 3, size=3)
    cluster, member = nodes[0].etcd.cluster_id(), nodes[0].etcd.member_id()
    assert stop(nodes[0]) == 0
    before = listing(nodes[0].directory)
    shown = ok(command(lab, nodes[0], "plan"))
    assert f"member {member} of cluster {cluster}" in shown and "run would now  resume" in shown
    assert listing(nodes[0].directory) == before


def test_plan_does_not_stir_a_node_that_waits(lab):
    """Asking is not arriving: a supervisor that backs off looks sooner when a peer moves, not when an operator asks."""
    waiting, asking = launch(lab, 2, size=3, BOOTSTRAP_WAIT="600", MUSTER_BOOTSTRAP_GRACE="600s")
    start(waiting)
    lab.wait(lambda: looks(waiting) >= 7, BOUND, "a pause of seconds")
    before = looks(waiting)
    for _ in range(2):
        assert plan_that_sees(lab, asking, "fresh")["seen"] == {waiting.instance.id: "fresh"}
    # Should it have taken so long that it looked by itself: not before the pause was over.
    stamps = [line.split()[0] for line in waiting.log_text().splitlines() if " etcd-muster: view: " in line][before - 1 :]
    times = [datetime.fromisoformat(stamp.replace("Z", "+00:00")) for stamp in stamps]
    assert all(later - earlier > timedelta(seconds=6) for earlier, later in zip(times, times[1:]))
    before = looks(waiting)
    start(asking)
    lab.wait(lambda: looks(waiting) > before, BOUND, "a look when the peer comes")


# members and health


def test_members_shows_who_leads_and_who_is_silent(lab):
    """The one table an operator wants: ids, roles, versions, how far each has come."""
    nodes = form(lab, 3, size=3)
    ids = member_ids(nodes[0])
    leader_of(lab, *nodes)
    found = json.loads(ok(command(lab, nodes[0], "members", "--json")))
    assert found["cluster"] == nodes[0].etcd.cluster_id()
    assert {entry["id"] for entry in found["members"]} == set(ids.values())
    assert sorted(entry["role"] for entry in found["members"]) == ["leader", "voter", "voter"]
    assert {entry["name"] for entry in found["members"]} == {node.instance.id for node in nodes}
    silent = next(node for node in nodes if not node.etcd.is_leader())
    silent.power_off()
    # From the node whose own etcd is down: the others are asked.
    table = lab.wait(lambda: asked(lab, silent, "members"), BOUND, "an answer without that member")
    (row,) = [line for line in table.splitlines() if ids[silent.peer_url] in line]
    assert "silent" in row


def asked(lab, node, *arguments):
    done = command(lab, node, *arguments)
    return done.stdout if done.returncode == 0 else None


def test_members_without_a_cluster_says_who_was_asked(lab):
    """No answer is not an empty cluster."""
    (node,) = launch(lab, 1)
    done = command(lab, node, "members")
    assert done.returncode == UNAVAILABLE and f"{node.address}:2379" in done.stderr


def test_health_is_a_code_for_a_health_check(lab):
    """0 or 1, in words and as JSON; with AWS out of sight, for it runs every few seconds."""
    nodes = form(lab, 3, size=3)
    node = nodes[0]
    node.front.stop()
    node.imds.fault = "no-listener"
    assert "healthy" in ok(command(lab, node, "health"))
    report = json.loads(ok(command(lab, node, "health", "--json")))
    assert report["healthy"] is True and node.address in report["endpoint"]
    for other in nodes[1:]:
        other.power_off()
    done = lab.wait(lambda: unhealthy(lab, node), BOUND, "a member without quorum that is not healthy")
    assert done.returncode == 1
    assert stop(node) in (0, 137)
    done = command(lab, node, "health", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["healthy"] is False and "refused" in report["reason"]


def unhealthy(lab, node):
    done = command(lab, node, "health")
    return done if done.returncode != 0 else None


# The rest.


def test_env_lists_every_variable_with_value_default_and_meaning(lab):
    """The manual page that is always at hand."""
    node = lab.add_node(launch=False)
    shown = ok(command(lab, node, "env", BOOTSTRAP_WAIT="7"))
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert rows["BOOTSTRAP_WAIT"][:2] == ["7", "20"]
    assert rows["CLNT_PORT"][:2] == ["(unset)", "2379"]
    for variable in ("DOCKER_EC2TAG", "ED_DATA", "ETCD_OPTS", "MUSTER_CLUSTER_SIZE", "MUSTER_BOOTSTRAP_ALONE"):
        assert variable in rows


def test_a_flag_wins_over_its_variable(lab):
    """For a try by hand, without touching the unit's environment."""
    node = lab.add_node(launch=False)
    for words in (["--cluster-size", "5", "env"], ["env", "--cluster-size=5"]):
        shown = ok(command(lab, node, *words, MUSTER_CLUSTER_SIZE="3"))
        (row,) = [line.split() for line in shown.splitlines() if line.startswith("MUSTER_CLUSTER_SIZE")]
        assert row[1:3] == ["--cluster-size", "5"]
    # Whichever of its names either has.
    shown = ok(command(lab, node, "--found-grace", "7", "env", MUSTER_BOOTSTRAP_GRACE="8"))
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("MUSTER_BOOTSTRAP_GRACE")]
    assert row[1:3] == ["--bootstrap-grace", "7"]
    assert "MUSTER_CLUSTER_SIZE=many" in complaint(command(lab, node, "--cluster-size", "many", "plan"), CONFIG)
    assert "--cluster-size" in complaint(command(lab, node, "plan", "--cluster-size"), USAGE)


def test_two_names_of_one_setting_must_agree(lab):
    """Neither is guessed to be the one that is meant."""
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "plan", MUSTER_FOUND_GRACE="1m", MUSTER_BOOTSTRAP_GRACE="2m"), CONFIG)
    assert "MUSTER_BOOTSTRAP_GRACE=2m" in line and "MUSTER_FOUND_GRACE=1m" in line


def test_help_and_version(lab):
    """The first two things anyone types."""
    node = lab.add_node(launch=False)
    shown = ok(command(lab, node, "--help"))
    for name in ("run", "plan", "discover", "members", "status", "health", "env"):
        assert name in shown
        assert name in ok(command(lab, node, name, "--help"))
    name, number = ok(command(lab, node, "--version")).split()
    assert name == "etcd-muster" and number[0].isdigit()


def test_an_unknown_command_is_a_usage_error(lab):
    """64, as sysexits has it, so that a unit doesn't restart over a typo."""
    node = lab.add_node(launch=False)
    for arguments in (["runn"], ["run", "--fast"], []):
        done = command(lab, node, *arguments)
        assert done.returncode == USAGE and done.stdout == "", arguments
        assert done.stderr.startswith("etcd-muster: ") and len(done.stderr.strip()) > 20
