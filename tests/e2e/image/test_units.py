"""The systemd units: what systemd thinks of them, and the bare one run by a real systemd, sandbox and all."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable

import engine
import pytest
import systemd
from archives import REPOSITORY
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.ec2_front import Ec2Front
from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.imds import Imds
from muster_tools.lab.node import POLL_SECONDS, claim_network

UNITS = REPOSITORY / "scripts" / "units"
BARE = "etcd-muster.service"
SERVICES = (BARE, "etcd-muster-docker.service", "etcd-muster-podman.service")
FATAL = {64, 65, 72, 73, 77, 78}  # src/exit.rs: what a restart won't mend
USER = 2379
BOUND = 60  # seconds
WORST_EXPOSURE = 2.0  # of 10, for the bare unit

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")


def setting(unit: str, name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.M)
    return found


def verified(text: str, unit: str, root: Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze verify` on a machine that has every program that units name."""
    (root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    for program in ("opt/etcd/bin/etcd-muster", "usr/bin/docker", "usr/bin/podman", "usr/bin/install", "usr/bin/mkdir"):
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    targets = root / "usr/lib/systemd/system"
    targets.mkdir(parents=True, exist_ok=True)
    for name in systemd.TARGETS:
        (targets / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (targets / "docker.service").write_text("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/docker\n")
    (root / "etc/systemd/system" / unit).write_text(text)
    command = ["systemd-analyze", "verify", f"--root={root}", "--man=no", unit]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_has_nothing_to_say_about_them(unit, tmp_path):
    done = verified((UNITS / unit).read_text(), unit, tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
def test_and_would_have(tmp_path):
    text = (UNITS / BARE).read_text()
    assert "KillMood" in verified(text.replace("KillMode", "KillMood"), BARE, tmp_path).stderr
    assert verified(text.replace("Type=notify", "Type=hope"), BARE, tmp_path).stderr
    assert "is not executable" in verified(text.replace("bin/etcd-muster run", "bin/other run"), BARE, tmp_path).stderr


@needs_analyze
def test_how_exposed_they_are():
    scores = {}
    for unit in SERVICES:
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        scores[unit] = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)[1])
        print(f"\nsystemd-analyze security {unit}: {scores[unit]}", end="")
    print(" (with a container, of the engine's client: what is in the container is confined by the engine)")
    assert scores[BARE] <= WORST_EXPOSURE


def test_they_agree_with_each_other_and_with_the_program(image):
    stop_timeout = int(re.search(r"^\| `MUSTER_STOP_TIMEOUT` \| (\d+) \|", (REPOSITORY / "docs/variables.md").read_text(), re.M)[1])
    version = image.config["Labels"]["org.opencontainers.image.version"]
    for unit in SERVICES:
        text = (UNITS / unit).read_text()
        assert set(map(int, setting(unit, "RestartPreventExitStatus").split())) == FATAL
        longest = int(setting(unit, "TimeoutStopSec").removesuffix("s"))
        assert longest > stop_timeout
        if unit != BARE:
            engine = set(map(int, re.findall(r"--(?:stop-timeout|time)=(\d+)", text)))
            assert len(engine) == 1 and stop_timeout < engine.pop() < longest
            assert setting(unit, "Environment").endswith(f"etcd-muster:{version}")
            assert f"-o {USER} -g {USER}" in text
    assert setting(BARE, "WatchdogSec") == "5min" and setting(BARE, "OOMPolicy") == "continue"
    # conmon is only the unit's own main process where it stays in the unit's cgroup.
    podman = (UNITS / "etcd-muster-podman.service").read_text()
    assert setting("etcd-muster-podman.service", "Type") == "notify" and setting("etcd-muster-podman.service", "NotifyAccess") == "all"
    assert "--sdnotify=container" in podman and "--cgroups=no-conmon" in podman
    # podman load loses the image's: it is the same in the unit.
    check = image.config["Healthcheck"]
    (told,) = re.findall(r"--health-cmd=(\[[^']*\])'", podman)
    assert ["CMD", *json.loads(told)] == check["Test"]
    for name, flag in {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start-period"}.items():
        (value,) = re.findall(rf"--health-{flag}=(\S+)", podman)
        assert int(value[:-1]) * {"s": 1, "m": 60}[value[-1]] * 10**9 == check[name]
    assert image.config["User"] == f"{USER}:{USER}"
    assert f"u etcd-muster {USER} " in (UNITS / "etcd-muster.sysusers").read_text()


# The container's unit, run.


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root: it makes another user's directories")
@pytest.mark.skipif(engine.missing() is not None, reason=f"nothing is run in containers: {engine.missing()}")
def test_the_container_units_command_runs_etcd_and_ends_with_its_exit_code(image, cloud: Ec2, tmp_path):
    """Each line word for word; but for names and places, which on this machine may be somebody else's."""
    network, claim = claim_network()
    settings = tmp_path / "env"
    cloud.reset(network.rpartition(".")[0])
    with claim, engine.Engine() as docker, instance_at(cloud, f"{network}.11") as (etcd, env):
        settings.write_text("MUSTER_CLUSTER_SIZE=1\nETCD_MEMBER_TYPE=ip\n" + env)
        places = {"/var/lib/etcd": tmp_path / "etcd", "/etc/etcd-muster": tmp_path, "${IMAGE}": docker.load(image)}
        places |= {"--name=etcd": f"--name={docker.name} --label={docker.label}", "=40 etcd": f"=40 {docker.name}"}

        # An engine that may not raise limits itself refuses to; systemd takes what it can get.
        files = min(40000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        places["nofile=40000:40000"] = f"nofile={files}:{files}"

        def words(line: str) -> list[str]:
            for ours, theirs in places.items():
                line = line.replace(ours, str(theirs))
            return shlex.split(line)

        unit = (UNITS / "etcd-muster-docker.service").read_text().replace("\\\n", " ")
        (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.M)
        (stop,) = re.findall(r"^ExecStop=-(.*)$", unit, re.M)
        for line in re.findall(r"^ExecStartPre=([^-].*)$", unit, re.M):
            subprocess.run(words(line), check=True)
        log = (tmp_path / "log").open("wb")
        with log, subprocess.Popen(words(start), stdout=log, stderr=subprocess.STDOUT) as client:
            try:
                wait(lambda: client.poll() is not None or etcd.health(), "a healthy etcd")
                assert client.poll() is None, (tmp_path / "log").read_text()
                subprocess.run(words(stop), check=True, stdout=subprocess.DEVNULL, timeout=60)
                assert client.wait(60) == 0, (tmp_path / "log").read_text()
            finally:
                client.kill()
        assert (tmp_path / "etcd/data/member").is_dir() and (tmp_path / "etcd/wal/wal").is_dir()
        settings.write_text("CLNT_PORT=none\n")
        assert subprocess.run(words(start), capture_output=True, timeout=60).returncode == 78


# The bare unit, run.


def install_commands(text: str, *parts: str) -> list[str]:
    """What INSTALL tells an operator to do, in those parts of it."""
    told = [part for part in re.split(r"^(?=[A-Z])", text, flags=re.M) if part.startswith(parts)]
    assert len(told) == len(parts), parts
    return [line.partition("  #")[0].strip() for part in told for line in part.splitlines() if line.startswith("    ")]


@pytest.mark.skipif(systemd.missing() is not None, reason=f"no systemd is booted: {systemd.missing()}")
def test_three_hosts_by_install_without_a_container_are_a_healthy_cluster(unpacked, cloud: Ec2):
    """Word for word. Then one of them, in its sandbox: stopped, started with its data, and down for good over a bad setting."""
    text = (unpacked / "INSTALL").read_text()
    begin, _ = install_commands(text, "Then")
    _, health = install_commands(text, "Once")
    network, claim = claim_network()
    with ExitStack() as hosts:
        hosts.enter_context(claim)
        cloud.reset(network.rpartition(".")[0])
        instances = [hosts.enter_context(instance_at(cloud, f"{network}.{host}")) for host in (11, 12, 13)]
        settled = install_commands(text, "Settings", "B.")
        managers = [hosts.enter_context(systemd.Systemd(boot_commands(settled, env), unpacked)) for _, env in instances]
        for manager in managers:  # each returns, though it is alone at first
            done = manager.run("sh", "-c", begin)
            assert done.returncode == 0, done.stderr
        for manager in managers:
            manager.wait(lambda: manager.show(BARE, "ActiveState")["ActiveState"] == "active", "READY=1")
        for manager in managers:
            done = manager.run("sh", "-c", health)
            assert done.returncode == 0 and done.stdout.count(f"{network}.1") == 3, done
        live_through(managers[0], instances[0][0])


@contextmanager
def instance_at(cloud: Ec2, address: str) -> Iterator[tuple[EtcdClient, str]]:
    """An instance on a loopback address: its etcd, and the settings by which its supervisor finds the lab's AWS."""
    instance = cloud.launch(address)
    imds = Imds(instance, cloud.role_credentials).start()
    try:
        with Ec2Front(cloud.url) as front:
            env = f"AWS_EC2_METADATA_SERVICE_ENDPOINT={imds.url}\nAWS_ENDPOINT_URL_EC2={front.url}\n"
            yield EtcdClient(instance.private_ip), env
    finally:
        imds.stop()


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        try:
            if condition():
                return
        except NOT_YET:
            pass
        assert time.monotonic() < deadline, f"no {what} within {BOUND} s"
        time.sleep(POLL_SECONDS)


def boot_commands(installing: list[str], settings: str) -> str:
    lines = "\n".join(installing)
    return f"""
{lines}
cat >>/etc/etcd-muster/env <<'END'
{settings}END
mkdir /etc/systemd/system/{BARE}.d
printf '[Service]\\nStandardOutput=append:{systemd.LOG}\\nStandardError=inherit\\n' >/etc/systemd/system/{BARE}.d/log.conf
"""


def live_through(manager: systemd.Systemd, etcd: EtcdClient) -> None:
    def state(*names: str) -> list[str]:
        shown = manager.show(BARE, *names)
        return [shown[name] for name in names]

    (status,) = state("StatusText")
    assert status, "STATUS= is the step and its reason"
    period, fed, limit = state("WatchdogUSec", "WatchdogTimestampMonotonic", "OOMPolicy")
    assert period == "5min" and int(fed) > 0 and limit == "continue", "systemd's watchdog has been fed"
    assert etcd.health()
    etcd.put("key", "kept")
    confined = [Path(f"/proc/{pid}/status").read_text() for pid in processes_of(manager)]
    assert len(confined) == 2, "the supervisor and etcd"
    for told in confined:
        assert f"Uid:\t{USER}\t" in told and "CapEff:\t0000000000000000\n" in told
        assert "NoNewPrivs:\t1\n" in told and "Seccomp:\t2\n" in told
    assert {path.stat().st_mode & 0o7777 for path in map(manager.root, ("/var/lib/etcd/data", "/var/lib/etcd/wal"))} == {0o700}
    # systemd takes what it is allowed to have itself.
    files = min(int(setting(BARE, "LimitNOFILE")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    limits = Path(f"/proc/{processes_of(manager)[0]}/limits").read_text()
    assert re.search(rf"^Max open files +{files} +{files} ", limits, re.M), limits

    assert manager.systemctl("stop", BARE) == ""
    assert state("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"], manager.log()
    assert manager.systemctl("start", BARE) == "", manager.log()
    assert etcd.get("key") == "kept", "start returns once it is ready"

    assert manager.systemctl("stop", BARE) == ""
    with manager.root("/etc/etcd-muster/env").open("a") as settings:
        settings.write("CLNT_PORT=none\n")
    manager.systemctl("start", BARE)
    assert state("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "78", "0"], manager.log()


def processes_of(manager: systemd.Systemd) -> list[int]:
    """By their names, as seen from outside."""
    space = Path(f"/proc/{manager.pid}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                same = (entry / "ns/pid").readlink() == space
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if same and name in ("etcd", "etcd-muster"):
                found.append(int(entry.name))
    return sorted(found)
