"""A lab runs real processes on addresses of its own, and leaves none of them behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from muster_tools.lab import install
from muster_tools.lab.node import Lab, static_list_arguments
from muster_tools.repository import SCRIPTS


def alive(pid: int) -> bool:
    """Zombies are dead: reaping orphans is for the machine's PID 1, which may take its time."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("release", install.built_releases())
def test_a_release_is_built_from_that_release_and_no_other(release):
    """`go get` without versions moves all three programs to the newest, in any folder."""
    text = (install.ETCD_MODULES / release / "go.mod").read_text()
    for module in install.ETCD_PROGRAMS.values():
        assert f"\tgo.etcd.io/etcd/{module}/v3 v{release} " in text


@pytest.fixture
def script(tmp_path):
    """Stands in for the supervisor: a program of one's own, given as shell text."""

    def write(text: str) -> Path:
        path = tmp_path / "supervisor"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.mark.parametrize("version", install.releases())
def test_three_plain_etcds(version):
    if not install.etcd_binaries(version).is_dir():
        pytest.skip("not installed")
    with Lab(etcd=version) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(3)]
        for node in nodes:
            node.start_plain_etcd(static_list_arguments(node, nodes))
        lab.wait(lambda: all(node.etcd.health() for node in nodes), 20, "three healthy etcds")
        one, other, _ = (node.etcd for node in nodes)
        one.put("key", "välue")
        assert (other.get("key"), other.get("none")) == ("välue", None)
        assert {member.name for member in one.members()} == {node.address for node in nodes}
        assert sorted(one.peer_members(), key=repr) == sorted(one.members(), key=repr)
        assert one.peer_version()["etcdserver"] == version
        assert one.cluster_id() == other.cluster_id()
        assert sum(node.etcd.is_leader() for node in nodes) == 1
        nodes[2].kill(signal.SIGTERM)
        assert nodes[2].wait_exit(10) == -signal.SIGTERM
        pids = [pid for node in nodes[:2] for pid in node.process.session()]
        assert pids and all(map(alive, pids))
    assert not any(map(alive, pids))
    assert not lab.directory.exists()


def test_what_is_committed_is_in_the_database():
    """Not only in the WAL: etcd's own commits are put off for an hour."""
    with Lab() as lab:
        node = lab.add_node(launch=False)
        node.start_plain_etcd([*static_list_arguments(node, [node]), "--backend-batch-interval=1h"])
        lab.wait(node.etcd.health, 20, "a healthy etcd")
        node.etcd.put("key", "a value of its own")
        database = node.data / "member/snap/db"
        assert b"a value of its own" not in database.read_bytes()
        node.etcd.commit()
        assert b"a value of its own" in database.read_bytes()


def test_a_node_is_given_its_own_variables_and_no_others(script, ec2, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-user's")
    with Lab(muster=script('echo "$1"; env'), env={"MUSTER_CLUSTER_SIZE": "3"}, shared_ec2=ec2) as lab:
        node = lab.add_node(env={"ETCD_MEMBER_TYPE": "host"})
        node.start()
        assert node.wait_exit(5) == 0
        command, *variables = node.log_text().splitlines()
        assert command == "run"
        told = dict(line.split("=", 1) for line in variables)
        assert told["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == f"http://{node.address}:1338"
        assert told["AWS_ENDPOINT_URL_EC2"] == node.front.url
        assert (told["MUSTER_CLUSTER_SIZE"], told["ETCD_MEMBER_TYPE"]) == ("3", "host")
        assert "AWS_ACCESS_KEY_ID" not in told
        assert os.path.samefile(Path(told["ED_HOME"]) / "bin" / "etcd", lab.etcd_binary)


def test_orphans_of_a_killed_supervisor_end_with_the_lab(script):
    # The child has a process group of its own, as a supervisor may well give it.
    with Lab(muster=script("set -m; sleep 1000 & echo started; wait")) as lab:
        node = lab.add_node(launch=False)
        node.start()
        lab.wait(lambda: "started" in node.log_text(), 5, "child")
        node.kill()
        assert node.wait_exit(5) == -signal.SIGKILL
        (orphan,) = node.process.session()
        node.start()
        assert alive(orphan)
    assert not alive(orphan)


def test_a_run_that_is_told_to_stop_leaves_nothing(script):
    body = f"""
import sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
from pathlib import Path
from muster_tools.lab.node import Lab
with Lab(muster=Path({str(script("exec sleep 1000"))!r})) as lab:
    node = lab.add_node(launch=False)
    node.start()
    print(node.process.pid, flush=True)
    time.sleep(1000)
"""
    run = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with run:
        node = int(run.stdout.readline())
        assert alive(node)
        run.terminate()
        assert run.wait(10) == 128 + signal.SIGTERM
        kept = run.stderr.read().split()[-1]
    assert not alive(node)
    shutil.rmtree(kept)


def test_instances_come_and_go(ec2):
    with Lab(shared_ec2=ec2) as lab:
        node, other = lab.add_node(), lab.add_node()
        first = node.instance
        assert first.private_ip == node.address != other.address
        lab.stop_instances(node)
        lab.start_instances(node)
        assert node.instance.id == first.id
        (node.data / "file").touch()
        lab.terminate(node)
        assert node.imds is None and not list(node.data.iterdir())
        assert ec2.describe(first.id).state == "terminated"
        replacement = lab.add_node(address=node.address)
        assert replacement.instance.id != first.id
        assert replacement.imds.url == f"http://{node.address}:1338"


def test_a_fleet_is_stopped_and_started_as_one(ec2):
    with Lab(shared_ec2=ec2) as lab:
        nodes = [lab.add_node() for _ in range(3)]
        before = [node.instance for node in nodes]
        (nodes[0].data / "file").touch()
        lab.stop_instances(*nodes)
        assert {ec2.describe(one.id).state for one in before} == {"stopped"}
        lab.start_instances(*nodes)
        assert [(node.instance.id, node.instance.private_ip) for node in nodes] == [(one.id, one.private_ip) for one in before]
        assert (nodes[0].data / "file").exists() and all(node.front is not None for node in nodes)


WRITER = """mkdir -p "$ED_DATA/muster"; echo mine >"$ED_DATA/muster/ledger.json"
n=0; while :; do n=$((n + 1)); echo $n >>"$ED_DATA/first"; echo $n >>"$ED_WAL/second"; done"""


def test_a_snapshot_is_of_one_moment_and_can_be_given_back_or_to_another(script):
    """As a volume's: what was written first is there if what was written after it is. And what ran goes on."""
    with Lab(muster=script(WRITER)) as lab:
        node, other = lab.add_node(launch=False), lab.add_node(launch=False)
        last = lambda folder, name: int((folder / name).read_text().splitlines()[-1])
        node.start()
        lab.wait(lambda: (node.wal / "second").exists(), 5, "a first write")
        for _ in range(5):
            snapshot = node.snapshot()
            written = last(snapshot / "wal", "second")
            assert last(snapshot / "data", "first") in (written, written + 1)
            lab.wait(lambda: last(node.wal, "second") > written, 5, "more writing")
        with pytest.raises(ValueError):
            node.restore(snapshot)
        node.power_off()
        node.restore(snapshot)
        assert last(node.wal, "second") == written and (node.data / "muster" / "ledger.json").exists()
        other.restore(snapshot, ledger=False)
        assert last(other.wal, "second") == written and not (other.data / "muster").exists()


def test_a_wait_that_fails_shows_every_log(script):
    with Lab(muster=script("echo I am $$; exit 7")) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(2)]
        for node in nodes:
            node.start()
            node.wait_exit(5)
        with pytest.raises(AssertionError) as failure:
            lab.wait(nodes[0].etcd.health, 0.1, "health")
        for node in nodes:
            assert f"{node.address}, exited 7\nI am {node.process.pid}" in str(failure.value)
        assert "ConnectionRefusedError" in str(failure.value)


def test_the_directory_is_kept_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RuntimeError), Lab() as lab:
        raise RuntimeError("a test that fails")
    assert lab.directory.exists()
    with Lab() as lab:
        lab.keep = True
    assert lab.directory.exists()


def test_labs_side_by_side_have_networks_of_their_own():
    with Lab() as one, Lab() as other:
        assert one.network != other.network


def test_installing_again_changes_nothing():
    if Path(sys.prefix) != install.DEFAULT_CACHE / "venv":
        pytest.skip("run by another python than the lab's")
    done = subprocess.run([sys.executable, str(SCRIPTS / "install-lab")], capture_output=True, text=True, timeout=5)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(install.python())
