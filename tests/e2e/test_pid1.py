"""What PID 1 owes: signals at any moment, orphans, exit codes, and an etcd that is never left behind nor ended early."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    etcd_pid,
    form,
    launch,
    mark,
    member_ids,
    replace_etcd,
    said,
    start,
    stop,
    wait_formed,
    wait_said,
)
from muster_tools.lab.ec2_faults import hanging

CONFIG = 78

# Shell text in place of etcd, after its traps: it runs until it is told to stop, and says when it is ready to be.
WAITING = "touch $0.up; while :; do sleep 0.05; done"


def wait_stub(lab, *nodes) -> None:
    for node in nodes:
        lab.wait((node.home / "bin" / "etcd.up").exists, BOUND, f"{node.address}'s stub")


# Exit codes.


def test_at_a_stop_etcds_code_is_the_supervisors(lab):
    """A unit's Restart= and its reports go by the code. All codes are in the unit tests; here is what the kernel makes of some."""
    ends = {f"exit {code}": code for code in (0, 1, 2, 3, 64, 65, 69, 78, 101, 126, 127, 128, 137, 143, 254, 255)}
    ends |= {f"trap - {name}; kill -{name} $$": 128 + number for name, number in (("HUP", 1), ("INT", 2), ("QUIT", 3))}
    ends |= {f"kill -{name} $$": 128 + number for name, number in (("ABRT", 6), ("KILL", 9), ("USR1", 10), ("SEGV", 11))}
    # The signal that was sent is how etcd itself ends a good stop.
    ends["trap - TERM; kill -TERM $$"] = 0
    nodes = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"one={n}"}, tags={"one": str(n)}) for n in range(len(ends))]
    for node, end in zip(nodes, ends):
        replace_etcd(node, f"ulimit -c 0; trap '{end}' TERM\n{WAITING}")
    # A test run in the background, or by nohup, has these ignored; what it starts would have so too, and no shell can change that.
    for name in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(name, signal.SIG_DFL)
    codes = {}
    for batch in range(0, len(nodes), 6):
        some = list(zip(nodes, ends))[batch : batch + 6]
        start(*(node for node, _ in some))
        wait_stub(lab, *(node for node, _ in some))
        for node, _ in some:
            node.kill(signal.SIGTERM)
        codes |= {end: node.wait_exit(BOUND) for node, end in some}
    assert codes == ends


def test_an_etcd_that_ends_by_itself_never_ends_its_supervisor(lab):
    """Whatever the code and the signal: it is started again. Only what etcd says of its settings ends both."""
    ends = [f"exit {code}" for code in (0, 1, 2, 78, 137, 255)] + [f"ulimit -c 0; kill -{name} $$" for name in ("KILL", "SEGV", "TERM")]
    nodes = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"one={n}"}, tags={"one": str(n)}) for n in range(len(ends))]
    for node, end in zip(nodes, ends):
        replace_etcd(node, end)
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "; deciding again in")
        lab.wait(lambda: node.log_text().count("etcd runs as process") >= 2, BOUND, "another life")
    assert all(node.process.exit_code() is None for node in nodes)
    # In a pause between two lives, from its begin on: a stop during one ends with that one's own code. Whose comes first: pauses double.
    pauses = lambda node: node.log_text().count("; deciding again in")
    before = {node: pauses(node) for node in nodes}
    while before:
        for node in lab.wait(lambda: [node for node in before if pauses(node) > before[node]], BOUND, "a pause that begins"):
            node.kill(signal.SIGTERM)
            del before[node]
    assert [node.wait_exit(BOUND) for node in nodes] == [0] * len(nodes)
    (refused,) = launch(lab, 1, size=1)
    replace_etcd(refused, "echo 'error verifying flags, no such thing' >&2; exit 1")
    start(refused)
    assert refused.wait_exit(BOUND) == CONFIG
    assert "no such thing" in (said(refused, "etcd refuses its settings") or "")


# A stop at any moment.


def assert_stops_clean(lab, node, code=0) -> None:
    assert stop(node) == code, node.log_tail()
    lab.wait(lambda: not node.process.session(), BOUND, "nothing left")


def test_a_stop_is_heeded_in_every_phase_before_etcd_runs(lab):
    """Waiting for metadata, for EC2, for others, for a port, for etcd's version: a unit that hangs in `stop` gets killed."""
    phases = {}
    for name in ("metadata", "ec2", "others", "version", "locked"):
        phases[name] = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "3", "MUSTER_TAGS": f"phase={name}"}, tags={"phase": name})
    phases["metadata"].imds.fault = "silent"
    phases["ec2"].front.add(hanging())
    # Asked for its version this one hangs, as on a disk that does.
    program = phases["version"].home / "bin" / "etcd"
    program.unlink()
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    phases["version"].env["MUSTER_CLUSTER_SIZE"] = "1"
    phases["locked"].env["ED_DATA"] = str(phases["others"].data)
    start(phases["others"])
    wait_said(lab, phases["others"], "hold: ")
    start(*(node for name, node in phases.items() if name != "others"))
    lab.wait(lambda: phases["metadata"].imds.requests, BOUND, "a question to the metadata service")
    lab.wait(lambda: phases["ec2"].front.calls["DescribeInstances"], BOUND, "a question to EC2")
    wait_said(lab, phases["version"], "hold: the etcd here does not report its release", "did not end within")
    wait_said(lab, phases["locked"], "hold: another etcd-muster uses")
    for node in phases.values():
        assert_stops_clean(lab, node)
    assert not any(said(node, "etcd runs as process") for node in phases.values())


def test_a_stop_is_heeded_in_every_phase_of_etcds_lives(lab):
    """Just spawned, in the pause after a crash, over damaged settings: the code is right and no etcd is left."""
    spawned, crashed = (lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"p={n}"}, tags={"p": str(n)}) for n in (1, 2))
    replace_etcd(spawned, f"trap 'exit 0' TERM\n{WAITING}")
    replace_etcd(crashed, "exit 3")
    start(spawned, crashed)
    wait_stub(lab, spawned)
    # In the third pause at least: two to four seconds, in which it is told to stop.
    lab.wait(lambda: crashed.log_text().count("; deciding again in") >= 3, BOUND, "three lives")
    assert_stops_clean(lab, spawned)
    assert_stops_clean(lab, crashed)


def test_a_stop_is_heeded_while_etcd_yields(lab):
    """A founding that lost its quorum stops its etcd for a while: a stop in there must not wait for it."""
    first, never = launch(lab, 2, size=2)
    replace_etcd(never, f"trap 'exit 0' TERM\n{WAITING}")
    start(first, never)
    wait_said(lab, first, "stopping etcd to serve the agreed list")
    wait_stub(lab, never)
    assert_stops_clean(lab, first)
    assert_stops_clean(lab, never)


def test_a_stop_is_heeded_while_a_learner_catches_up(lab):
    """A joiner that is stopped half-way: what it began it goes on with at the next start."""
    nodes = form(lab, 2, size=3)
    joiner = lab.add_node()
    # Its etcd never gets to be promoted: it doesn't run, and the place is there.
    replace_etcd(joiner, f"trap 'exit 0' TERM\n{WAITING}")
    start(joiner)
    lab.wait(lambda: any(member.learner for member in nodes[0].etcd.members()), BOUND, "a learner")
    wait_stub(lab, joiner)
    assert_stops_clean(lab, joiner)
    assert nodes[0].etcd.health() and len(nodes[0].etcd.members()) == 3


def test_a_second_sigterm_neither_hurries_nor_breaks_a_stop(lab):
    """Impatience is no order to lose data: etcd has MUSTER_STOP_TIMEOUT to end, however often it is asked."""
    (node,) = launch(lab, 1, size=1, MUSTER_STOP_TIMEOUT="30s")
    done, may_end = node.directory / "stopping", node.directory / "may-end"
    replace_etcd(node, f"trap 'touch {done}; until [ -e {may_end} ]; do sleep 0.05; done; exit 0' TERM\n{WAITING}")
    start(node)
    wait_stub(lab, node)
    node.kill(signal.SIGTERM)
    lab.wait(done.exists, BOUND, "etcd's own stop")
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        node.kill(again)
    assert node.process.exit_code() is None, "etcd is not done yet"
    may_end.touch()
    assert node.wait_exit(BOUND) == 0
    assert not said(node, "killing it")


# A hung etcd.


def test_a_hung_etcd_is_said_to_hang_and_nothing_else_happens(lab):
    """A machine that swaps, a disk that hangs for a minute: no restart, no removal; and it is healthy again when it is."""
    nodes = form(lab, 3, size=3)
    hung = nodes[2]
    wait_said(lab, hung, "is healthy and votes")
    before, pid = member_ids(nodes[0]), etcd_pid(hung)
    since = mark(hung)
    os.kill(pid, signal.SIGSTOP)
    wait_said(lab, hung, "etcd runs but does not answer", since=since)
    assert etcd_pid(hung) == pid and member_ids(nodes[0]) == before
    os.kill(pid, signal.SIGCONT)
    wait_said(lab, hung, "is healthy and votes", since=since)
    assert etcd_pid(hung) == pid and member_ids(nodes[0]) == before


# The real PID 1.


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace")
def test_as_the_real_pid_1_it_is_stopped_reaps_orphans_and_its_code_is_seen(lab, tmp_path):
    """PID 1 ignores every signal it doesn't handle, and inherits every orphan: as in a container, not as a subreaper."""
    wrapper = tmp_path / "in-a-namespace"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    lab.muster = wrapper
    (node,) = launch(lab, 1, size=1)
    marker = tmp_path / "orphan"
    replace_etcd(node, f"(sh -c 'echo $$ > {marker}; while [ ! -e {marker}.go ]; do sleep 0.05; done' &)\nexec $ETCD")
    start(node)
    wait_formed(lab, node)
    (supervisor,) = [pid for pid in node.process.session() if inner_pid(pid) == 1]
    orphan = int(lab.wait(lambda: marker.exists() and marker.read_text(), BOUND, "the orphan's word"))
    (outside,) = [pid for pid in node.process.session() if inner_pid(pid) == orphan]
    assert parent(outside) == supervisor, "the kernel gave the orphan to PID 1"
    Path(f"{marker}.go").touch()
    lab.wait(lambda: not Path(f"/proc/{outside}").exists(), BOUND, "no trace of the orphan")
    # What PID 1 doesn't handle doesn't end it.
    for ignored in (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
        os.kill(supervisor, ignored)
    assert node.etcd.health()
    os.kill(supervisor, signal.SIGTERM)
    assert node.wait_exit(BOUND) == 0
    assert "etcd stopped" in node.log_text() and not node.process.session()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace")
def test_as_the_real_pid_1_it_reaps_whoever_a_real_time_signal_ends(lab, tmp_path):
    """Orphans that end so are reaped like others, and hide nobody's end: not those that end after them, and not etcd's."""
    wrapper = tmp_path / "in-a-namespace"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    lab.muster = wrapper
    (node,) = launch(lab, 1, size=1)
    go = tmp_path / "go"
    orphan = f"(sh -c 'until [ -e {go} ]; do sleep 0.05; done; kill -34 $$' &)"
    replace_etcd(node, f"{orphan}\n{orphan}\n{orphan}\nexec $ETCD")
    start(node)
    wait_formed(lab, node)
    (supervisor,) = [pid for pid in node.process.session() if inner_pid(pid) == 1]
    children = lambda: Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    lab.wait(lambda: len(children()) == 4, BOUND, "three orphans beside etcd")
    go.touch()
    lab.wait(lambda: len(children()) == 1, BOUND, "no trace of the orphans")
    since, (first,) = mark(node), children()
    os.kill(int(first), 34)
    wait_said(lab, node, "etcd was ended by signal 34", since=since)
    wait_formed(lab, node)
    os.kill(supervisor, signal.SIGTERM)
    assert node.wait_exit(BOUND) == 0
    assert not said(node, "waitpid")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace")
def test_as_the_real_pid_1_a_kill_takes_etcd_with_it(lab, tmp_path):
    """`docker kill`: the kernel ends the whole namespace."""
    wrapper = tmp_path / "in-a-namespace"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    lab.muster = wrapper
    (node,) = launch(lab, 1, size=1)
    replace_etcd(node, f"trap '' TERM\n{WAITING}")
    start(node)
    wait_stub(lab, node)
    (supervisor,) = [pid for pid in node.process.session() if inner_pid(pid) == 1]
    os.kill(supervisor, signal.SIGKILL)
    node.wait_exit(BOUND)
    lab.wait(lambda: not node.process.session(), BOUND, "nothing left")


def inner_pid(pid: int) -> int:
    """As it is called in its own PID namespace; 0 outside of ours, and once it is gone."""
    try:
        names = re.search(r"^NSpid:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1].split()
    except OSError:
        return 0
    return int(names[-1]) if len(names) > 1 else 0


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
