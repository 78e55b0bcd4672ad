"""`etcd-muster decisions`: what was decided and what was seen, over restarts, and while no supervisor runs."""

from __future__ import annotations

import json
import stat

from fleet import BOUND, command, complaint, launch, member_ids, rank, start, stop, wait_formed, wait_said

UNAVAILABLE = 69


def decisions(lab, node) -> list[dict]:
    """The latest last; none is kept before the first is written."""
    done = command(lab, node, "decisions", "--json")
    assert done.returncode in (0, UNAVAILABLE), f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def kept(lab, node, step: str, kind: str = "") -> dict | None:
    """The last one of that step and kind."""
    return next((one for one in reversed(decisions(lab, node)) if (one["step"], one["kind"]) == (step, kind)), None)


def wait_kept(lab, node, step: str, kind: str = "") -> dict:
    """They are written beside the decision: soon, not at once."""
    return lab.wait(lambda: kept(lab, node, step, kind), BOUND, f"{step} {kind} among the decisions of {node.address}")


def test_founding_a_hold_and_a_replacement_are_kept_with_what_was_seen(lab):
    """A month later somebody asks why a member was removed: the node still knows, and what it had seen."""
    nodes = launch(lab, 3, size=3)
    rank(lab, *nodes)
    start(nodes[0])
    wait_said(lab, nodes[0], "hold: ")
    hold = lab.wait(lambda: next((one for one in decisions(lab, nodes[0]) if one["seen"]), None), BOUND, "a hold that is kept")
    others = {node.instance.id for node in nodes[1:]}
    assert hold["step"] == "hold" and set(hold["seen"]) == others and "refused" in hold["seen"][nodes[1].instance.id]
    start(*nodes[1:])
    cluster = wait_formed(lab, *nodes)
    assert wait_kept(lab, nodes[0], "propose")["seen"][nodes[1].instance.id].startswith("fresh")
    wait_kept(lab, nodes[0], "start_new")
    wait_kept(lab, nodes[0], "run", "healthy")
    # A replacement: who removes has seen the dead one silent, and the others in their cluster.
    dead = member_ids(nodes[0])[nodes[2].peer_url]
    gone = nodes[2].instance.id
    lab.terminate(nodes[2])
    new = lab.add_node()
    start(new)
    wait_formed(lab, *nodes[:2], new)
    removed = wait_kept(lab, new, "remove_member", "gone")
    assert dead in removed["reason"] and gone in removed["reason"] and removed["instance"] == new.instance.id
    assert f"its instance {gone} is gone" in removed["seen"][f"member {dead}"]
    assert all(cluster in removed["seen"][node.instance.id] for node in nodes[:2])
    wait_kept(lab, new, "add_self")
    wait_kept(lab, new, "run", "healthy")
    # Stopped, and started again.
    stop(new)
    before = decisions(lab, new)
    assert before[-1]["step"] == "stop"
    start(new)
    wait_kept(lab, new, "resume")
    after = lab.wait(lambda: len(found := decisions(lab, new)) > len(before) and found, BOUND, "further decisions")
    assert after[: len(before)] == before
    assert [one["at"] for one in after] == sorted(one["at"] for one in after)
    # For people, and for nobody else.
    shown = command(lab, new, "decisions").stdout
    assert f"remove member (gone): {removed['reason']}\n" in shown and f"    member {dead}: does not answer" in shown
    journal = new.data / "muster/journal"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (journal, *journal.iterdir())] == [0o700, 0o600]


def test_a_decision_that_stands_is_written_once(lab):
    """It decides many times a second here; a journal that had each would hold an hour."""
    (node,) = launch(lab, 1, size=3)
    start(node)
    wait_said(lab, node, "hold: ")
    first = lab.wait(lambda: [one for one in decisions(lab, node) if one["step"] == "hold"], BOUND, "a hold that is kept")
    lab.wait(lambda: node.log_text().count("view: ") > 20, BOUND, "many looks")
    last = [one for one in decisions(lab, node) if one["step"] == "hold"]
    words = {"".join(letter for letter in one["reason"] if not letter.isdigit()) for one in last}
    assert last[: len(first)] == first and len(words) == len(last), last


def test_a_full_disk_costs_the_decisions_and_nothing_else(lab):
    (node,) = launch(lab, 1, size=1)
    journal = node.data / "muster/journal"
    journal.mkdir(parents=True)
    (journal / "decisions.jsonl").symlink_to("/dev/full")
    start(node)
    wait_formed(lab, node)
    wait_said(lab, node, str(journal), "No space left on device", "free some space")
    assert "can't be read" in complaint(command(lab, node, "decisions"), UNAVAILABLE)
    (journal / "decisions.jsonl").unlink()
    stop(node)
    assert decisions(lab, node)[-1]["step"] == "stop"


def test_where_none_are_kept_that_is_said(lab):
    node = lab.add_node()
    line = complaint(command(lab, node, "decisions"), UNAVAILABLE)
    assert str(node.data / "muster/journal") in line and "ED_DATA" in line
