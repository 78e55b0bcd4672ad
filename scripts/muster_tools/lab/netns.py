"""Nodes in network namespaces of their own, joined by a bridge: what is between machines can then be cut, bent and lossy.

A process becomes the hub for good: it gets a network and a mount table of its own, which the nodes' processes inherit.
So nothing here touches the machine's own network or files, and all of it is gone with the last process, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

TOOLS = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux", "mount": "mount"}  # and their packages
NAMESPACES = Path("/run/netns")  # where `ip netns` keeps them
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
LINK = "eth0"

Undo = Callable[[], None]

_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns are in Python 3.12 and later


class Unavailable(Exception):
    """Why this machine can't have namespaces, in one line."""


class Hub:
    """The bridge, its address, and the names that all nodes resolve."""

    network = "10.77.0"
    address = f"{network}.1"

    def enter(self) -> Hub:
        """Turn this process into the hub; before it has threads, for those would stay behind."""
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        _run("mount", "--make-rprivate", "/")
        NAMESPACES.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", str(NAMESPACES))
        with tempfile.NamedTemporaryFile() as names:  # lives on as what /etc/hosts is to us
            os.chmod(names.name, 0o644)
            _run("mount", "--bind", names.name, "/etc/hosts")
        self.forget_names()
        _run_batch(
            "ip",
            "link set lo up",
            f"link add hub address {_hardware(self.address)} type bridge forward_delay 0",
            f"addr add {self.address}/24 dev hub",
            "link set hub up",
        )
        return self

    @contextmanager
    def host(self, address: str) -> Iterator[Host]:
        """A namespace that has this address, until the block ends."""
        number = address.rpartition(".")[2]
        name, port = f"node{number}", f"port{number}"
        _run("ip", "netns", "add", name)
        try:
            _run_batch(
                "ip",
                f"link add {port} type veth peer name {LINK} address {_hardware(address)} netns {name}",
                f"link set {port} master hub up",
            )
            _run_batch(
                f"ip -n {name}", "link set lo up", f"addr add {address}/24 dev {LINK}", f"link set {LINK} up"
            )
            yield Host(name, address)
        finally:
            _run("ip", "link", "delete", port)  # a namespace is taken down later, in the background
            _run("ip", "netns", "delete", name)

    def name(self, name: str, address: str) -> None:
        """This name resolves to this address, on every node."""
        with open("/etc/hosts", "a", encoding="ascii") as hosts:
            hosts.write(f"{address} {name}\n")

    def forget_names(self) -> None:
        Path("/etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")


class Host:
    """One machine on the hub's network. Its own loopback is never disturbed."""

    def __init__(self, name: str, address: str):
        self.name = name
        self.address = address

    @property
    def enter(self) -> list[str]:
        """What a command is preceded by to run here; it execs, so the process is the command's own."""
        return ["nsenter", f"--net={NAMESPACES / self.name}"]

    def enter_thread(self) -> None:
        """The calling thread, and those it starts, make their sockets here from now on."""
        with open(NAMESPACES / self.name, "rb") as namespace:
            _check(_libc.setns(namespace.fileno(), CLONE_NEWNET), "setns")

    # Disturbances. Each returns what ends it; any number may overlap.

    def deaf_to(self, *others: Host) -> Undo:
        """Nothing arrives from these; what is sent to them does."""
        return self._rule("INPUT", *_from(others), "-j", "DROP")

    def refusing(self, *others: Host) -> Undo:
        """These are answered with a reset, as by a firewall of this host's."""
        return self._rule("INPUT", *_from(others), "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def losing(self, share: float, *others: Host) -> Undo:
        """So many of the packets from these are lost."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.2f}")
        return self._rule("INPUT", *_from(others), *chance, "-j", "DROP")

    def without(self, address: str, port: int) -> Undo:
        """What is sent to this service is lost."""
        return self._rule("OUTPUT", "-o", LINK, "-d", address, "-p", "tcp", "--dport", str(port), "-j", "DROP")

    def dark(self) -> Undo:
        """Off the network, as when the power is gone: no reset, no farewell."""
        undo_in, undo_out = (self._rule(*way, LINK, "-j", "DROP") for way in (("INPUT", "-i"), ("OUTPUT", "-o")))
        return lambda: (undo_in(), undo_out()) and None

    def diverted(self, port: int, proxy: int, mark: int) -> Undo:
        """New connections to others' `port` go to `proxy` on this host's loopback; but for those with this mark."""
        match = ("-o", LINK, "-p", "tcp", "--dport", str(port), "-m", "mark", "!", "--mark", str(mark))
        return self._rule("OUTPUT", *match, "-j", "REDIRECT", "--to-ports", str(proxy), table="nat")

    def _rule(self, chain: str, *rule: str, table: str = "filter") -> Undo:
        def change(how: str) -> None:
            _run(*self.enter, "iptables", "-w", "-t", table, how, chain, *rule)

        change("-A")
        return lambda: change("-D")


def missing_packages() -> list[str]:
    """Debian's names of what must be installed first."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]


def why_not() -> str | None:
    """Why this machine can't have a hub, or None; found out by making one, in a child."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = missing_packages()
    if missing:
        return f"missing packages: {' '.join(missing)}"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        trouble = ""
        try:
            _try_everything()
        except BaseException as error:  # whatever it is: this copy of the caller must not go on
            trouble = str(error) or repr(error)
        os.write(write, trouble.encode())
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as told:
        trouble = told.read()
    os.waitpid(child, 0)
    return trouble or None


def _try_everything() -> None:
    hub = Hub().enter()
    with hub.host(f"{hub.network}.11") as host:
        for undo in (host.losing(0.5, host), host.refusing(host), host.diverted(2, 1, 1)):
            undo()


def _hardware(address: str) -> str:
    """A fixed one: the next holder of an address must not be looked for at the last one's."""
    return "02:00:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def _from(others: tuple[Host, ...]) -> tuple[str, str]:
    return "-s", ",".join(other.address for other in others)


def _check(outcome: int, call: str) -> None:
    if outcome != 0:
        raise Unavailable(f"{call}: {os.strerror(ctypes.get_errno())}")


def _run_batch(command: str, *lines: str) -> None:
    _run(*command.split(), "-batch", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> None:
    """In a session of its own: a terminal's Ctrl-C must not tear a change in two."""
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {' '.join(done.stdout.split())}")
