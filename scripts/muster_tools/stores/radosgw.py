"""radosgw, the S3 of Ceph: one mon, one OSD in memory, no authentication inside, from Debian's packages, unpacked beside the lab."""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from muster_tools.lab import install
from muster_tools.stores.store import BOUND, POLL_SECONDS, Store, wait_listening

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd")
BASE = ("base-files", "bash", "dash", "coreutils", "libc-bin")  # of a root of its own
MON_PORT, PORT = 6789, 9003


class Radosgw:
    """Of the release that this machine's apt offers; or of a Debian series, run in a root of its own, with that series' libraries."""

    def __init__(self, series: str = ""):
        self._series = series

    def fetch(self) -> Path:
        """The folder with the programs and what they need."""
        if self._series:
            return self._fetch_root()
        version = install.debian_version(PACKAGES[0])
        if not version:
            raise install.InstallError("apt offers no radosgw")
        target = install.DEFAULT_CACHE / f"radosgw-{version}"
        if not target.is_dir():
            with install.step(f"radosgw {version}"), install.unpacking_into(target) as scratch:
                install.unpack_packages(scratch, *needed(PACKAGES), into=scratch / "bin")
        return target

    def _fetch_root(self) -> Path:
        target = install.DEFAULT_CACHE / f"radosgw-{self._series}"
        mirror = install.debian_mirror()
        if target.is_dir():
            return target
        if not mirror:
            raise install.InstallError("apt has no mirror of Debian")
        with install.step(f"radosgw of Debian {self._series}"), install.unpacking_into(target) as scratch:
            options = [*install.apt_root(scratch / "apt", mirror, self._series), "-o", "Dir::State::status=/dev/null"]
            install.run(["apt-get", *options, "update", "--quiet", "--quiet"])
            install.unpack_packages(scratch, *needed((*BASE, *PACKAGES), options), into=scratch / "bin", options=options)
            install.run(["chroot", str(scratch / "bin"), "/usr/sbin/ldconfig"])
        return target

    @contextmanager
    def __call__(self, folder: Path, address: str):
        """Until the block ends; its user exists, its bucket doesn't."""
        root, store = self.fetch(), Store(f"http://{address}:{PORT}")
        with ExitStack() as stack:
            cluster = stack.enter_context(_rooted(root, address)) if self._series else _Cluster(root, folder, address)
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


def needed(packages: Iterable[str], options: Iterable[str] = ()) -> list[str]:
    """These and all that they depend on, but for what is installed by that apt's word."""
    plan = ["apt-get", *options, "--simulate", "--no-install-recommends", "install", *packages]
    shown = subprocess.run(plan, capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in shown.splitlines() if line.startswith("Inst ")]


@contextmanager
def _rooted(root: Path, address: str):
    """A cluster whose programs see that root alone; its files lie in there until the block ends."""
    with ExitStack() as stack:
        for shared in ("proc", "dev"):
            (root / shared).mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", f"/{shared}", str(root / shared)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(root / shared)], check=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="store-", dir=root)))
        yield _Cluster(root, folder, address, rooted=True)


class _Cluster:
    def __init__(self, root: Path, folder: Path, address: str, rooted: bool = False):
        self.id = str(uuid.uuid4())
        self._folder, self._root = folder, root if rooted else None
        for part in ("mon", "osd", "rgw", "run"):
            (folder / part).mkdir()
        if rooted:
            root, folder = Path("/"), Path("/") / folder.name
        libraries = root / "usr/lib/x86_64-linux-gnu"
        self._env = {"PATH": f"{root}/usr/bin:{root}/usr/sbin:/usr/bin:/bin", "CEPH_CONF": str(folder / "ceph.conf")}
        if not rooted:
            self._env |= {
                "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/x86_64-linux-gnu",
                "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
            }
        (self._folder / "ceph.conf").write_text(
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

    def _command(self, *command: str) -> list[str]:
        if self._root is None:
            return list(command)
        inside = f'cd "/{self._folder.name}" && exec "$@"'
        return ["chroot", str(self._root), "/bin/sh", "-c", inside, "sh", *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self._command(*command), cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=2 * BOUND)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, words: str, *question: str) -> None:
        deadline = time.monotonic() + BOUND
        while words not in self.run("ceph", "--connect-timeout", str(BOUND), *question):
            if time.monotonic() > deadline:
                output = (self._folder / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"ceph {' '.join(question)} never said {words!r}; the daemons said:\n{output}")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def daemon(self, program: str, *arguments: str):
        command = self._command(program, *arguments, "-f")
        with open(self._folder / "output", "ab") as output:
            child = subprocess.Popen(command, cwd=self._folder, env=self._env, stdout=output, stderr=output)
        try:
            yield child
        finally:
            child.kill()  # nothing of it is needed any more
            child.wait()
