"""What machines are told at their first boot: every shape, operating system, runtime and kind of TLS, judged by the
readers' own checkers."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import tools

EC2_USER_DATA_LIMIT = 16384  # bytes, before base64

CA = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=etcd CA"]


@dataclass(frozen=True)
class Host:
    """One rendered machine: `files` and `modes` by path, units among them."""

    name: str
    text: str
    environment: dict[str, str]
    files: dict[str, str]
    modes: dict[str, int]

    @property
    def kind(self) -> tuple[str, ...]:
        return tuple(self.name.split())  # shape, os, run, tls


def parse(name: str, text: str, environment: dict[str, str]) -> Host:
    if name.split()[1] == "ubuntu":
        # cloud-config is YAML, and PyYAML is cloud-init's own and moto's.
        import yaml

        written = yaml.safe_load(text)["write_files"]
        files = {f["path"]: f["content"] for f in written}
        assert all(isinstance(content, str) for content in files.values()), name
        return Host(name, text, environment, files, {f["path"]: int(f["permissions"], 8) for f in written})
    told = json.loads(text)
    files = {f["path"]: gzip.decompress(base64.b64decode(f["contents"]["source"].partition("base64,")[2])).decode() for f in told["storage"]["files"]}
    modes = {f["path"]: f["mode"] for f in told["storage"]["files"]}
    for unit in told["systemd"]["units"]:
        assert unit["enabled"], unit["name"]
        files[f"/etc/systemd/system/{unit['name']}"] = unit["contents"]
    return Host(name, text, environment, files, modes)


@pytest.fixture(scope="session")
def ca(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("ca")
    subprocess.run([*CA, "-keyout", "ca.key", "-out", "ca.crt"], cwd=folder, check=True, capture_output=True)
    return (folder / "ca.crt").read_text(), (folder / "ca.key").read_text()


@pytest.fixture(scope="session")
def hosts(tmp_path_factory, ca) -> list[Host]:
    """All combinations, rendered by the module itself."""
    top = tmp_path_factory.mktemp("render")
    shutil.copytree(tools.SOURCES / "modules" / "host", top / "terraform" / "modules" / "host")
    folder = top / "tests" / "e2e" / "terraform" / "render"
    shutil.copytree(Path(__file__).parent / "render", folder)
    variables = {"TF_VAR_ca_cert": ca[0], "TF_VAR_ca_key": ca[1]}
    tools.terraform(folder, "init", "-no-color", "-input=false")
    tools.terraform(folder, "apply", "-no-color", "-auto-approve", env=variables)
    rendered = json.loads(tools.terraform(folder, "output", "-json", "hosts"))
    return [parse(name, host["user_data"], host["environment"]) for name, host in sorted(rendered.items())]


def needs(program: str) -> str:
    path = tools.program(program)
    if path is None:
        pytest.skip(f"{program} is not installed, and apt-get offers none")
    return path


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=tools.BOUND)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def distinct(hosts: list[Host], path: str) -> dict[str, str]:
    """Each text that some host has at this path, and the name of one such host."""
    return {host.files[path]: host.name for host in hosts if path in host.files}


def test_every_combination_is_there(hosts):
    """Two shapes, three operating systems, four ways to run it, five kinds of TLS."""
    assert len({host.kind for host in hosts}) == 2 * 3 * 4 * 5


def test_ec2_takes_it(hosts):
    """EC2's limit, for what is sent: cloud-config is packed by the module."""
    for host in hosts:
        sent = gzip.compress(host.text.encode()) if host.kind[1] == "ubuntu" else host.text.encode()
        assert len(sent) <= EC2_USER_DATA_LIMIT, f"{host.name}: {len(sent)}"


def test_cloud_init_takes_it(hosts, tmp_path):
    """By cloud-init's own schema."""
    cloud_init = needs("cloud-init")
    # A run takes a second, and to the schema a file's content is a string like any other, which `parse` has seen.
    outlines = {(host.kind[2] == "binary", *host.modes.items()): host for host in hosts if host.kind[1] == "ubuntu"}
    for number, host in enumerate(outlines.values()):
        (tmp_path / f"{number}").write_text(host.text)
        assert "Valid" in run(cloud_init, "schema", "--config-file", str(tmp_path / f"{number}")), host.name


def test_ignition_takes_it(hosts, tmp_path):
    """By Ignition's own validator; a warning counts."""
    validate = needs("ignition-validate")
    for host in hosts:
        if host.kind[1] != "ubuntu":
            (tmp_path / "config.ign").write_text(host.text)
            assert run(validate, str(tmp_path / "config.ign")).strip() == "", host.name


def test_the_units_are_what_systemd_expects(hosts, tmp_path):
    """By systemd's own checker, in a tree that holds the programs which they start."""
    needs("systemd-analyze")
    shutil.copytree("/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True, ignore=shutil.ignore_patterns("docker*"))
    (tmp_path / "lib").symlink_to("usr/lib")
    programs = ("bin/sh", "opt/etcd/bin/etcd-muster", "usr/bin/docker", "usr/bin/podman")
    for program in programs:
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "usr/lib/systemd/system/docker.service").write_text("[Service]\nExecStart=/usr/bin/docker\n")
    units = distinct(hosts, "/etc/systemd/system/etcd.service")
    assert len(units) == 7  # a binary's; and for docker and podman: by the two images' names, and bridged
    place = tmp_path / "etc/systemd/system/etcd.service"
    place.parent.mkdir(parents=True)
    for unit, name in units.items():
        place.write_text(unit)
        said = run("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "etcd.service")
        assert "etcd.service" not in said, f"{name}: {said}"


def test_the_binarys_unit_is_locked_down(hosts, tmp_path):
    """systemd's own score of what the unit leaves open: 0 is nothing, 9.6 is what a unit without a word leaves."""
    needs("systemd-analyze")
    (unit,) = {host.files["/etc/systemd/system/etcd.service"] for host in hosts if host.kind[2] == "binary"}
    (tmp_path / "etcd.service").write_text(unit)
    said = run("systemd-analyze", "security", "--offline=yes", "--threshold=25", str(tmp_path / "etcd.service"))
    print(said.strip().splitlines()[-1])


def test_the_binarys_unit_is_as_confined_as_the_one_without_terraform(hosts):
    """Two units that are written twice drift apart: one was without a filter that the other had. What differs is where data lies."""
    (unit,) = {host.files["/etc/systemd/system/etcd.service"] for host in hosts if host.kind[2] == "binary"}
    own = (tools.REPOSITORY / "scripts/units/etcd-muster.service").read_text()
    confining = {line for line in own.partition("UMask=0077")[2].splitlines() if "=" in line and not line.startswith(("#", "WantedBy="))}
    assert len(confining) > 20 and confining <= set(unit.splitlines()), confining - set(unit.splitlines())


def test_settings_are_for_root_and_the_service(hosts):
    """A proxy's password may be among them."""
    assert {host.modes["/etc/etcd-muster/env"] for host in hosts} == {0o640}


def test_the_scripts_are_sound(hosts, tmp_path):
    """shellcheck, of each script as the machines get it."""
    shellcheck = needs("shellcheck")
    scripts = {path for host in hosts for path in host.files if path.startswith("/opt/etcd/bin/")}
    assert scripts == {f"/opt/etcd/bin/{name}" for name in ("etcd-prepare", "etcd-fetch", "node-etcdctl", "node-muster")}
    for path in scripts:
        for text in distinct(hosts, path):
            (tmp_path / "script").write_text(text)
            run(shellcheck, str(tmp_path / "script"))


def test_a_secret_is_in_the_user_data_only_where_it_was_asked_for(hosts, ca):
    """Minted: the CA's certificate is there, its key is not, but where it was given inline, and there for its owner only."""
    for host in hosts:
        inline = host.kind[3] == "inline"
        assert ("/etc/etcd-muster/ssl/ca.key" in host.files) == inline, host.name
        assert any(ca[1].strip() in text for text in host.files.values()) == inline, host.name
        assert host.modes.get("/etc/etcd-muster/ssl/ca.key", 0o400) == 0o400
        assert host.environment.get("MUSTER_CA_KEY", "").startswith("ssm:") == (host.kind[3] == "minted")


def test_the_program_knows_every_variable(hosts, binary):
    """`etcd-muster env` refuses what it doesn't know or can't use; EnvironmentFile and --env-file read the same lines."""
    for told in {host.files["/etc/etcd-muster/env"] for host in hosts}:
        given = dict(line.split("=", 1) for line in told.splitlines())
        done = subprocess.run([str(binary), "env"], env=given, capture_output=True, text=True, timeout=tools.BOUND)
        assert done.returncode == 0, f"{told}\n{done.stderr}"
        for name, value in given.items():
            if not name.startswith("ETCD_") or name == "ETCD_MEMBER_TYPE":
                assert any(name in line and value in line for line in done.stdout.splitlines()), f"{name}={value}: {done.stdout}"


def test_a_machine_is_told_of_snapshots_only_where_they_are_wanted(hosts):
    """What isn't given is the program's default, and isn't told."""
    for host in hosts:
        told = {name: value for name, value in host.environment.items() if name.startswith("MUSTER_SNAPSHOT")}
        asked = {"EVERY": "30m", "KEEP": "48h,14d", "VERIFY": "restore", "KEY": "ssm:/etcd/snapshot-key", "SSE": "aws:kms"}
        wanted = {"MUSTER_SNAPSHOTS": "s3://backups/etcd/blue", **{f"MUSTER_SNAPSHOT_{name}": value for name, value in asked.items()}}
        assert told == (wanted if host.kind[3] == "minted" else {}), host.name


def test_machines_do_not_reboot_by_themselves(hosts):
    """Three that update in one night would take the quorum with them."""
    for host in hosts:
        expected = {"ubuntu": None, "flatcar": "/etc/flatcar/update.conf", "fcos": "/etc/zincati/config.d/90-no-reboots.toml"}[host.kind[1]]
        assert expected is None or expected in host.files
