"""From an account to a cluster: Terraform makes the instances in moto, the machines do what their user data tells them,
with the rights that Terraform gave them, and the program makes one cluster of real etcds out of them."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import cloud as around
import pytest
import tools
from fleet import wait_formed, wait_said
from lab import install
from lab.autoscaling import AutoScaling
from lab.node import Lab

NAME = "etcd-dev"
LAUNCH, TERMINATE = "etcd-launch", "etcd-terminate"


class Account:
    """A user's machine and account: a copy of the repository's scripts, credentials, and what is to be run."""

    def __init__(self, lab: Lab, folder: Path, binary: Path, **variables):
        self.lab = lab
        ec2 = lab.ec2
        key = ec2.client("iam").create_access_key(UserName="lab")["AccessKey"]
        self.front = around.balancers(ec2).start()
        self.deployment = tools.Deployment(folder, ec2.url, self.front.url, key["AccessKeyId"], key["SecretAccessKey"])
        self.environment = {
            "PATH": f"{tools.checkers()}:{os.environ['PATH']}",
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2": self.front.url,
            "TF_CLI_ARGS_init": f"-no-color -plugin-dir={tools.mirror()}",
            # Everything in the state is a minute old.
            "TF_CLI_ARGS_plan": "-no-color -refresh=false",
            **{f"TF_CLI_ARGS_{command}": "-no-color" for command in ("output", "console")},
            "TF_CLI_ARGS_apply": "-no-color -parallelism=8",
        }
        # The README's way to what the members run.
        with tarfile.open(self.deployment.private / "etcd.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(binary, "etcd-muster")
            for program in ("etcd", "etcdctl"):
                archive.add(lab.etcd_binary.parent / program, f"etcd-release/{program}")
        block = f"{lab.network}.0"
        zones = {f"eu-west-1{zone}": f"{lab.network}.{first}/26" for zone, first in (("a", 0), ("b", 64), ("c", 128))}
        image = ec2.client("ec2").register_image(Name="ubuntu", RootDeviceName="/dev/sda1", Architecture="x86_64")
        self.block = f"{block}/24"
        self.deployment.set(ami_id=image["ImageId"], vpc={"dev": self.block}, subnet_private={"dev": zones}, **variables)
        self.log = folder / "run.log"
        self.scripts: list[subprocess.Popen[bytes]] = []

    def run(self, *arguments: str, answer: str = "") -> subprocess.Popen[bytes]:
        """scripts/run.sh, its output in `log`."""
        script = self.deployment.folder.parents[1] / "scripts" / "run.sh"
        script.parent.mkdir(exist_ok=True)
        script.write_text((tools.REPOSITORY / "scripts" / "run.sh").read_text())
        with open(self.log, "ab") as log:
            self.scripts.append(
                subprocess.Popen(
                    ["sh", str(script), *arguments],
                    env=self.environment,
                    stdin=subprocess.PIPE if answer else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        if answer:
            self.scripts[-1].stdin.write(answer.encode())
            self.scripts[-1].stdin.close()
        return self.scripts[-1]

    def stop(self) -> None:
        """Nothing of a test that failed goes on."""
        for script in self.scripts:
            if script.poll() is None:
                os.killpg(script.pid, signal.SIGKILL)
                script.wait()
        self.front.stop()

    def finish(self, *arguments: str) -> str:
        """The same to its end; all that it said."""
        before = len(self.said())
        code = self.run(*arguments).wait(tools.BOUND)
        assert code == 0, self.said()[before:]
        return self.said()[before:]

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def machine(self, instance_id: str, user_data: bytes, **env: str) -> around.Machine:
        return around.Machine(self.lab, instance_id, user_data, env)


@pytest.fixture
def account(lab, tmp_path, binary):
    made: list[Account] = []

    def make(**variables) -> Account:
        made.append(Account(lab, tmp_path, binary, **variables))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def wait_process(lab: Lab, process: subprocess.Popen[bytes], account: Account, text: str) -> None:
    """Until the script has said this; it must not have ended before."""

    def is_said() -> bool:
        assert process.poll() is None or text in account.said(), account.said()[-3000:]
        return text in account.said()

    lab.wait(is_said, tools.BOUND, f"{text!r} of scripts/run.sh")


def test_fixed_instances_from_nothing_to_a_healthy_cluster_and_back(lab, account):
    """The README's way: scripts/run.sh makes CA and instances, they fetch, found and mint, it waits for them, and its
    --destroy leaves nothing behind but the volumes that were to be kept."""
    user = account(tls="minted", data_volume={"at_destroy": "keep"})
    script = user.run("--yes")
    wait_process(lab, script, user, "0 of 3 members are healthy")

    outputs = user.deployment.outputs()
    lab.security = around.Given(user.deployment.private)
    machines = [user.machine(i, around.instance_user_data(lab.ec2, i)) for i in outputs["instance_ids"].values()]
    for machine in machines:
        machine.start()
    nodes = [machine.node for machine in machines]
    wait_formed(lab, *nodes)
    assert script.wait(tools.BOUND) == 0, user.said()[-3000:]
    said = user.said()
    assert "3 of 3 members are healthy" in said
    assert outputs["endpoint"] in said and all(url in said for url in outputs["member_endpoints"].values())

    # The key is where the program reads it, and nowhere else.
    key = (user.deployment.private / "ca.key").read_text()
    state = (user.deployment.folder / "terraform.tfstate").read_text()
    body = key.splitlines()[1]
    assert body not in state and body not in said and not any(body in text for m in machines for text in m.files.values())

    # What a user does on the machine, and from elsewhere.
    assert "is healthy" in machines[0].run("node-etcdctl", "endpoint", "health")
    nodes[0].etcd.put("key", "value")
    private = user.deployment.private
    found = subprocess.run(
        [str(lab.etcd_binary.parent / "etcdctl"), "get", "key", "--print-value-only", f"--endpoints={nodes[2].client_url}"]
        + [f"--cacert={private / 'ca.crt'}", f"--cert={private / 'client.crt'}", f"--key={private / 'client.key'}"],
        env={"ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert found.stdout.strip() == "value", found.stderr

    # A restart asks nobody for what is here.
    before = nodes[1].front.calls["GET"]
    machines[1].run("etcd-fetch")
    assert nodes[1].front.calls["GET"] == before

    for node in nodes:
        node.power_off()
    # Who says no has changed nothing, not even what Terraform knows.
    before = user.deployment.run("state", "list")
    assert user.run("--destroy", answer="no\n").wait(tools.BOUND) == 1 and "nothing was changed" in user.said()
    assert user.deployment.run("state", "list") == before
    user.finish("--destroy", "--yes")
    kept = around.leftovers(lab.ec2, user.block)
    assert set(kept) == {"volumes"} and set(outputs["data_volume_ids"].values()) == set(kept["volumes"])
    assert all(volume in user.said() for volume in kept["volumes"])
    assert user.deployment.run("state", "list").strip() == ""


def test_a_group_forms_replaces_and_goes(lab, account):
    """The group's members complete their launch hooks as voters; one that is to end leaves, and the new one takes its place."""
    user = account(shape="group")
    tools.init(user.deployment.folder)
    user.deployment.apply()

    scaling, api = lab.ec2.client("autoscaling"), lab.ec2.client("ec2")
    (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    hooks = {hook["LifecycleHookName"]: hook for hook in scaling.describe_lifecycle_hooks(AutoScalingGroupName=NAME)["LifecycleHooks"]}
    assert {name: hook["DefaultResult"] for name, hook in hooks.items()} == {LAUNCH: "ABANDON", TERMINATE: "CONTINUE"}
    assert [process["ProcessName"] for process in group["SuspendedProcesses"]] == ["AZRebalance"]

    template = group["LaunchTemplate"] if "LaunchTemplate" in group else group["Instances"][0]["LaunchTemplate"]
    (version,) = api.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"], Versions=["$Latest"])["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    user_data = base64.b64decode(data["UserData"])
    with AutoScaling(lab.ec2.sessions, NAME) as hooked:
        at = {"AWS_ENDPOINT_URL_AUTO_SCALING": hooked.url}

        def boot(instance_id: str) -> around.Machine:
            hooked.wait_for(LAUNCH, instance_id)
            machine = user.machine(instance_id, user_data, **at)
            machine.start()
            return machine

        first = {i["InstanceId"]: boot(i["InstanceId"]) for i in group["Instances"]}
        nodes = [machine.node for machine in first.values()]
        cluster = wait_formed(lab, *nodes)
        lab.wait(lambda: not hooked.waiting, 60, "launch hooks completed")
        assert all(around.is_ready(node.address) for node in nodes)

        # An instance refresh ends one; its hook holds it until it has left.
        old = nodes[0]
        hooked.wait_for(TERMINATE, old.instance.id)
        old.imds.meta_data["autoscaling/target-lifecycle-state"] = "Terminated"
        wait_said(lab, old, "hold: this instance has left the cluster")
        lab.wait(lambda: (TERMINATE, old.instance.id) in hooked.completed, 60, "terminate hook completed")
        wait_formed(lab, *nodes[1:])
        old.kill(signal.SIGTERM)
        old.wait_exit(60)
        scaling.terminate_instance_in_auto_scaling_group(InstanceId=old.instance.id, ShouldDecrementDesiredCapacity=False)
        (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        (new,) = {i["InstanceId"] for i in group["Instances"]} - set(first)
        replacement = boot(new).node
        assert wait_formed(lab, *nodes[1:], replacement) == cluster
        lab.wait(lambda: not hooked.waiting, 60, "the new launch hook completed")
        assert not hooked.refusals
        for node in (*nodes[1:], replacement):
            node.power_off()

    user.deployment.destroy()
    left = around.leftovers(lab.ec2, user.block)
    left.pop("volumes", None)  # moto keeps those that EC2 deletes with their instance
    assert left == {}
