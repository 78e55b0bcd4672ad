"""Instances whose etcd runs in a container: a network with fixed addresses, and moto and IMDS at its gateway."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from engine import Engine, docker
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.ec2_front import Ec2Front
from muster_tools.lab.etcd import PEER_PORT, EtcdClient
from muster_tools.lab.imds import Imds
from muster_tools.lab.instance import Instance
from muster_tools.lab.node import FIRST_HOST, LOG_TAIL_LINES, Lab

# As docs/deploy-ec2.md has it: nothing that etcd or its supervisor would need is taken away.
WITHOUT_RIGHTS = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
NETWORK_TRIES = 20  # of 65,536 networks; some are taken


@dataclass
class Machine:
    """One instance. Its volumes outlive its containers, as a disk does."""

    address: str
    instance: Instance
    imds: Imds
    front: Ec2Front
    network: str
    label: str
    env: dict[str, str]
    volumes: dict[str, str]
    container: str = ""
    etcd: EtcdClient = field(init=False)

    def __post_init__(self) -> None:
        self.etcd = EtcdClient(self.address)

    peer_url = property(lambda self: f"http://{self.address}:{PEER_PORT}")

    def run(self, image: str) -> None:
        env = {
            "ETCD_MEMBER_TYPE": "ip",  # the instances' names resolve nowhere
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds.url,
            "AWS_ENDPOINT_URL_EC2": self.front.url,
            **self.env,
        }
        settings = [f"--env={name}={value}" for name, value in env.items()]
        disks = [f"--volume={volume}:{path}" for path, volume in self.volumes.items()]
        place = [f"--network={self.network}"] + ([] if self.network == "host" else [f"--ip={self.address}"])
        self.container = docker("run", "--detach", f"--label={self.label}", *WITHOUT_RIGHTS, *place, *disks, *settings, image)

    def remove(self) -> None:
        """A stop as an operator asks for it, and away with the container; the volumes stay."""
        docker("stop", "--time=40", self.container)
        assert self.state()["ExitCode"] == 0, self.log_text()
        docker("rm", self.container)

    def state(self) -> dict:
        """The engine's word on it: Status, ExitCode, StartedAt, Pid, Health."""
        return json.loads(docker("inspect", "--format={{json .State}}", self.container))

    def started_at(self) -> datetime:
        return datetime.fromisoformat(self.state()["StartedAt"][:26] + "+00:00")

    def log_text(self) -> str:
        """Of this container, over its restarts."""
        return docker("logs", self.container, stderr_too=True) if self.container else ""


class Machines:
    """The fleet of one test: `lab`, as far as the end-to-end tests' helpers know one."""

    wait = Lab.wait

    def __init__(self, engine: Engine, cloud: Ec2, image: str, env: dict[str, str]):
        self.engine, self.image, self.env = engine, image, dict(env)
        self.nodes: list[Machine] = []
        self._cloud = cloud
        self._servers = ExitStack()
        self._next_host = FIRST_HOST
        self.network, self.subnet = "", ""

    def __enter__(self) -> Machines:
        self.network, self.subnet = self._make_network()
        self._cloud.reset(self.subnet.rpartition(".")[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()
        containers = [node.container for node in self.nodes if node.container]
        if containers:
            docker("rm", "--force", "--volumes", *containers)
        docker("network", "rm", self.network)

    def _make_network(self) -> tuple[str, str]:
        """Its id, and "10.x.y"."""
        for tries_left in reversed(range(NETWORK_TRIES)):
            subnet = f"10.{random.randint(1, 254)}.{random.randint(0, 255)}"
            place = (f"--subnet={subnet}.0/24", f"--gateway={subnet}.1")
            try:
                return docker("network", "create", f"--label={self.engine.label}", *place, f"{self.engine.name}-{subnet}"), subnet
            except AssertionError as refusal:
                if "overlap" not in str(refusal) or not tries_left:
                    raise
        raise AssertionError("unreachable")

    def add(self, **env: str) -> Machine:
        """A launched instance whose container is not started yet."""
        address = f"{self.subnet}.{self._next_host}"
        self._next_host += 1
        volumes = {
            path: docker("volume", "create", f"--label={self.engine.label}") for path in ("/etcd/data", "/etcd/wal")
        }
        return self._launch(address, self.network, f"{self.subnet}.1", volumes, env)

    def add_on_the_host(self, address: str, **env: str) -> Machine:
        """The only one, in the host's own network, with the volumes that the image asks for."""
        self._cloud.reset(address.rpartition(".")[0].rpartition(".")[0])
        return self._launch(address, "host", "127.0.0.1", {}, env)

    def _launch(self, address: str, network: str, servers: str, volumes: dict[str, str], env: dict[str, str]) -> Machine:
        instance = self._cloud.launch(address)
        imds = Imds(instance, self._cloud.role_credentials, port=0, address=servers).start()
        self._servers.callback(imds.stop)
        front = self._servers.enter_context(Ec2Front(self._cloud.url, servers))
        made = Machine(address, instance, imds, front, network, self.engine.label, {**self.env, **env}, volumes)
        self.nodes.append(made)
        return made

    def terminate(self, node: Machine) -> None:
        """EC2 ends the instance; nothing of it comes back."""
        self._cloud.terminate(node.instance.id)
        self.nodes.remove(node)
        docker("rm", "--force", node.container)

    def log_tails(self) -> str:
        tails = (f"--- {node.address}\n" + "\n".join(node.log_text().splitlines()[-LOG_TAIL_LINES:]) for node in self.nodes)
        return "\n".join(tails)
