"""Nodes, each one "instance" on a loopback address of its own, and the Lab that holds them.

Use it as README.md beside this file shows.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, TypeVar

from muster_tools.lab import install
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.ec2_front import Ec2Front, Rule
from muster_tools.lab.etcd import CLIENT_PORT, NOT_YET, PEER_PORT, EtcdClient
from muster_tools.lab.http_server import in_url
from muster_tools.lab.imds import PORT, Imds
from muster_tools.lab.instance import Instance
from muster_tools.lab.netns import Host, Hub
from muster_tools.lab.process import Process
from muster_tools.lab.security import Security

Seen = TypeVar("Seen")

POLL_SECONDS = 0.03
FIRST_HOST = 11  # the last octet of a lab's first node
LOG_TAIL_LINES = 25


class Node:
    """One instance: its directories, its metadata service, its way to EC2, and the process that runs on it."""

    def __init__(
        self,
        address: str,
        directory: Path,
        etcd: Path,
        muster: Path | None,
        env: dict[str, str],
        host: Host | None = None,
    ):
        self.address = address
        self.host = host  # the network namespace it runs in, if not this process's own
        self.directory = directory
        self.env = dict(env)  # what start() adds to, or sets instead of, the lab's own variables
        self.user: tuple[str, str] | None = None  # of an etcd with authentication on, and the password
        self.instance: Instance | None = None
        self.imds: Imds | None = None
        self.front: Ec2Front | None = None
        self.process: Process | None = None  # the latest
        self._processes: list[Process] = []  # all: an etcd may outlive its supervisor into the next one's time
        self._muster = muster
        for part in ("home/bin", "data", "wal", "ssl"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        self.log.touch()
        self.program.symlink_to(etcd)
        self.secure(Security())

    home = property(lambda self: self.directory / "home")
    program = property(lambda self: self.home / "bin" / "etcd")
    data = property(lambda self: self.directory / "data")
    wal = property(lambda self: self.directory / "wal")
    ssl = property(lambda self: self.directory / "ssl")
    peer_url = property(lambda self: f"{self.security.scheme('peer')}://{in_url(self.address)}:{PEER_PORT}")
    client_url = property(lambda self: f"{self.security.scheme('client')}://{in_url(self.address)}:{CLIENT_PORT}")

    def secure(self, security: Security) -> None:
        """Speak so from the next start on; own certificates are for the address and the name it has now."""
        self.security = security
        names = [self.address] if self.instance is None else [self.address, self.instance.private_dns]
        security.equip(self.directory, *names)
        client, peer = (security.client(side) for side in ("client", "peer"))
        self.etcd = EtcdClient(self.address, client_tls=client, peer_tls=peer, user=self.user)

    def attach(self, instance: Instance, imds: Imds, front: Ec2Front) -> None:
        """Become this instance, in place of the one that this node was before, if any."""
        self.detach()
        self.instance, self.imds, self.front = instance, imds.start(), front.start()

    def detach(self) -> None:
        """Off the cloud; `instance` still tells which one it was."""
        for server in (self.imds, self.front):
            if server is not None:
                server.stop()
        self.imds = self.front = None

    def environment(self) -> dict[str, str]:
        """All that the supervisor is given: nothing of this process's own environment but PATH."""
        variables = {
            "PATH": os.environ["PATH"],
            "ED_HOME": str(self.home),
            "ED_DATA": str(self.data),
            "ED_WAL": str(self.wal),
            "ED_SSL": str(self.ssl),
            "ETCD_MEMBER_TYPE": "ip",  # the instances' names resolve nowhere, but with a hub
        }
        if self.imds is not None and self.front is not None:
            variables["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = self.imds.url
            for service in ("EC2", "S3", "SSM"):
                variables[f"AWS_ENDPOINT_URL_{service}"] = self.front.url
        return {**variables, **self.security.environment(self.directory), **self.env}

    # The process.

    def start(self, *arguments: str) -> None:
        """Run the supervisor: `muster run`, or another of its commands."""
        if self._muster is None:
            raise ValueError("this lab was made without a muster binary")
        self._spawn([str(self._muster), *(arguments or ("run",))], self.environment())

    def start_plain_etcd(self, arguments: list[str]) -> None:
        """The etcd that is installed here, alone, with these flags, in this node's data and wal directories."""
        places = [f"--data-dir={self.data}", f"--wal-dir={self.wal}"]
        self._spawn([str(self.program), *places, *arguments], {"PATH": os.environ["PATH"], **self.env})

    def install_etcd(self, program: Path) -> None:
        """That etcd is installed here from now on; what runs here runs on."""
        self.program.unlink()
        self.program.symlink_to(program)

    def start_program(self, command: list[str], environment: dict[str, str]) -> None:
        """Whatever else is to run on this node: the benchmark's peers."""
        self._spawn(command, environment)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> None:
        if self.runs():
            raise ValueError(f"{self.address} already runs process {self.process.pid}")
        self.etcd.log_out()
        enter = self.host.enter if self.host is not None else []
        self.process = Process([*enter, *command], environment, self.directory, self.log)
        self._processes.append(self.process)

    def runs(self) -> bool:
        return self.process is not None and self.process.exit_code() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the supervisor (or the plain etcd) alone."""
        self.process.kill(number)

    def wait_exit(self, bound: float) -> int:
        """Its exit code; -n when signal n ended it."""
        return self.process.wait_exit(bound)

    def etcd_pids(self) -> list[int]:
        """The etcds that run on this node: those whose parent is its supervisor."""
        return [pid for pid in self.process.session() if _runs_etcd(pid)] if self.process is not None else []

    def power_off(self) -> None:
        """Everything on this instance dies at once, as when the machine does. Disks stay."""
        while self._processes:
            self._processes.pop().end()

    def wipe(self) -> None:
        """Lose the disks."""
        for folder in (self.data, self.wal):
            shutil.rmtree(folder)
            folder.mkdir()

    def snapshot(self) -> Path:
        """A copy of its disks as they are at one moment, as of a volume: what runs here is frozen meanwhile."""
        copy = self.directory / f"snapshot-{len(list(self.directory.glob('snapshot-*')))}"
        copy.mkdir()
        with ExitStack() as stack:
            for process in self._processes:
                stack.enter_context(process.frozen())
            # With sockets, owners and times: what a volume's snapshot has.
            subprocess.run(["cp", "-a", str(self.data), str(self.wal), str(copy)], check=True)
        return copy

    def restore(self, snapshot: Path, ledger: bool = True) -> None:
        """Its disks become that snapshot, of itself or of another node; without the supervisor's own files unless `ledger`."""
        if self.runs():
            raise ValueError(f"{self.address} runs process {self.process.pid}")
        for folder in (self.data, self.wal):
            shutil.rmtree(folder)
            subprocess.run(["cp", "-a", str(snapshot / folder.name), str(folder)], check=True)
        if not ledger:
            shutil.rmtree(self.data / "muster")

    def log_text(self) -> str:
        """All output since the node was added, over restarts."""
        return self.log.read_text(errors="replace")

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


class Lab:
    """A private cloud and its nodes; at exit everything that was started is killed.

    The directory goes too, unless the block raised, or keep is set. Several labs can run at once: each has its own
    addresses, 127.x.y.11 up, and its own moto. `shared_ec2` (started, used by one lab at a time) saves starting one.
    With a `hub` (which this process is) every node is in a network namespace, its name resolves, and IMDS and EC2 are at
    the hub's address.
    """

    def __init__(
        self,
        etcd: str = "3.5.1",
        muster: Path | None = None,
        env: dict[str, str] | None = None,
        keep: bool = False,
        shared_ec2: Ec2 | None = None,
        hub: Hub | None = None,
        cache: Path = install.DEFAULT_CACHE,
    ):
        self.etcd_binary = install.etcd_binaries(etcd, cache) / "etcd"
        if not self.etcd_binary.is_file():
            raise FileNotFoundError(f"{self.etcd_binary}: run scripts/install-lab first")
        self.muster = muster.resolve() if muster is not None else None
        self.env = dict(env or {})  # for every node, e.g. MUSTER_CLUSTER_SIZE
        self.security = Security()  # of every node that is added from now on
        self.user: tuple[str, str] | None = None  # whom the lab itself asks as; see log_in
        self.nodes: list[Node] = []
        self.network = ""  # "127.x.y"
        self.directory = Path()
        self.keep = keep
        self._ec2 = shared_ec2
        self._hub = hub
        self._hosts: dict[str, Host] = {}
        self._cleanup = ExitStack()
        self._next_host = FIRST_HOST

    def __enter__(self) -> Lab:
        with ExitStack() as made_so_far:
            self.directory = Path(tempfile.mkdtemp(prefix="etcd-muster-lab-"))
            made_so_far.push(self._remove_or_keep_directory)
            if self._hub is not None:
                self.network = self._hub.network
                self._hub.forget_names()
            else:
                self.network, claim = claim_network()
                made_so_far.enter_context(claim)
            made_so_far.enter_context(exit_on_sigterm())
            if self._ec2 is not None:
                self._ec2.reset(self._block)
            self._cleanup = made_so_far.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._cleanup.__exit__(*failure)

    def _remove_or_keep_directory(self, kind: object, *_: object) -> None:
        if self.keep or kind is not None:
            print(f"lab: kept {self.directory}", file=sys.stderr)
        else:
            shutil.rmtree(self.directory)

    @property
    def _block(self) -> str:
        return self.network.rpartition(".")[0]

    @property
    def ec2(self) -> Ec2:
        """Started on first use: a lab of plain etcds needs none."""
        if self._ec2 is None:
            self._ec2 = self._cleanup.enter_context(Ec2(self._block, self.directory / "moto.log"))
        return self._ec2

    def add_node(
        self,
        launch: bool = True,
        env: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        address: str | None = None,
    ) -> Node:
        """A node on the next address (or this one, free again after a termination); not started yet.

        With launch=False it can be launched later.
        """
        if address is None:
            address = f"{self.network}.{self._next_host}"
            self._next_host += 1
        directory = self.directory / f"{len(self.nodes) + 1}-{address}"
        if launch:
            _ = self.ec2  # started before the node's clean-up is noted: it is to outlive the node
        node = Node(address, directory, self.etcd_binary, self.muster, {**self.env, **(env or {})}, self._host(address))
        node.user = self.user
        self.nodes.append(node)
        self._cleanup.callback(node.detach)
        self._cleanup.callback(node.power_off)
        if launch:
            self.launch(node, tags)
        node.secure(self.security)
        return node

    def _host(self, address: str) -> Host | None:
        """The namespace that has this address; the next node there gets it too."""
        if self._hub is not None and address not in self._hosts:
            self._hosts[address] = self._cleanup.enter_context(self._hub.host(address))
        return self._hosts.get(address)

    def log_in(self, user: str, password: str) -> None:
        """From now on the lab's own requests are this user's, where etcd asks for one; the nodes' supervisors have their own."""
        self.user = (user, password)
        for node in self.nodes:
            node.user = node.etcd.user = self.user

    def launch(self, node: Node, tags: dict[str, str] | None = None) -> None:
        self._attach(node, self.ec2.launch(node.address, tags, name=node.directory.name))

    def _attach(self, node: Node, instance: Instance) -> None:
        if self._hub is None:
            imds = Imds(instance, self.ec2.role_credentials)
            front = Ec2Front(self.ec2.url, node.address)
        else:
            self._hub.name(instance.private_dns, node.address)
            imds = Imds(instance, self.ec2.role_credentials, port=0, address=self._hub.address)
            front = Ec2Front(self.ec2.url, self._hub.address)
        node.attach(instance, imds, front)

    def fault_ec2(self, rule: Rule, calls: int | None = None, action: str | None = None) -> None:
        """The same rule on every node's way to EC2; `calls` counts for each by itself."""
        for node in self._launched():
            node.front.add(rule, calls, action)

    def heal_ec2(self) -> None:
        for node in self._launched():
            node.front.clear()

    def _launched(self) -> list[Node]:
        return [node for node in self.nodes if node.front is not None]

    def terminate(self, node: Node) -> None:
        """The instance is gone, and its disks with it; EC2 goes on listing it as terminated."""
        node.power_off()
        instance = node.instance
        node.detach()
        self.ec2.terminate(instance.id)
        node.wipe()

    def stop_instances(self, *nodes: Node) -> None:
        """EC2's stop: disks and addresses stay."""
        for node in nodes:
            node.power_off()
        self.ec2.stop_instances(*(node.instance.id for node in nodes))

    def start_instances(self, *nodes: Node) -> None:
        """EC2's start: the same instances with a new launch time. The supervisors are not started, the fronts have no rules."""
        for node, instance in zip(nodes, self.ec2.start_instances(*(node.instance.id for node in nodes))):
            self._attach(node, instance)

    def wait(self, condition: Callable[[], Seen], timeout: float, what: str) -> Seen:
        """What the condition returns once it is true; a node that can't be asked counts as "not yet"."""
        deadline = time.monotonic() + timeout
        while True:
            trouble: object = "false"
            try:
                seen = condition()
                if seen:
                    return seen
            except NOT_YET as error:
                trouble = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {timeout} s; last: {trouble}\n{self.log_tails()}")
            time.sleep(POLL_SECONDS)

    def log_tails(self) -> str:
        return "\n".join(f"--- {node.address}, {_life(node)}\n{node.log_tail()}" for node in self.nodes)


def static_list_arguments(node: Node, listed: list[Node], token: str = "lab") -> list[str]:
    """etcd's flags for a cluster whose list is written by hand: what the benchmark compares with."""
    return [
        f"--name={node.address}",
        f"--listen-client-urls={node.client_url}",
        f"--advertise-client-urls={node.client_url}",
        f"--listen-peer-urls={node.peer_url}",
        f"--initial-advertise-peer-urls={node.peer_url}",
        f"--initial-cluster={','.join(f'{one.address}={one.peer_url}' for one in listed)}",
        f"--initial-cluster-token={token}",
        "--initial-cluster-state=new",
        *node.security.etcd_flags(node.directory),
    ]


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """A run that is told to stop must still get to its labs' __exit__; python's own default is to end on the spot."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def claim_network() -> tuple[str, socket.socket]:
    """A random "127.x.y" that no other lab on this machine uses; it is ours while the socket is open."""
    while True:
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        claim = socket.socket()
        try:
            claim.bind((f"{network}.1", PORT))  # never listened on: a mark that other labs run into
            return network, claim
        except OSError:
            claim.close()


def _runs_etcd(pid: int) -> bool:
    """Not the supervisor, nor its child before exec or asked for its version."""
    try:
        name, told = (Path(f"/proc/{pid}/{file}").read_text() for file in ("comm", "cmdline"))
    except OSError:
        return False
    return name.strip() == "etcd" and bool(told) and "--version" not in told  # who is about to end tells nothing


def _life(node: Node) -> str:
    if node.process is None:
        return "never started"
    code = node.process.exit_code()
    return "running" if code is None else f"exited {code}"
