"""The image itself, run by Docker: three containers on a network of their own, through what happens to containers."""

from __future__ import annotations

import io
import re
import shlex
import statistics
import subprocess
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import engine
import pytest
from archives import ETCD, REPOSITORY, SOURCE, Archive, run_script
from engine import Engine, docker
from fleet import BOUND, keep, leader_of, member_ids, said, wait_formed
from machines import Machine, Machines
from muster_tools.lab import install
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.moments import covered
from muster_tools.lab.node import claim_network

REASON = engine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"nothing is run in containers: {REASON}")

USER = 2379
QUICK = {
    "MUSTER_CLUSTER_SIZE": "3",
    "MUSTER_LOG": "debug",
    "MUSTER_REMOVE_AFTER": "1s",
    "MUSTER_PROBE_TIMEOUT": "1s",
    "BOOTSTRAP_WAIT": "500ms",
}
RESTARTS, FOUNDINGS = 7, 3  # whose median is told
OWN_START = 50  # ms; what a start may cost beside AWS's answers


@pytest.fixture(scope="module")
def docker_engine():
    with Engine() as made:
        yield made


@pytest.fixture(scope="module")
def loaded(docker_engine: Engine, image: Archive) -> str:
    return docker_engine.load(image)


@pytest.fixture
def lab(docker_engine: Engine, loaded: str, cloud: Ec2):
    with Machines(docker_engine, cloud, loaded, QUICK) as made:
        yield made


def form(lab: Machines, image: str | None = None) -> list[Machine]:
    nodes = [lab.add() for _ in range(3)]
    in_parallel(lambda node: node.run(image or lab.image), nodes)
    wait_formed(lab, *nodes)
    return nodes


def in_parallel(what, nodes: list[Machine]) -> None:
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(what, nodes))


def wait_healthy(lab: Machines, *nodes: Machine) -> None:
    lab.wait(lambda: all(node.etcd.health() for node in nodes), BOUND, "healthy members")


def wait_written(lab: Machines, node: Machine, key: str) -> None:
    """A put that has to wait for an election is put again: the same value, so once is as good as twice."""
    lab.wait(lambda: node.etcd.put(key, "kept") is None, BOUND, f"write of {key} at {node.address}")


# The image.


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_dockerfile_scratch_describes_the_image_that_the_script_writes(docker_engine, image, binary, etcd, tmp_path, buildkit):
    """Files, modes, owners, and all that an engine is told."""
    if buildkit and subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode != 0:
        pytest.skip("docker has no buildx here")
    done = run_script("image", "--etcd", etcd, "--binary", binary, "--source", SOURCE, "--context", tmp_path / "context")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:2] == ["docker", "build"] and Path(words[3]) == REPOSITORY / "Dockerfile.scratch"
    name = words.index("-t")
    built = docker_engine.build(*words[2:name], *words[name + 2 :], buildkit=buildkit)
    (tmp_path / "built.tar").write_bytes(subprocess.run(["docker", "save", built], check=True, capture_output=True).stdout)
    theirs = Archive(tmp_path / "built.tar")
    assert theirs.entries() == image.entries()
    told = {key: value for key, value in theirs.config.items() if key != "Hostname"}
    assert told == image.config
    assert all(theirs.about[key] == image.about[key] for key in ("architecture", "os"))


def test_the_engine_calls_it_by_the_digest_that_the_script_told(image, loaded):
    config = image.manifest["Config"].rpartition("/")[2]
    # The classic image store names an image by its config, containerd's by its manifest.
    manifests = re.findall(r'"digest":"(sha256:[0-9a-f]{64})"', image.blobs["index.json"].decode())
    assert docker("inspect", "--format={{.Id}}", loaded) in (f"sha256:{config}", *manifests)


# Containers.


def test_three_form_a_cluster_without_any_rights_and_are_healthy(lab):
    nodes = form(lab)
    nodes[0].etcd.put("key", "value")
    assert [node.etcd.get("key") for node in nodes] == ["value"] * 3
    lab.wait(lambda: all(node.state()["Health"]["Status"] == "healthy" for node in nodes), BOUND, "HEALTHCHECK's word")
    for node in nodes:
        # Supervisor and etcd alike: as /proc shows them from outside.
        judged = 0
        for pid in docker("top", node.container, "-o", "pid").split()[1:]:
            with suppress(FileNotFoundError):  # a HEALTHCHECK that has ended since
                status = Path(f"/proc/{pid}/status").read_text()
                assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status and f"Gid:\t{USER}\t" in status
                assert "CapEff:\t0000000000000000\n" in status and "NoNewPrivs:\t1\n" in status
                judged += 1
        assert judged >= 2
    for command in (("etcdctl", "member", "list"), ("etcd-muster", "health", "--cluster")):  # found without a path
        told = docker("exec", nodes[0].container, *command)
        assert all(node.address in told for node in nodes), told
    in_parallel(lambda node: docker("stop", "--time=40", node.container), nodes)
    assert [node.state()["ExitCode"] for node in nodes] == [0] * 3


def test_on_the_hosts_network_with_the_volumes_that_the_image_asks_for(lab):
    network, claim = claim_network()
    with claim:
        node = lab.add_on_the_host(f"{network}.11", MUSTER_CLUSTER_SIZE="1")
        node.run(lab.image)
        wait_formed(lab, node)
        mounts = docker("inspect", "--format={{range .Mounts}}{{.Type}} {{.Destination}};{{end}}", node.container)
        assert sorted(mounts.strip(";").split(";")) == ["volume /etcd/data", "volume /etcd/wal"]
        docker("stop", "--time=40", node.container)
        assert node.state()["ExitCode"] == 0


def test_a_killed_one_whose_instance_ends_is_replaced(lab):
    nodes = form(lab)
    nodes[0].etcd.put("before", "kept")
    dead = leader_of(lab, *nodes)
    rest = [node for node in nodes if node is not dead]
    docker("kill", dead.container)
    assert dead.state()["ExitCode"] == 137
    wait_written(lab, rest[0], "between")
    lab.terminate(dead)
    new = lab.add()
    new.run(lab.image)
    wait_formed(lab, *rest, new)
    assert (new.etcd.get("before"), new.etcd.get("between")) == ("kept", "kept")
    assert dead.peer_url not in member_ids(new)


def test_a_paused_one_is_silent_and_no_more(lab):
    """`docker pause` freezes all in it, with every connection open. Nobody is removed for that."""
    nodes = form(lab)
    before = member_ids(nodes[0])
    frozen = leader_of(lab, *nodes)
    awake = [node for node in nodes if node is not frozen]
    docker("pause", frozen.container)
    wait_written(lab, awake[0], "meanwhile")
    assert member_ids(awake[0]) == before
    docker("unpause", frozen.container)
    wait_formed(lab, *nodes)
    assert frozen.etcd.get("meanwhile") == "kept" and member_ids(frozen) == before


def test_one_that_loses_its_network_comes_back(lab):
    nodes = form(lab)
    before, cluster = member_ids(nodes[0]), nodes[0].etcd.cluster_id()
    cut = leader_of(lab, *nodes)
    others = [node for node in nodes if node is not cut]
    docker("network", "disconnect", lab.network, cut.container)
    wait_written(lab, others[0], "meanwhile")
    assert cut.state()["Running"] and member_ids(others[0]) == before
    docker("network", "connect", f"--ip={cut.address}", lab.network, cut.container)
    wait_formed(lab, *nodes)
    assert cut.etcd.get("meanwhile") == "kept" and member_ids(cut) == before and cut.etcd.cluster_id() == cluster
    assert cut.log_text().count("etcd runs as process") == 1


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_all_at_once(lab, how):
    """As when the engine restarts, or every machine loses its power."""
    nodes = form(lab)
    keep(nodes, "key", "kept")
    before, cluster = member_ids(nodes[0]), nodes[0].etcd.cluster_id()
    if how == "restart":
        in_parallel(lambda node: docker("restart", "--time=40", node.container), nodes)
    else:
        in_parallel(lambda node: docker("kill", node.container), nodes)
        in_parallel(lambda node: docker("start", node.container), nodes)
    assert wait_formed(lab, *nodes) == cluster
    assert [node.etcd.get("key") for node in nodes] == ["kept"] * 3 and member_ids(nodes[0]) == before


# etcd 3.4 to 3.5.


@pytest.fixture
def older(docker_engine: Engine, loaded: str) -> str:
    """The image with Debian's etcd 3.4.23, which needs its loader and libraries."""
    binaries = install.etcd_binaries(install.DEBIAN_ETCD)
    if not binaries.is_dir():
        pytest.skip(f"etcd {install.DEBIAN_ETCD} is not installed: scripts/install-lab --with-etcd-3.4")
    needed = subprocess.run(["ldd", str(binaries / "etcd")], check=True, capture_output=True, text=True).stdout
    files = {path: Path(path) for path in re.findall(r"(/\S+) \(0x", needed)}
    files |= {f"/etcd/bin/{name}": binaries / name for name in ("etcd", "etcdctl")}
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for place, path in files.items():
            archive.add(path.resolve(), f"root{place}")
        text = f"FROM {loaded}\nCOPY --chown=0:0 root/ /\n".encode()
        header = tarfile.TarInfo("Dockerfile")
        header.size = len(text)
        archive.addfile(header, io.BytesIO(text))
    return docker_engine.build("-", stdin=context.getvalue())


@pytest.fixture
def images(docker_engine: Engine, binary: Path, tmp_path: Path) -> dict[str, str]:
    """The image as the script writes it, with each of the current releases."""
    made = {}
    for release in (install.newest("3.5.", install.DEFAULT_CACHE), "3.6.16", "3.7.3"):
        directory = install.etcd_binaries(release)
        if not directory.is_dir():
            pytest.skip(f"etcd {release} is not installed: scripts/install-lab --with-etcd {release}")
        output = tmp_path / f"{release}.tar"
        done = run_script("image", "--etcd", directory, "--binary", binary, "--source", SOURCE, "--output", output)
        assert done.returncode == 0, done.stderr
        made[release] = docker_engine.load(Archive(output))
    return made


def test_etcd_is_upgraded_one_member_at_a_time(lab, older):
    nodes = form(lab, older)
    cluster, before = nodes[0].etcd.cluster_id(), member_ids(nodes[0])
    for turn, node in enumerate(nodes):
        assert node.etcd.status()["version"] == install.DEBIAN_ETCD
        node.remove()
        wait_written(lab, nodes[turn - 1], f"without {turn}")
        node.run(lab.image)
        wait_healthy(lab, *nodes)
        assert node.etcd.status()["version"] == ETCD
    lab.wait(lambda: {node.etcd.peer_version()["etcdcluster"] for node in nodes} == {"3.5.0"}, BOUND, "a cluster of 3.5")
    assert [node.etcd.get(f"without {turn}") for turn in range(3) for node in nodes] == ["kept"] * 9
    assert member_ids(nodes[0]) == before and wait_formed(lab, *nodes) == cluster


def test_a_volume_goes_from_image_to_image(lab, images):
    """A container of the next release takes over a member's volumes; one of a release too far waits, and touches nothing."""
    first, middle, last = images
    node = lab.add(MUSTER_CLUSTER_SIZE="1")

    def may_go_to(release: str) -> bool:
        done = subprocess.run(["docker", "exec", node.container, "etcd-muster", "upgrade", "--check", release], capture_output=True)
        return done.returncode == 0

    node.run(images[first])
    wait_formed(lab, node)
    node.etcd.put("key", "kept")
    cluster = node.etcd.cluster_id()
    node.remove()
    node.run(images[last])
    lab.wait(lambda: said(node, f"hold: the etcd here is {last}", "run 3.6 on every member first"), BOUND, "a hold")
    assert node.state()["Running"] and "etcd runs as process" not in node.log_text()
    node.remove()
    for release in (middle, last):
        node.run(images[release])
        assert wait_formed(lab, node) == cluster and node.etcd.status()["version"] == release
        assert node.etcd.get("key") == "kept"
        if release != last:
            lab.wait(lambda: may_go_to(last), 3 * BOUND, f"a member ready for {last}")
            node.remove()


# How long a start takes.


def test_what_a_start_costs_beside_awss_answers(lab):
    """Into a living cluster, by the supervisor's own lines. Told, not judged: one run on a shared machine says little."""
    nodes = form(lab)
    node = nodes[0]
    starts = []
    for _ in range(RESTARTS):
        wait_healthy(lab, *nodes)
        since = len(node.log_text())
        docker("restart", "--time=40", node.container)
        lab.wait(lambda: "etcd runs as process" in node.log_text()[since:], BOUND, "another life")
        log = node.log_text()[since:]
        starts.append(phases(node.started_at(), log, moment(log, "etcd runs as process"), node.front.answered))
    tell(f"a container's start into a living cluster, until etcd is spawned; medians of {RESTARTS}", starts)


def test_what_a_founding_costs_beside_awss_answers(docker_engine, loaded, cloud):
    """From the last one's first line to the first etcd: in between is a founding round, which is synced to all three disks."""
    starts = []
    for _ in range(FOUNDINGS):
        with Machines(docker_engine, cloud, loaded, QUICK) as lab:
            *ready, last = [lab.add() for _ in range(3)]
            in_parallel(lambda node: node.run(lab.image), ready)
            for node in ready:
                lab.wait(lambda: said(node, "hold: "), BOUND, "two that wait for the third")
            last.run(lab.image)
            wait_formed(lab, *ready, last)
            spawned = {moment(node.log_text(), "etcd runs as process"): node for node in lab.nodes}
            first = min(spawned)
            awaited = [*last.front.answered, *spawned[first].front.answered]
            starts.append(phases(last.started_at(), last.log_text(), first, awaited))
    tell(f"the last of three containers' start, until the first etcd is spawned; medians of {FOUNDINGS}", starts)


def phases(container: datetime, log: str, spawned: datetime, answered: Iterable[tuple[float, float]]) -> dict[str, float]:
    """Of one start, in ms; `answered` are EC2's answers to who had to wait for them."""
    first, known, end = moment(log, "status is served").timestamp(), moment(log, "this is i-").timestamp(), spawned.timestamp()
    inside = [(max(since, first), min(until, end)) for since, until in answered if since < end and until > first]
    assert inside, "it asked EC2"
    theirs = covered([*inside, (first, known)])
    lasted = {
        "the container's start, by the engine, to the supervisor's first line": first - container.timestamp(),
        "that line to etcd spawned": end - first,
        "of it the metadata service's and EC2's answers (the emulator's time)": theirs,
        "and our own": end - first - theirs,
    }
    return {name: seconds * 1000 for name, seconds in lasted.items()}


def tell(what: str, starts: list[dict[str, float]]) -> None:
    print(f"\n{what}, in ms")
    for name in starts[0]:
        print(f"  {name}: {statistics.median(start[name] for start in starts):.0f}")
    print(f"  the bound for our own: {OWN_START}")


def moment(log: str, mark: str) -> datetime:
    line = next(line for line in log.splitlines() if "etcd-muster: " in line and mark in line)
    return datetime.fromisoformat(line.split("Z")[0] + "+00:00")
