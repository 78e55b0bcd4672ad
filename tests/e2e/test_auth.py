"""etcd with authentication on: the supervisor has a user like anybody else, and keeps its secrets to itself."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import Iterable

import pytest
from authentication import PASSWORD, PASSWORD_FILE, USER, credentials, form_guarded
from certificates import etcdctl
from fleet import (
    BOUND,
    command,
    complaint,
    etcd_pid,
    launch,
    leader_of,
    lines,
    mark,
    member_ids,
    replace_etcd,
    said,
    start,
    stop,
    wait_formed,
    wait_said,
)
from muster_tools.lab.ec2_faults import hidden
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.security import FILES, MINTED, PLAIN, Security, own_files

CONFIG = 78


def log_in(node: Node) -> str:
    """For the lab's own requests to this node; the token."""
    return node.etcd.log_in()


def ok(done):
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


# Secrets.


def secrets(lab: Lab) -> set[str]:
    """All that nobody may read in a log."""
    found = {PASSWORD, base64.b64encode(PASSWORD.encode()).decode()}
    for session in lab.ec2.sessions.values():
        found |= {session.secret_access_key, session.token}
    for node in lab.nodes:
        for path in (node.directory / "ca.key", node.data / "muster/tls/leaf.key"):
            if path.is_file():
                found |= {line for line in path.read_text().splitlines() if "-----" not in line}
    return found


def assert_kept(lab: Lab, *outputs: str, told: Iterable[str] = ()) -> None:
    """No secret in any log, state file, argument, nor in these outputs. What etcd itself stores is etcd's."""
    kept = {secret.encode() for secret in secrets(lab) | set(told)}
    assert all(len(secret) > 8 for secret in kept)
    written = {name: text.encode() for name, text in enumerate(outputs)}
    for node in lab.nodes:
        for path in node.directory.rglob("*"):
            is_etcds = node.wal in path.parents or node.data / "member" in path.parents
            if path.is_file() and not path.is_symlink() and not is_etcds and path.suffix != ".key":
                written[path] = path.read_bytes()
        for pid in node.process.session() if node.process is not None else []:
            written[f"arguments of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert any(node.log in written for node in lab.nodes)
    shown = [(name, secret) for name, text in written.items() for secret in kept if secret in text]
    assert not shown, shown


# A life under authentication.


@pytest.mark.release
@pytest.mark.core
@pytest.mark.parametrize("mode", [PLAIN, MINTED])
def test_a_cluster_with_authentication_on_lives_as_any_other(lab, mode):
    """Restarts, replacements, a leader that is stopped: nothing needs a hand, and nothing secret is in sight."""
    lab.security = Security(mode, mode)
    nodes = form_guarded(lab, MUSTER_LOG="trace")
    tokens = [log_in(nodes[0])]
    nodes[0].etcd.put("key", "value")

    restarted = next(node for node in nodes if not node.etcd.is_leader())
    since = mark(restarted)
    assert stop(restarted) == 0
    start(restarted)
    wait_formed(lab, *nodes)
    wait_said(lab, restarted, "is healthy and votes", since=since)
    outputs = [ok(command(lab, restarted, *words)) for words in (["health"], ["members"], ["env"], ["etcdctl-env"])]

    leader = leader_of(lab, *nodes)
    assert stop(leader) == 0
    assert said(leader, "leadership moved")
    start(leader)
    wait_formed(lab, *nodes)

    dead = nodes.pop()
    dead_id = member_ids(nodes[0])[dead.peer_url]
    lab.terminate(dead)
    replacement = lab.add_node()
    start(replacement)
    wait_formed(lab, *nodes, replacement)
    assert said(replacement, f"remove member {dead_id}", dead.instance.id)
    wait_said(lab, replacement, "promoted to voter")
    tokens.append(log_in(replacement))
    assert replacement.etcd.get("key") == "value"
    # etcdctl asks for the password, or takes it from its own variable.
    assert etcdctl(lab, replacement, "get", "key", "--print-value-only", ETCDCTL_PASSWORD=PASSWORD) == "value\n"
    outputs += [ok(command(lab, replacement, *words)) for words in (["status"], ["status", "--json"], ["plan"])]
    assert_kept(lab, *outputs, told=tokens)


@pytest.mark.core
def test_a_token_that_ran_out_or_died_with_its_etcd_is_replaced(lab):
    """Tokens are shorter-lived than supervisors: a refused one is no refusal."""
    nodes = form_guarded(lab, ETCD_AUTH_TOKEN_TTL="1")
    lab.terminate(nodes.pop())
    joiner = lab.add_node()
    gate = lab.directory / "gate"
    replace_etcd(joiner, f"while [ ! -e {gate} ]; do sleep 0.05; done\nexec $ETCD")
    start(joiner)
    # It has a token now: without one it wouldn't be listed.
    lab.wait(lambda: joiner.peer_url in member_ids(nodes[0]), BOUND, "a joiner that was added")
    for node in nodes:
        pid = etcd_pid(node)
        os.kill(pid, signal.SIGKILL)
        lab.wait(lambda: node.etcd_pids() not in ([], [pid]), BOUND, "an etcd that has forgotten all tokens")
    lab.wait(lambda: all(node.etcd.health() for node in nodes), BOUND, "two healthy members")
    gate.touch()
    wait_formed(lab, *nodes, joiner)


@pytest.mark.core
@pytest.mark.parametrize("sees_leader", [True, False])
def test_a_joiner_is_promoted_wherever_the_leader_is(lab, sees_leader):
    """A follower hands a promotion on to the leader without saying who asks, and is refused; so the leader must be asked.

    It is a member like the others, whether or not EC2 showed it when the joiner was started.
    """
    # So long that a busy machine moves no leader: who leads is what this is about.
    nodes = form_guarded(lab, count=2, MUSTER_BOOTSTRAP_GRACE="1s", ETCD_ELECTION_TIMEOUT="5000")
    leader = leader_of(lab, *nodes)
    joiner = lab.add_node()
    if not sees_leader:
        joiner.front.add(hidden(leader.instance.id))
    start(joiner)
    wait_formed(lab, *nodes, joiner)
    assert leader.etcd.is_leader()


# Without the right word.


def told_once(lab: Lab, node: Node, *parts: str) -> str:
    """A line says so, and isn't said again while it looks again and again; another member asked may make another.

    What it sees is debug's.
    """

    def told() -> list[str]:
        return [one for one in lines(node) if not one.startswith("view: ") and all(part in one for part in parts)]

    line = lab.wait(told, BOUND, f"a line of {node.address} with {parts}")[0]
    answers = [0]

    def asked_often() -> bool:
        node.etcd.request("GET", "/members", node.etcd.peer_port)  # its roll call goes on
        answers[0] += 1
        return answers[0] >= 50

    lab.wait(asked_often, BOUND, "a node that goes on")
    # A call that failed otherwise in between is news, and so is this after it.
    spoken = [one for one in lines(node) if one in told() or one.endswith("; observing again")]
    assert all(one != following for one, following in zip(spoken, spoken[1:])), spoken
    assert len(set(told())) < len(lab.nodes), told()
    assert not node.etcd_pids()
    return line


@pytest.mark.core
@pytest.mark.parametrize("trouble", ["wrong", "missing"])
def test_a_password_that_is_wrong_or_missing_is_named_and_read_anew(lab, trouble):
    """A typo in a file: which user, which file; and mending the file is all there is to do."""
    nodes = form_guarded(lab)
    before = member_ids(nodes[0])
    lab.terminate(nodes.pop())
    file = lab.directory / "joiner's password"
    joiner = lab.add_node(env=credentials(file, "correct-horse-battery-stable"))
    if trouble == "missing":
        file.unlink()
    start(joiner)
    line = told_once(lab, joiner, str(file), "authentication")
    assert "user root" in line and "invalid user ID or password" in line or trouble == "missing"
    assert set(member_ids(nodes[0])) <= set(before)
    assert "correct-horse" not in joiner.log_text()
    credentials(file)
    wait_formed(lab, *nodes, joiner)
    assert "correct-horse" not in joiner.log_text()


@pytest.mark.core
def test_authentication_without_a_user_is_named_with_the_variables_that_end_it(lab):
    """Somebody turned authentication on: the next replacement must say what it lacks, not hang."""
    nodes = form_guarded(lab)
    lab.terminate(nodes.pop())
    for variable in (USER, PASSWORD_FILE):
        del lab.env[variable]
    joiner = lab.add_node()
    start(joiner)
    told_once(lab, joiner, USER, PASSWORD_FILE)
    assert stop(joiner) == 0
    joiner.env.update(credentials(lab.directory / "password"))
    start(joiner)
    wait_formed(lab, *nodes, joiner)


def test_a_certificate_with_a_common_name_is_named_where_etcd_refuses_it(lab):
    """etcd's gateway takes no certificate for a user: with authentication on, a name in it is told of."""
    lab.security = Security(client=FILES)
    nodes = form_guarded(lab)
    lab.terminate(nodes.pop())
    joiner = lab.add_node()
    start(joiner)
    told_once(lab, joiner, "CommonName")
    for node in (*nodes, joiner):
        nameless = node.security.ca("client").issue(node.address, "127.0.0.1")
        nameless.write(*own_files(node.directory, "client"))
    wait_formed(lab, *nodes, joiner)


def test_a_user_without_a_password_is_refused(lab):
    """Half of a pair is a mistake."""
    (node,) = launch(lab, 1, size=1)
    given = credentials(lab.directory / "password")
    for variable, other in ((USER, PASSWORD_FILE), (PASSWORD_FILE, USER)):
        line = complaint(command(lab, node, "run", **{variable: given[variable]}), CONFIG)
        assert USER in line and PASSWORD_FILE in line and other in line
