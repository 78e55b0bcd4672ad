"""radosgw, the S3 of Ceph: one mon, one OSD in memory, no authentication inside, from Debian's packages, unpacked beside the lab."""

from __future__ import annotations

import subprocess
import time
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

from muster_tools.lab import install
from muster_tools.stores.store import BOUND, POLL_SECONDS, Store, wait_listening

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd")
MON_PORT, PORT = 6789, 9003


def fetch() -> Path:
    """The folder with the programs and what they need; of the release that apt offers now."""
    version = install.debian_version(PACKAGES[0])
    if not version:
        raise install.InstallError("apt offers no radosgw")
    target = install.DEFAULT_CACHE / f"radosgw-{version}"
    if not target.is_dir():
        with install.step(f"radosgw {version}"), install.unpacking_into(target) as scratch:
            plan = subprocess.run(
                ["apt-get", "--simulate", "--no-install-recommends", "install", *PACKAGES], capture_output=True, text=True, check=True
            )
            needed = [line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst ")]
            install.unpack_packages(scratch, *needed, into=scratch / "bin")
    return target


@contextmanager
def serving(folder: Path, address: str):
    """Until the block ends; its user exists, its bucket doesn't."""
    root, store = fetch(), Store(f"http://{address}:{PORT}")
    cluster = _Cluster(root, folder, address)
    with ExitStack() as stack:
        cluster.run("monmaptool", "--create", "--addv", "a", f"[v1:{address}:{MON_PORT}]", "--fsid", cluster.id, "monmap")
        cluster.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        stack.enter_context(cluster.daemon("ceph-mon", "-i", "a"))
        cluster.wait_for("HEALTH_", "health")
        osd = str(uuid.uuid4())
        cluster.run("ceph", "osd", "new", osd)
        cluster.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        stack.enter_context(cluster.daemon("ceph-osd", "-i", "0"))
        cluster.wait_for("1 up", "osd", "stat")
        keys = (f"--access-key={store.key}", f"--secret-key={store.secret}")
        cluster.run("radosgw-admin", "user", "create", "--uid=claims", "--display-name=claims", *keys)
        front = f"beast endpoint={address}:{PORT}"
        gateway = stack.enter_context(cluster.daemon("radosgw", "-n", "client.rgw.a", "--rgw-frontends", front))
        wait_listening(address, PORT, gateway)
        yield store


serving.fetch = fetch


class _Cluster:
    def __init__(self, root: Path, folder: Path, address: str):
        self.id = str(uuid.uuid4())
        self._folder = folder
        libraries = root / "usr/lib/x86_64-linux-gnu"
        self._env = {
            "PATH": f"{root}/usr/bin:{root}/usr/sbin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/x86_64-linux-gnu",
            "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
            "CEPH_CONF": str(folder / "ceph.conf"),
        }
        for part in ("mon", "osd", "rgw", "run"):
            (folder / part).mkdir()
        (folder / "ceph.conf").write_text(
            f"""[global]
fsid = {self.id}
mon host = v1:{address}:{MON_PORT}
ms bind msgr2 = false
public addr = {address}
auth cluster required = none
auth service required = none
auth client required = none
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
osd objectstore = memstore
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 1
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/$name.log
"""
        )

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=2 * BOUND)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, words: str, *question: str) -> None:
        deadline = time.monotonic() + BOUND
        while words not in self.run("ceph", "--connect-timeout", str(BOUND), *question):
            if time.monotonic() > deadline:
                raise RuntimeError(f"ceph {' '.join(question)} never said {words!r}")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def daemon(self, program: str, *arguments: str):
        command = [program, *arguments, "-f"]
        with open(self._folder / "output", "ab") as output:
            child = subprocess.Popen(command, cwd=self._folder, env=self._env, stdout=output, stderr=output)
        try:
            yield child
        finally:
            child.kill()  # nothing of it is needed any more
            child.wait()
