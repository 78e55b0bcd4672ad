"""A user of terraform/ and scripts/run.sh."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
from pathlib import Path

import cloud as around
import tools
from fleet import wait_formed
from muster_tools.lab import install
from muster_tools.lab.node import Lab, Node


class Account:
    """A user's machine and account: a fresh copy of the repository, credentials, and values for this lab's network."""

    def __init__(self, lab: Lab, folder: Path, binary: Path, **variables):
        self.lab = lab
        self.binary = binary
        ec2 = lab.ec2
        key = ec2.client("iam").create_access_key(UserName="lab")["AccessKey"]
        self.refreshes = around.Refreshes()
        self.front = around.front(ec2, self.refreshes).start()
        self.deployment = tools.Deployment(folder, ec2.url, self.front.url, key["AccessKeyId"], key["SecretAccessKey"])
        self.tools = folder / "bin"
        self.tools.mkdir()
        self.environment = {
            "PATH": f"{self.tools}:{tools.checkers()}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],  # cargo's
            "ETCD_DIR": str(lab.etcd_binary.parent),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **self.deployment.environment,
            "TF_CLI_ARGS_init": f"-no-color -plugin-dir={tools.mirror()}",
            # Everything in the state is a minute old.
            "TF_CLI_ARGS_plan": "-no-color -refresh=false",
            **{f"TF_CLI_ARGS_{command}": "-no-color" for command in ("output", "console")},
            "TF_CLI_ARGS_apply": "-no-color -parallelism=8",
        }
        self.block = f"{lab.network}.0/24"
        zones = {f"eu-west-1{zone}": f"{lab.network}.{first}/26" for zone, first in (("a", 0), ("b", 64), ("c", 128))}
        image = ec2.client("ec2").register_image(Name="ubuntu", RootDeviceName="/dev/sda1", Architecture="x86_64")
        self.variables = {"ami_id": image["ImageId"], "vpc": {"dev": self.block}, "subnet_private": {"dev": zones}}
        self.set(**variables)
        self.log = folder / "said.log"
        self.begun: list[subprocess.Popen[bytes]] = []

    def set(self, **variables) -> None:
        self.variables |= variables
        self.deployment.set(**self.variables)

    def pack(self, release: str | None = None) -> None:
        """What the members run, with that etcd or the lab's; the documented way to it takes longer, and is taken once."""
        programs = self.lab.etcd_binary.parent if release is None else install.etcd_binaries(release)
        with tarfile.open(self.deployment.private / "etcd.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(self.binary, "etcd-muster")
            for program in ("etcd", "etcdctl"):
                archive.add(programs / program, f"etcd-release/{program}")

    def begin(self, command: str, answer: str = "") -> subprocess.Popen[bytes]:
        """A line in the user's shell, at the top of the repository, its output in `log`."""
        with open(self.log, "ab") as log:
            self.begun.append(
                subprocess.Popen(
                    ["sh", "-c", command],
                    cwd=self.deployment.repository,
                    env=self.environment,
                    stdin=subprocess.PIPE if answer else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        if answer:
            self.begun[-1].stdin.write(answer.encode())
            self.begun[-1].stdin.close()
        return self.begun[-1]

    def finish(self, command: str, answer: str = "", code: int = 0) -> str:
        """The same to its end; all that it said."""
        before = len(self.said())
        ended = self.begin(command, answer).wait(tools.BOUND)
        assert ended == code, f"{command}: exit {ended}\n{self.said()[before:]}"
        return self.said()[before:]

    def stop(self) -> None:
        """Nothing of a test that failed goes on."""
        for process in self.begun:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.front.stop()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def form(self, command: str, answer: str = "", disks: dict[str, Node] | None = None) -> dict[str, around.Machine]:
        """An apply of fixed instances: each machine does what its user data says, and scripts/run.sh is content with them."""
        since = len(self.said())
        script = self.begin(command, answer)
        balanced = self.variables.get("load_balancer", True)

        def has_applied() -> bool:
            said, ended = self.said()[since:], script.poll()
            assert ended is None or (ended == 0 and not balanced), said[-3000:]
            return "0 of 3 members are healthy" in said if balanced else ended == 0

        self.lab.wait(has_applied, tools.BOUND, "scripts/run.sh waiting for its members, or without a balancer its end")
        if (self.deployment.private / "ca.crt").exists():
            self.lab.security = around.Given(self.deployment.private)
        made = self.deployment.outputs()["instance_ids"]
        machines = {}
        for name, id_ in made.items():
            told = around.instance_user_data(self.lab.ec2, id_)
            machines[name] = around.Machine(self.lab, id_, told, disk=(disks or {}).get(name))
        for machine in machines.values():
            machine.start()
        wait_formed(self.lab, *[machine.node for machine in machines.values()])
        assert script.wait(tools.BOUND) == 0, self.said()[since:][-3000:]
        assert ("3 of 3 members are healthy" if balanced else "no load balancer to ask") in self.said()[since:]
        return machines
