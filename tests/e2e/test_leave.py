"""MUSTER_LEAVE and MUSTER_LIFECYCLE_HOOK: an instance that EC2 is about to end leaves, if the others keep their quorum."""

from __future__ import annotations

import signal
import threading

import pytest
from fleet import (
    BOUND,
    etcd_pid,
    form,
    leader_of,
    mark,
    member_ids,
    remove_member,
    replace_etcd,
    restore_etcd,
    said,
    start,
    stop,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.autoscaling import AutoScaling, denied, error, throttled
from muster_tools.lab.ec2_faults import hidden
from muster_tools.lab.etcd import NOT_YET
from muster_tools.lab.http_server import Reply

STATE = "autoscaling/target-lifecycle-state"
STATE_PATH = f"/latest/meta-data/{STATE}"
SPOT_PATH = "/latest/meta-data/spot/instance-action"
LAUNCH, TERMINATE = "etcd-launch", "etcd-terminate"


def ending(*nodes) -> None:
    for node in nodes:
        node.imds.meta_data[STATE] = "Terminated"


def wait_polls(lab, *nodes, more: int = 2) -> None:
    """So many further questions about the node's end."""
    wanted = {node.address: node.imds.requests[STATE_PATH] + more for node in nodes}
    for node in nodes:
        lab.wait(lambda: node.imds.requests[STATE_PATH] >= wanted[node.address], BOUND, f"polls of {node.address}")


def wait_left(lab, node, *rest) -> None:
    wait_said(lab, node, "hold: this instance has left the cluster")
    assert not node.etcd_pids() and node.process.exit_code() is None
    wait_formed(lab, *rest)


class Writer:
    """Writes through the first node of these that takes it; `lost` are the writes that none took."""

    def __init__(self, *nodes):
        self.nodes = nodes
        self.written = 0
        self.lost: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.wait(0.02):
            self.written += 1
            if not any(self._put(node) for node in self.nodes):
                self.lost.append(self.written)

    def _put(self, node) -> bool:
        try:
            node.etcd.put("key", str(self.written))
            return True
        except NOT_YET:
            return False

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


# Scale-in.


@pytest.mark.core
@pytest.mark.parametrize("role", ["follower", "leader"])
def test_an_instance_that_is_scaled_in_leaves_and_writes_go_on(lab, role):
    """Three become two without a dead member, and without an election that clients feel."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    lead = leader_of(lab, *nodes)
    leaving = lead if role == "leader" else next(node for node in nodes if node is not lead)
    rest = [node for node in nodes if node is not leaving]
    with Writer(*rest) as writer:
        lab.wait(lambda: writer.written > 10, BOUND, "writes before")
        ending(leaving)
        wait_left(lab, leaving, *rest)
    assert not writer.lost
    assert (said(leaving, "leadership moved to member") is not None) == (role == "leader")
    assert "target-lifecycle-state is Terminated" in said(leaving, "has left the cluster")
    assert stop(leaving) == 0


@pytest.mark.core
def test_a_fleet_is_scaled_in_to_one_and_the_last_one_stays(lab):
    """A fleet that is taken down whole: each leaves while a quorum stays behind, the last one never."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    nodes[0].etcd.put("key", "value")
    for _ in range(2):
        leaving = nodes.pop()
        ending(leaving)
        wait_left(lab, leaving, *nodes)
    ending(nodes[0])
    wait_said(lab, nodes[0], "its member stays until then: it is the last member")
    wait_polls(lab, nodes[0])
    assert nodes[0].etcd.get("key") == "value" and len(member_ids(nodes[0])) == 1
    assert stop(nodes[0]) == 0


@pytest.mark.core
def test_nobody_leaves_less_than_a_quorum(lab):
    """One of three is down: the second that ends must not take the quorum along, but for its leadership."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    before = member_ids(nodes[0])
    leaving = leader_of(lab, *nodes)
    down, other = (node for node in nodes if node is not leaving)
    down.power_off()
    ending(leaving)
    wait_said(lab, leaving, "its member stays until then", "1 other voters are healthy, removing it needs 2")
    lab.wait(other.etcd.is_leader, BOUND, "leadership of the other")
    wait_polls(lab, leaving, more=3)
    assert member_ids(other) == before and leaving.etcd_pids()
    other.etcd.put("key", "value")
    # What stood in the way has passed: now it leaves.
    start(down)
    wait_left(lab, leaving, down, other)


@pytest.mark.core
def test_two_that_end_at_once_leave_one_after_the_other(lab):
    """Both see a quorum of three; the last one left is never without one."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leader_of(lab, *nodes)
    stays = nodes.pop()
    with Writer(stays) as writer:
        ending(*nodes)
        for node in nodes:
            wait_said(lab, node, "hold: this instance has left the cluster")
        wait_formed(lab, stays)
    assert writer.written > len(writer.lost)
    assert stays.etcd.get("key")


def test_two_of_four_that_end_at_once_dont_both_leave_beside_a_dead_one(lab):
    """Either alone may go; both would leave two of which one is dead."""
    nodes = form(lab, 4, size=4, MUSTER_LEAVE="on-terminate")
    wait_polls(lab, *nodes)  # etcd itself refuses every removal within five seconds of a connection
    leader_of(lab, *nodes)
    dead = next(node for node in nodes if not node.etcd.is_leader())
    dead.power_off()
    first, second, stays = (node for node in nodes if node is not dead)
    ending(first, second)
    gone = lambda: next((node for node in (first, second) if said(node, "has left the cluster")), None)
    left = lab.wait(gone, BOUND, "one of two has left")
    kept = second if left is first else first
    wait_said(lab, kept, "its member stays until then", "removing it needs 2")
    wait_polls(lab, kept, more=3)
    assert len(member_ids(stays)) == 3 and kept.etcd_pids()
    stays.etcd.put("key", "value")
    wait_said(lab, left, "hold: this instance has left")


def test_nobody_leaves_while_another_joins(lab):
    """One change at a time: a member that is catching up is waited for."""
    nodes = form(lab, 2, size=3, MUSTER_LEAVE="on-terminate", MUSTER_BOOTSTRAP_WITHOUT_ABSENT="yes", MUSTER_MIN_NODES="2")
    new = lab.add_node()
    replace_etcd(new, "exec sleep 1000")  # added as a learner, and never there
    start(new)
    lab.wait(lambda: len(member_ids(nodes[0])) == 3, BOUND, "a learner")
    ending(nodes[1])
    wait_said(lab, nodes[1], "its member stays until then", "is joining; one change at a time")
    wait_polls(lab, nodes[1], more=3)
    assert len(member_ids(nodes[0])) == 3 and nodes[1].etcd_pids()
    new.power_off()
    restore_etcd(lab, new)
    start(new)
    wait_left(lab, nodes[1], nodes[0], new)


# What is no end.


@pytest.mark.core
def test_a_plain_stop_leaves_nothing(lab):
    """A reboot or a deployment comes back: only EC2's word makes a member leave."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    before = member_ids(nodes[0])
    for node in nodes:
        assert stop(node) == 0
        start(node)
        wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before


def test_without_the_setting_nothing_is_asked_and_nobody_leaves(lab):
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    ending(*nodes)
    nodes[0].imds.notice_spot_interruption()
    stop(nodes[0])
    start(nodes[0])
    wait_formed(lab, *nodes)
    assert not any(node.imds.requests[path] for node in nodes for path in (STATE_PATH, SPOT_PATH))
    assert member_ids(nodes[0]) == before


@pytest.mark.parametrize("state", ["Standby", "Detached", "Warmed:Stopped", None])
def test_other_states_of_the_group_are_no_end(lab, state):
    """An instance in standby or in a warm pool comes back with its disk; one outside of a group has no state."""
    (node, *others) = nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    before = member_ids(node)
    node.imds.meta_data[STATE] = state
    wait_polls(lab, node)
    assert member_ids(node) == before and node.etcd_pids()
    wait_formed(lab, *nodes)


def test_a_spot_instance_that_is_stopped_comes_back_and_one_that_is_terminated_leaves(lab):
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = nodes.pop()
    before = member_ids(leaving)
    for action in ("stop", "hibernate"):
        leaving.imds.notice_spot_interruption(action)
        wait_polls(lab, leaving)
        assert member_ids(leaving) == before
    leaving.imds.notice_spot_interruption("terminate")
    wait_left(lab, leaving, *nodes)
    assert "reclaims this Spot instance" in said(leaving, "has left the cluster")


@pytest.mark.parametrize("fault", ["no-listener", "silent", "disabled"])
def test_a_mute_metadata_service_proves_nothing(lab, fault):
    """Unknown is neither an end nor a reason to stop; once it answers again, its word counts."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = nodes.pop()
    pid = etcd_pid(leaving)
    wait_polls(lab, leaving, more=1)
    leaving.imds.fault = fault
    leaving.imds.expire_tokens()
    ending(leaving)
    if fault == "silent":  # only new tokens hang: the old one is refused, and has to be replaced
        wait_said(lab, leaving, "whether this instance is about to be terminated is unknown", "HttpPutResponseHopLimit")
    else:
        wait_said(lab, leaving, "whether this instance is about to be terminated is unknown")
    assert etcd_pid(leaving) == pid and len(member_ids(nodes[0])) == 3
    leaving.imds.fault = None
    wait_left(lab, leaving, *nodes)


def test_a_notice_that_cant_be_read_proves_nothing(lab):
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    nodes[0].imds.meta_data["spot/instance-action"] = '{"action": "termin'
    wait_said(lab, nodes[0], "whether this instance is about to be terminated is unknown", "spot/instance-action can't be read")
    assert len(member_ids(nodes[1])) == 3 and nodes[0].etcd_pids()


# After leaving.


@pytest.mark.release
@pytest.mark.core
def test_who_has_left_stays_down_over_restarts_and_joins_anew_when_the_end_is_called_off(lab):
    """The container restarts on the dying instance: joining again would cost the others another change. Only EC2's word
    brings it back, not its silence; its old data is moved aside then."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = nodes.pop()
    old = member_ids(leaving)[leaving.peer_url]
    ending(leaving)
    wait_left(lab, leaving, *nodes)
    for fault in (None, "no-listener"):
        assert stop(leaving) == 0
        leaving.imds.fault = fault
        since = mark(leaving)
        start(leaving)
        wait_said(lab, leaving, "hold: this instance has left the cluster", since=since)
        wait_looks(lab, leaving)
        assert not leaving.etcd_pids() and len(member_ids(nodes[0])) == 2
    leaving.imds.fault = None
    wait_looks(lab, leaving)
    assert not list(leaving.data.glob("quarantine-*"))
    leaving.imds.meta_data[STATE] = "InService"
    wait_formed(lab, *nodes, leaving)
    assert member_ids(nodes[0])[leaving.peer_url] != old
    assert list(leaving.data.glob("quarantine-*"))


def test_an_end_that_is_called_off_before_leaving_changes_nothing(lab):
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    before = member_ids(nodes[0])
    nodes[2].power_off()
    ending(nodes[0])
    wait_said(lab, nodes[0], "its member stays until then")
    nodes[0].imds.meta_data[STATE] = "InService"
    wait_said(lab, nodes[0], "EC2 cancelled the termination of this instance")
    start(nodes[2])
    wait_formed(lab, *nodes)
    wait_polls(lab, nodes[0])
    assert member_ids(nodes[0]) == before


def test_an_etcd_whose_removal_was_not_seen_is_known_by_the_member_list(lab):
    """The supervisor is killed at the moment of leaving, before it could put that on record."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = nodes.pop()
    old = member_ids(leaving)[leaving.peer_url]
    leaving.power_off()
    remove_member(lab, nodes[0], old)
    ending(leaving)
    start(leaving)
    wait_left(lab, leaving, *nodes)
    assert not list(leaving.data.glob("quarantine-*"))


def test_a_restart_on_an_instance_that_ends_finishes_the_leave(lab):
    """It was killed before it could leave: it is still a member, and comes up once more to leave as it should."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = nodes.pop()
    leaving.power_off()
    ending(leaving)
    start(leaving)
    wait_left(lab, leaving, *nodes)
    assert said(leaving, "has left the cluster")


def test_an_instance_that_ends_doesnt_join(lab):
    """A spare that is scaled in while a place falls free."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: spare")
    ending(spare)
    wait_polls(lab, spare)
    lab.terminate(nodes.pop())
    wait_said(lab, spare, "hold: this instance is about to be terminated, so it does not join")
    wait_looks(lab, spare)
    assert not spare.etcd_pids()
    replacement = lab.add_node()
    start(replacement)
    wait_formed(lab, *nodes, replacement)


# Lifecycle hooks.


@pytest.fixture
def group(lab):
    """The nodes' Auto Scaling group, with a launch and a terminate hook."""
    with AutoScaling(lab.ec2.sessions) as made:
        lab.env["AWS_ENDPOINT_URL_AUTO_SCALING"] = made.url
        lab.env["MUSTER_LIFECYCLE_HOOK"] = f"{LAUNCH},{TERMINATE}"
        lab.env["MUSTER_LEAVE"] = "on-terminate"
        lab.env["MUSTER_CLUSTER_SIZE"] = "3"
        yield made
        assert not made.refusals


def launch_in(lab, group, count: int) -> list:
    nodes = [lab.add_node(tags=group.tags) for _ in range(count)]
    for node in nodes:
        group.wait_for(LAUNCH, node.instance.id)
    return nodes


def wait_completed(lab, group, hook, *nodes) -> None:
    wanted = {(hook, node.instance.id) for node in nodes}
    lab.wait(lambda: wanted <= set(group.completed), BOUND, f"{hook} completed")


def test_the_launch_hook_is_completed_by_a_voter_and_the_terminate_hook_by_one_that_has_left(lab, group):
    nodes = launch_in(lab, group, 3)
    start(*nodes)
    wait_formed(lab, *nodes)
    wait_completed(lab, group, LAUNCH, *nodes)
    leaving = nodes.pop()
    group.wait_for(TERMINATE, leaving.instance.id)
    ending(leaving)
    wait_completed(lab, group, TERMINATE, leaving)
    assert not leaving.etcd_pids(), "the hook holds the instance until its etcd has stopped"
    wait_formed(lab, *nodes)
    assert len(group.completed) == 4


def test_a_learner_is_no_reason_to_go_on(lab, group):
    """A rolling update that goes on at a learner would end the next voter before there is another."""
    nodes = launch_in(lab, group, 3)
    start(*nodes)
    wait_formed(lab, *nodes)
    wait_completed(lab, group, LAUNCH, *nodes)
    lab.terminate(nodes.pop())
    (new,) = launch_in(lab, group, 1)
    asked = group.calls[LAUNCH]
    start(new)
    lab.wait(lambda: new.peer_url in member_ids(nodes[0]), BOUND, "a learner")

    def votes() -> bool:
        tried = group.calls[LAUNCH] - asked  # read before the list, which may change meanwhile
        is_learner = any(m.learner for m in nodes[0].etcd.members())
        assert not (tried and is_learner), "tried while a learner"
        return not is_learner

    lab.wait(votes, BOUND, "a vote")
    wait_formed(lab, *nodes, new)
    wait_completed(lab, group, LAUNCH, new)


def test_a_hook_that_cant_be_completed_is_named_and_retried(lab, group):
    """The role lacks the right, Auto Scaling throttles, a proxy answers: etcd runs on, and the hook is completed once it
    can be."""
    (node,) = launch_in(lab, group, 1)
    page = Reply(200, b"<html><body>Welcome</body></html>", content_type="text/html")
    group.next += [denied(), throttled(), page, Reply(503)]
    node.env["MUSTER_CLUSTER_SIZE"] = "1"
    node.env["MUSTER_MIN_NODES"] = "1"
    start(node)
    line = wait_said(lab, node, "the lifecycle hook could not be completed", "AccessDenied")
    assert '"Action":"autoscaling:CompleteLifecycleAction"' in line and "autoScalingGroupName/etcd" in line
    pid = etcd_pid(node)
    wait_completed(lab, group, LAUNCH, node)
    assert said(node, "could not be completed", "Throttling") and said(node, "not AWS's answer: the document is <html>")
    assert etcd_pid(node) == pid


def test_a_hook_that_waits_late_is_completed_and_one_that_never_waits_is_no_failure(lab, group):
    """The group is behind its instance; or this is a restart, long after the launch."""
    node = lab.add_node(tags=group.tags)
    node.env["MUSTER_CLUSTER_SIZE"] = "1"
    node.env["MUSTER_MIN_NODES"] = "1"
    start(node)
    lab.wait(lambda: group.calls[LAUNCH] >= 2, BOUND, "two attempts")
    assert said(node, "no lifecycle hook waits for") and not said(node, "could not be completed")
    group.wait_for(LAUNCH, node.instance.id)
    wait_completed(lab, group, LAUNCH, node)


def test_a_hook_of_no_group_is_named(lab, group):
    """A name that is wrong in either place must not end in a silent timeout of the launch."""
    stray, misnamed = lab.add_node(), lab.add_node(tags=group.tags)
    group.next.append(error(400, "ValidationError", "Lifecycle hook etcd-launch was not found"))
    for node in (stray, misnamed):
        node.env["MUSTER_CLUSTER_SIZE"] = node.env["MUSTER_MIN_NODES"] = "1"
        for other in (stray, misnamed):
            if other is not node:
                node.front.add(hidden(other.instance.id))
    start(stray, misnamed)
    wait_said(lab, stray, "could not be completed", "is in no Auto Scaling group")
    wait_said(lab, misnamed, "could not be completed", "hook etcd-launch of Auto Scaling group etcd", "was not found")


def test_who_cant_leave_lets_the_group_go_on(lab, group):
    """The last member of a fleet that is taken down whole: the group must not wait for what never comes. A restart on the
    way doesn't take the terminate hook for its launch hook."""
    (node,) = launch_in(lab, group, 1)
    node.env["MUSTER_CLUSTER_SIZE"] = "1"
    node.env["MUSTER_MIN_NODES"] = "1"
    start(node)
    wait_completed(lab, group, LAUNCH, node)
    group.wait_for(TERMINATE, node.instance.id)
    ending(node)
    wait_completed(lab, group, TERMINATE, node)
    assert said(node, "it is the last member") and node.etcd_pids()


def test_a_leave_that_has_to_wait_holds_the_group_up_and_a_stop_lets_it_go_on(lab, group):
    nodes = launch_in(lab, group, 3)
    start(*nodes)
    wait_formed(lab, *nodes)
    wait_completed(lab, group, LAUNCH, *nodes)
    nodes[2].power_off()
    group.wait_for(TERMINATE, nodes[1].instance.id)
    ending(nodes[1])
    wait_said(lab, nodes[1], "its member stays until then")
    wait_polls(lab, nodes[1], more=3)
    assert (TERMINATE, nodes[1].instance.id) in group.waiting
    assert stop(nodes[1]) == 0
    assert (TERMINATE, nodes[1].instance.id) in group.completed


def test_a_restart_while_the_end_is_near_completes_no_hook_too_soon(lab, group):
    """Both hooks are named, and which of them waits only the group knows."""
    nodes = launch_in(lab, group, 3)
    start(*nodes)
    wait_formed(lab, *nodes)
    wait_completed(lab, group, LAUNCH, *nodes)
    nodes[2].power_off()
    group.wait_for(TERMINATE, nodes[1].instance.id)
    nodes[1].kill(signal.SIGKILL)
    nodes[1].wait_exit(BOUND)
    ending(nodes[1])
    start(nodes[1])
    wait_said(lab, nodes[1], "its member stays until then", "removing it needs 2")
    wait_polls(lab, nodes[1], more=3)
    assert (TERMINATE, nodes[1].instance.id) in group.waiting
    start(nodes[2])
    wait_completed(lab, group, TERMINATE, nodes[1])
    assert said(nodes[1], "has left the cluster")


def test_a_spare_that_ends_has_nothing_to_wait_for(lab, group):
    nodes = launch_in(lab, group, 3)
    start(*nodes)
    wait_formed(lab, *nodes)
    spare = lab.add_node(tags=group.tags)
    start(spare)
    wait_said(lab, spare, "hold: spare")
    group.wait_for(TERMINATE, spare.instance.id)
    ending(spare)
    wait_completed(lab, group, TERMINATE, spare)
