"""The machine's own scripts: its data volume, and what it fetches."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from base64 import b64encode
from pathlib import Path

import pytest
import tools
from muster_tools.lab.http_server import HttpServer, Reply, Request
from muster_tools.lab.node import Node

FILES = tools.SOURCES / "modules" / "host" / "files"
PREFIX = "nvme-Amazon_Elastic_Block_Store_vol"


class Disks:
    """A machine's /dev/disk/by-id with loop devices behind its links, and a place to mount on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.by_id = folder / "by-id"
        self.by_id.mkdir()
        self.mount = folder / "mount"
        self.loops: list[str] = []

    def attach(self, name: str, image: Path | None = None) -> Path:
        """A volume of 32 MiB of zeros, as a new one reads, or this one."""
        image = image or self.folder / f"{name}.img"
        if not image.exists():
            image.touch()
            os.truncate(image, 32 << 20)
        done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no loop devices here: {done.stderr.strip()}")
        self.loops.append(done.stdout.strip())
        for alias in (name, f"{name}_1"):  # newer udevs link the namespace too
            (self.by_id / f"{PREFIX}{alias}").symlink_to(self.loops[-1])
        return image

    def attach_root(self) -> None:
        """The root volume: it has partitions."""
        self.attach("0root")
        for alias in ("0root", "0root_1"):
            (self.by_id / f"{PREFIX}{alias}-part1").symlink_to(self.loops[-1])

    def prepare(self) -> subprocess.CompletedProcess[str]:
        places = {"DISKS": self.by_id, "MOUNT": self.mount, "SSL": self.folder / "ssl", "OWNER": "2379:2379"}
        return subprocess.run(
            ["sh", str(FILES / "etcd-prepare")],
            env={"PATH": os.environ["PATH"], **{name: str(place) for name, place in places.items()}},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def detach(self) -> None:
        subprocess.run(["umount", str(self.mount)], capture_output=True)
        for loop in self.loops:
            subprocess.run(["losetup", "--detach", loop], capture_output=True)
        self.loops.clear()
        for link in self.by_id.iterdir():
            link.unlink()


@pytest.fixture
def disks(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("to mount needs root")
    made = Disks(tmp_path)
    yield made
    made.detach()


def test_a_new_volume_is_formatted_once_and_found_again(disks):
    """The first boot, a restart, and a new instance that gets the old one's volume."""
    disks.attach_root()
    image = disks.attach("1data")
    for _ in range(2):
        done = disks.prepare()
        assert done.returncode == 0, done.stderr
    for folder in (disks.mount / "data", disks.mount / "wal"):
        seen = folder.stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (2379, 2379, 0o700)
    (disks.mount / "data" / "kept").write_text("data")
    disks.detach()
    disks.attach_root()
    disks.attach("1data", image)
    assert disks.prepare().returncode == 0
    assert (disks.mount / "data" / "kept").read_text() == "data"


def test_a_file_system_grows_with_its_volume(disks):
    """data_volume.size was raised: the next start of the service sees it, and what is on the volume stays."""
    image = disks.attach("1data")
    assert disks.prepare().returncode == 0
    (disks.mount / "data" / "kept").write_text("data")
    size = os.statvfs(disks.mount).f_blocks
    os.truncate(image, 64 << 20)
    subprocess.run(["losetup", "--set-capacity", *disks.loops], check=True)
    done = disks.prepare()
    assert done.returncode == 0 and (disks.mount / "data" / "kept").read_text() == "data"
    if "Permission denied" in done.stderr:  # etcd starts all the same
        assert "does not grow to its volume's size" in done.stderr
        pytest.skip("to grow a mounted file system needs CAP_SYS_RESOURCE")
    assert os.statvfs(disks.mount).f_blocks > size * 1.5
    assert disks.prepare().stderr == ""


def test_a_volume_that_holds_anything_is_never_formatted(disks):
    """A damaged filesystem, or somebody else's data: it isn't mounted, and not a byte of it changes."""
    image = disks.attach("1data")
    with open(image, "r+b") as volume:
        volume.seek(4096)
        volume.write(b"precious")
    before = hashlib.sha256(image.read_bytes()).digest()
    assert disks.prepare().returncode != 0
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_without_its_volume_or_with_two_it_says_so_and_touches_nothing(disks):
    """Terraform attaches the volume after the boot: until then etcd must not begin on the root disk."""
    disks.attach_root()
    done = disks.prepare()
    assert done.returncode == 1 and "0 EBS volumes without partitions" in done.stderr
    images = [disks.attach("1data"), disks.attach("2data")]
    done = disks.prepare()
    assert done.returncode == 1 and "2 EBS volumes without partitions" in done.stderr
    assert not any(any(image.read_bytes()) for image in images)
    assert not disks.mount.exists()


# Fetching: test_apply.py shows the good days.


def archive(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"release/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class Fetcher:
    """A node of the lab whose role may read one bucket, and the script on it."""

    def __init__(self, lab):
        self.node = lab.add_node()
        self.node.imds.meta_data["services/domain"] = "amazonaws.com"
        self.s3 = lab.ec2.client("s3")
        self.s3.create_bucket(Bucket="etcd-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        lab.ec2.set_role_actions("s3:GetObject")
        self.opt, self.ssl = self.node.directory / "opt", self.node.directory / "tls"

    def put(self, key: str, content: bytes) -> str:
        self.s3.put_object(Bucket="etcd-bucket", Key=key, Body=content)
        return hashlib.sha256(content).hexdigest()

    def fetch(self, *lines: str, **env: str) -> subprocess.CompletedProcess[str]:
        told = self.node.directory / "fetch"
        told.write_text("".join(f"{line}\n" for line in lines))
        return subprocess.run(
            ["sh", str(FILES / "etcd-fetch")],
            env={
                "PATH": os.environ["PATH"],
                "LIST": str(told),
                "OPT": str(self.opt),
                "SSL": str(self.ssl),
                "OWNER": f"{os.getuid()}:{os.getgid()}",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.node.imds.url,
                "AWS_ENDPOINT_URL_S3": self.node.front.url,
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )


def test_an_archive_that_is_not_what_it_should_be_is_not_installed(lab):
    """A wrong sum is told with both sums, and nothing of the archive is there."""
    fetcher = Fetcher(lab)
    fetcher.put("etcd.tar.gz", archive(etcd=b"#!/bin/sh\n"))
    done = fetcher.fetch(f"binaries s3://etcd-bucket/etcd.tar.gz {'0' * 64}")
    assert done.returncode == 1 and "isn't what it should be" in done.stderr and "0" * 64 in done.stderr
    assert list((fetcher.opt / "bin").iterdir()) == []


def test_a_new_release_replaces_the_old_and_what_is_here_is_not_asked_for(lab):
    """An upgrade is another archive; a restart asks neither S3 nor the metadata service."""
    fetcher = Fetcher(lab)
    old = fetcher.put("a/etcd.tar.gz", archive(etcd=b"old", etcdctl=b"old", README=b"-"))
    assert fetcher.fetch(f"binaries s3://etcd-bucket/a/etcd.tar.gz {old}").returncode == 0
    new = fetcher.put("b/etcd.tar.gz", archive(etcd=b"new"))
    line = f"binaries s3://etcd-bucket/b/etcd.tar.gz {new}"
    assert fetcher.fetch(line).returncode == 0
    assert {path.name: path.read_text() for path in (fetcher.opt / "bin").iterdir()} == {"etcd": "new", "etcdctl": "old"}
    fetcher.node.imds.fault = "no-listener"
    assert fetcher.fetch(line).returncode == 0


def test_own_certificates_are_fetched_and_kept_from_others(lab):
    """tls.files: six files of this machine's prefix; one that is missing is a failure that names it."""
    fetcher = Fetcher(lab)
    names = [f"{side}{part}" for side in ("client", "peer") for part in (".crt", ".key", "_ca.crt")]
    for name in names[:-1]:
        fetcher.put(f"tls/0/{name}", name.encode())
    done = fetcher.fetch("ssl s3://etcd-bucket/tls/0")
    assert done.returncode != 0 and names[-1] in done.stderr
    fetcher.put(f"tls/0/{names[-1]}", names[-1].encode())
    assert fetcher.fetch("ssl s3://etcd-bucket/tls/0").returncode == 0
    assert {path.name: (path.read_text(), path.stat().st_mode & 0o777) for path in fetcher.ssl.iterdir()} == {name: (name, 0o600) for name in names}


def test_a_role_that_may_not_read_is_a_failure_that_names_the_object(lab):
    """403: told, and tried again by systemd."""
    fetcher = Fetcher(lab)
    told = fetcher.put("etcd.tar.gz", archive(etcd=b"-"))
    lab.ec2.set_role_actions("ec2:DescribeInstances")
    done = fetcher.fetch(f"binaries s3://etcd-bucket/etcd.tar.gz {told}")
    assert done.returncode == 1 and "403" in done.stderr and "can't fetch s3://etcd-bucket/etcd.tar.gz" in done.stderr


# A private registry.

OCI = "application/vnd.oci.image"


def digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


class Registry:
    """A registry that lets in who has ECR's password, with one image in it; docker takes plain HTTP on loopback."""

    PASSWORD = "123456789012-auth-token"  # as moto's ECR gives it

    def __init__(self, node: Node):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("marker"))
        told = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]}}
        blobs = {"layer.v1.tar": layer.getvalue(), "config.v1+json": json.dumps(told).encode()}
        layer_part, config = ({"mediaType": f"{OCI}.{kind}", "digest": digest(blob), "size": len(blob)} for kind, blob in blobs.items())
        whole = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": [layer_part]}
        self.manifest = json.dumps(whole).encode()
        self.blobs = {digest(blob): blob for blob in blobs.values()}
        self.server = HttpServer(node.address, 0, self._answer)

    @property
    def host(self) -> str:
        return f"{self.server.address}:{self.server.port}"

    def _answer(self, request: Request) -> Reply:
        who = b64encode(f"AWS:{self.PASSWORD}".encode()).decode()
        if request.header("Authorization") != f"Basic {who}":
            return Reply(401, headers=[("WWW-Authenticate", 'Basic realm="ecr"')])
        last = request.target.rpartition("/")[2]
        if "/manifests/" in request.target and last in ("1.0", digest(self.manifest)):
            return Reply(200, self.manifest, [("Docker-Content-Digest", digest(self.manifest))], f"{OCI}.manifest.v1+json")
        if last in self.blobs:
            return Reply(200, self.blobs[last], content_type="application/octet-stream")
        return Reply(200 if request.target == "/v2/" else 404)


def test_an_image_of_ecr_is_pulled_by_the_instances_role_and_no_password_stays(lab, tmp_path):
    """A real engine and a registry that asks for the password which ECR gives the role; a restart asks nobody."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no docker that answers")
    fetcher = Fetcher(lab)
    registry = Registry(fetcher.node)
    with registry.server:
        image = f"{registry.host}/db/etcd-muster:1.0"
        docker = {"ENGINE": "docker", "IMAGE": image, "DOCKER_CONFIG": str(tmp_path), "AWS_ENDPOINT_URL_ECR": fetcher.node.front.url}
        line = f"ecr {registry.host} eu-west-1"
        done = fetcher.fetch(line, **docker)
        assert done.returncode == 1 and "it needs ecr:GetAuthorizationToken" in done.stderr
        lab.ec2.set_role_actions("ecr:GetAuthorizationToken")
        try:
            done = fetcher.fetch(line, **docker)
            assert done.returncode == 0, done.stdout + done.stderr
            assert subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0
            assert registry.host not in (tmp_path / "config.json").read_text()
            fetcher.node.imds.fault = "no-listener"
            assert fetcher.fetch(line, **docker).returncode == 0
        finally:
            subprocess.run(["docker", "image", "rm", image], capture_output=True)
