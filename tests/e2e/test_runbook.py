"""docs/recovery.md, word for word: every command block of the page is run in a scene that fits its section."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fleet import BOUND, QUICK, command, field, form, launch, member_ids, said, start, stop, wait_formed, wait_looks, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recovery.md"
PROGRAM = "etcd-muster "
BUCKET = "backups"
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")
# What a reader puts something else in place of.
WORD = re.compile(r"\b[A-Z]+-ID\b|/var/backups/etcd|\b3\.7\.3\b")

SCENES: set[str] = set()


def blocks(page: str) -> dict[str, list[str]]:
    """The indented commands of each section, in the order of the page."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in page.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("    "):
            found.setdefault(section, []).append(line.strip())
    return found


def scene(section: str):
    """Marks the test that runs that section's commands, with `page`."""
    SCENES.add(section)
    return pytest.mark.parametrize("page", [section], indirect=True, ids=[""])


class Section:
    def __init__(self, lab, title: str):
        self._lab = lab
        self.left = blocks(PAGE.read_text())[title]

    def run(self, node, *words: str, code: int = 0) -> CompletedProcess[str]:
        """The section's next command on that node, with these words in place of those that are the reader's, in their order."""
        line = self.left.pop(0)
        mine = iter(words)
        line = WORD.sub(lambda found: next(mine, found[0]), line)
        assert next(mine, None) is None, f"{line}: has fewer words to replace than {words}"
        assert line.startswith(PROGRAM), f"{line}: is no command of this program"
        done = command(self._lab, node, *shlex.split(line)[1:])
        assert done.returncode == code, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture
def page(request, lab):
    section = Section(lab, request.param)
    yield section
    assert not section.left, f"not run: {section.left}"


@pytest.fixture
def bucket(lab):
    """By hand only: what a test stores is all there is."""
    s3 = lab.ec2.client("s3")
    make_bucket(s3)
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    lab.env |= QUICK | {"MUSTER_SNAPSHOTS": f"s3://{BUCKET}/etcd/blue", "MUSTER_SNAPSHOT_EVERY": "0"}
    return s3


def make_bucket(s3) -> None:
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})


def empty_bucket(s3) -> None:
    for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=entry["Key"])


def in_bucket(s3, suffix: str = ".json") -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []) if entry["Key"].endswith(suffix)]


def save(lab, node) -> None:
    done = command(lab, node, "snapshot", "save")
    assert done.returncode == 0, done.stdout + done.stderr


def plan_id(done: CompletedProcess[str]) -> str:
    return field(done.stdout, r"(?m)^plan +([0-9a-f]+)$")


def wait_possible(lab, node, *arguments: str) -> None:
    """The plan has no obstacle any more: the command exits with 0."""
    lab.wait(lambda: command(lab, node, *arguments).returncode == 0, BOUND, f"a plan of {arguments}")


def test_every_block_of_the_page_has_a_scene():
    assert set(blocks(PAGE.read_text())) == SCENES


@scene("A lost member")
def test_a_lost_member(lab, page):
    nodes = form(lab, 3, size=3, **QUICK)
    at, lost = nodes[0], nodes[2]
    lost_id = member_ids(at)[lost.peer_url]
    lab.stop_instances(lost)
    lab.wait(lambda: "its instance exists" in command(lab, at, "plan").stdout, BOUND, "the others see it")
    shown = page.run(at)
    row = next(line for line in shown.stdout.splitlines() if lost_id in line)
    assert lost.address in row or lost.instance.id in row, shown.stdout
    assert f"member {lost_id} does not answer; its instance exists" in page.run(at).stdout


@scene("A lost quorum")
def test_a_lost_quorum(lab, page):
    nodes = form(lab, 3, size=3, **QUICK)
    survivor, *gone = nodes
    survivor.etcd.put("kept", "1")
    old = gone[0].snapshot()
    for node in gone:
        lab.terminate(node)
    wait_possible(lab, survivor, "recover")
    shown = page.run(survivor)
    assert shown.stdout.count("lost for good") == 2, shown.stdout
    page.run(survivor, plan_id(shown))
    assert survivor.etcd.get("kept") == "1"
    wait_formed(lab, survivor)
    new = launch(lab, 2)
    # As on another survivor: data of the old cluster.
    new[0].restore(old)
    planned = page.run(new[0])
    page.run(new[0], plan_id(planned))
    start(*new)
    wait_formed(lab, survivor, *new)
    assert list(new[0].data.glob("quarantine-*"))


@scene("A lost fleet")
def test_a_lost_fleet(lab, page, bucket):
    old = form(lab, 3, size=3)
    old[0].etcd.put("kept", "1")
    save(lab, old[0])
    for node in old:
        lab.terminate(node)
    new = launch(lab, 3)
    start(*new)
    wait_looks(lab, *new)
    wait_possible(lab, new[0], "restore")
    shown = page.run(new[0])
    page.run(new[0], plan_id(shown))
    wait_formed(lab, *new)
    assert all(node.etcd.get("kept") == "1" for node in new)


@scene("Lost snapshots")
def test_lost_snapshots(lab, page, bucket):
    (node,) = form(lab, 1, size=1)
    save(lab, node)
    (first,) = in_bucket(bucket)
    node.etcd.put("kept", "1")
    save(lab, node)
    for entry in (first, first.removesuffix(".json") + ".db"):
        bucket.delete_object(Bucket=BUCKET, Key=entry)
    (second,) = in_bucket(bucket)
    name = second.removeprefix("etcd/blue/").removesuffix(".json")
    assert name in page.run(node).stdout
    assert name in page.run(node).stdout
    node.etcd.put("kept", "2")
    page.run(node)
    assert len(in_bucket(bucket)) == 2


@scene("A deleted bucket")
def test_a_deleted_bucket(lab, page, bucket, tmp_path):
    (node,) = form(lab, 1, size=1)
    save(lab, node)
    empty_bucket(bucket)
    bucket.delete_bucket(Bucket=BUCKET)
    done = command(lab, node, "snapshot", "save")
    assert done.returncode == 1 and "NoSuchBucket" in done.stdout + done.stderr, done.stdout + done.stderr
    page.run(node, str(tmp_path))
    assert len(list(tmp_path.rglob("*.db"))) == 1 and node.etcd.health()
    # Whoever has no data can't tell.
    lab.env["MUSTER_CLUSTER_SIZE"] = "1"
    lab.terminate(node)
    (fresh,) = launch(lab, 1)
    fresh.start()
    wait_said(lab, fresh, "whether a cluster was is unknown")
    stop(fresh)
    make_bucket(bucket)
    assert command(lab, fresh, "snapshot", "list").returncode == 0


@scene("A bad upgrade")
def test_a_bad_upgrade(lab, page, bucket, etcd_version):
    minor = int(etcd_version.split(".")[1])
    nodes = form(lab, 3, size=3)
    page.run(nodes[0])
    assert len(in_bucket(bucket)) == 1
    # The page's release, or, where the lab runs another than the one before it, one that is no step too far.
    target = "3.7.3" if minor == 6 else f"3.{minor}.99"
    lab.wait(lambda: command(lab, nodes[0], "upgrade", "--check", target).returncode == 0, BOUND, "go")
    assert "go" in page.run(nodes[0], target).stdout


@scene("Addresses that all changed")
def test_addresses_that_all_changed(lab, page):
    """Here the others are stopped: what a member sees of those whose addresses it does not know is the same."""
    nodes = form(lab, 3, size=3, **QUICK)
    chosen, *others = nodes
    chosen.etcd.put("kept", "1")
    ids = member_ids(chosen)
    lost = [ids[node.peer_url] for node in others]
    for node in others:
        stop(node)
    named = [word for member in lost for word in ("--lost", member)]
    wait_possible(lab, chosen, "recover", *named)
    shown = page.run(chosen, *lost)
    # "And go on as for a lost quorum": with what the plan says there.
    order = field(shown.stdout, r"(?m)^to do it: etcd-muster (.+)$")
    done = command(lab, chosen, *shlex.split(order))
    assert done.returncode == 0, done.stdout + done.stderr
    wait_formed(lab, chosen)
    planned = page.run(others[0])
    page.run(others[0], plan_id(planned))
    planned = command(lab, others[1], "set-aside")
    assert command(lab, others[1], "set-aside", "--yes", plan_id(planned)).returncode == 0
    start(*others)
    wait_formed(lab, *nodes)
    assert all(node.etcd.get("kept") == "1" for node in nodes)
    assert all(list(node.data.glob("quarantine-*")) for node in others)
