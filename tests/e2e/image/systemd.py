"""A systemd of one's own, as PID 1 of namespaces: it sees this machine's files, and changes none of them.

The network is the machine's, so that a unit in there is asked on loopback like any other process.
"""

from __future__ import annotations

import os
import pty
import secrets
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

MANAGER = Path("/usr/lib/systemd/systemd")
LOG = "/run/units.log"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # a login's
BOUND = 60  # seconds
POLL_SECONDS = 0.03
TARGETS = ("sysinit", "basic", "network-online", "multi-user", "shutdown", "umount", "final", "exit")

# /etc, /opt and /var are this machine's until they are written to. Of its services there is none, nor what would make units of
# init scripts and disks: they would start a second time here, and set the machine's clock and devices.
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
for place in etc opt var; do
    mkdir -p /mnt/$place/upper /mnt/$place/work
    mount -t overlay overlay -o lowerdir=/$place,upperdir=/mnt/$place/upper,workdir=/mnt/$place/work /$place
done
rm -rf /etc/systemd/system /etc/sysusers.d /etc/init.d /etc/rc?.d
mkdir -p /mnt/targets /mnt/generators /etc/systemd/system
for target in {targets}; do printf '[Unit]\\nDefaultDependencies=no\\n' >/mnt/targets/$target.target; done
mount --bind /mnt/targets {home}/system
mount --bind /mnt/generators {home}/system-generators
mount -t tmpfs tmpfs /run
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount -R /sys/fs/cgroup
if [ {unified} = 1 ]; then mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
mount --bind {console} /dev/console
{commands}
export container=lab
exec {manager} --system --unit=multi-user.target --log-target=console --show-status=no
"""


def missing() -> str | None:
    if os.geteuid() != 0:
        return "needs to be root: it makes namespaces"
    absent = [program for program in (MANAGER, "unshare", "setpriv", "nsenter", "systemctl") if shutil.which(program) is None]
    if absent:
        return f"missing: {' '.join(map(str, absent))}"
    return None if _cgroup() else "no systemd hierarchy of cgroups is mounted here"


class Systemd:
    """`commands`, shell text, are run in `directory` before it boots."""

    def __init__(self, commands: str, directory: Path):
        self._commands, self._directory = commands, directory
        self._cgroup = Path()
        self._child: subprocess.Popen[bytes] | None = None
        self._console = -1
        self.pid = 0  # of PID 1, from outside

    def __enter__(self) -> Systemd:
        self._cgroup = _cgroup() / f"etcd-muster-test-{secrets.token_hex(6)}"
        self._cgroup.mkdir()
        self._console, theirs = pty.openpty()
        text = BOOT.format(
            targets=" ".join(TARGETS),
            home=MANAGER.resolve().parent,
            manager=MANAGER,
            unified=int(_is_unified()),
            console=os.ttyname(theirs),
            commands=self._commands,
        )
        # It dies with this process, however that ends.
        unshare = "unshare --pid --fork --kill-child --mount --mount-proc --uts --ipc --cgroup"
        enter = f'echo $$ >"$1/cgroup.procs"; exec setpriv --pdeathsig KILL {unshare} sh -c "$2"'
        self._child = subprocess.Popen(
            ["sh", "-c", enter, "sh", self._cgroup, text],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._console, False)
        try:
            self.wait(lambda: self._find() and self.root("/run/systemd/private").exists(), "boot")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """All at once: an orderly end of a systemd is one of the machine's, too."""
        self._child.kill()
        self._child.wait()
        os.close(self._console)
        self.wait(self._is_gone, "end of all its processes")

    def root(self, path: str) -> Path:
        """A file as it is seen in there."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In there, as an operator would: with nothing of the test's environment."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        return subprocess.run([*inside, *command], env={"PATH": PATH}, capture_output=True, text=True, timeout=BOUND)

    def systemctl(self, *arguments: str) -> str:
        done = self.run("systemctl", *arguments)
        return (done.stdout + done.stderr).strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        told = self.systemctl("show", unit, *(f"--property={name}" for name in names))
        return dict(line.partition("=")[::2] for line in told.splitlines())

    def wait(self, condition, what: str) -> None:
        deadline = time.monotonic() + BOUND
        while not condition():
            if time.monotonic() > deadline or (what == "boot" and self._child.poll() is not None):
                raise AssertionError(f"no {what} within {BOUND} s:\n{self.console()}\n{self.log()}")
            time.sleep(POLL_SECONDS)

    def log(self) -> str:
        """What units write to `LOG`: there is no journal."""
        with suppress(OSError):  # nothing yet
            return self.root(LOG).read_text(errors="replace")
        return ""

    def console(self) -> str:
        with suppress(OSError):  # nothing there, or nobody on the other side
            return os.read(self._console, 65536).decode(errors="replace")
        return ""

    def _find(self) -> bool:
        with suppress(OSError, IndexError):  # it has no child yet
            self.pid = int(Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split()[0])
            return Path(f"/proc/{self.pid}/comm").read_text().strip() == "systemd"
        return False

    def _is_gone(self) -> bool:
        with suppress(OSError):  # not yet
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(directory)
            return True
        return False


def _is_unified() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _cgroup() -> Path | None:
    """Where this process is in the hierarchy that a systemd uses."""
    entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    wanted = "" if _is_unified() else "name=systemd"
    own = next((path for _, controllers, path in entries if controllers == wanted), None)
    mounted = Path("/sys/fs/cgroup" if _is_unified() else "/sys/fs/cgroup/systemd")
    found = mounted / own.lstrip("/") if own is not None else None
    return found if found is not None and found.is_dir() else None
