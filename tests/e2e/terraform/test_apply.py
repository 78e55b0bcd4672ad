"""From an account to a cluster: Terraform makes the instances in moto, the machines do what their user data tells them,
with the rights that Terraform gave them, and the program makes one cluster of real etcds out of them."""

from __future__ import annotations

import base64
import re
import signal
import subprocess

import cloud as around
import pytest
import tools
from fleet import wait_formed, wait_said
from muster_tools.lab import install
from muster_tools.lab.autoscaling import AutoScaling
from muster_tools.lab.node import Lab
from muster_tools.lab.security import AUTO, FILES, SIDES

NAME = "etcd-dev"
LAUNCH, TERMINATE = "etcd-launch", "etcd-terminate"
PAGE = tools.REPOSITORY / "docs" / "terraform.md"


def page_commands() -> list[str]:
    """The first block of commands in docs/terraform.md."""
    block = re.search(r"\n\n((?:    \S.*\n)+)", PAGE.read_text())[1]
    return [line.strip() for line in block.splitlines()]


def test_the_four_commands_lead_to_a_healthy_cluster_and_destroy_leaves_nothing(lab, account):
    """Word for word, in a fresh copy: pack, credentials, scripts/run.sh, and etcdctl through Session Manager."""
    user = account()
    pack, credentials, run, health = page_commands()
    user.finish(pack.replace("scripts/bundle ", f"scripts/bundle --binary {user.binary} "))  # built already, by a step of its own
    user.finish(credentials)
    machines = user.form(run, answer="yes\n")
    nodes = [machine.node for machine in machines.values()]
    around.session_manager(user.tools, list(machines.values()))
    assert "is healthy" in user.finish(health)
    said, outputs = user.said(), user.deployment.outputs()
    assert outputs["endpoint"] in said and all(url in said for url in outputs["member_endpoints"].values())

    # The key is where the program reads it, and nowhere else.
    private = user.deployment.private
    key = (private / "ca.key").read_text()
    state = (user.deployment.folder / "terraform.tfstate").read_text()
    body = key.splitlines()[1]
    assert body not in state and body not in said and not any(body in text for m in machines.values() for text in m.files.values())

    # The object that decided the first members, written with the members' own rights.
    bucket, prefix = outputs["claim"].removeprefix("s3://").split("/")
    claims = [entry["Key"] for entry in lab.ec2.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert bucket.startswith(f"{NAME}-claim-") and f"{prefix}/claim.json" in claims
    assert all(machine.node.env["MUSTER_CLAIM"] == outputs["claim"] for machine in machines.values())

    # From elsewhere, with the certificate that was made for that.
    nodes[0].etcd.put("key", "value")
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
    machines["1"].run("etcd-fetch")
    assert nodes[1].front.calls["GET"] == before

    for node in nodes:
        node.power_off()
    user.finish("scripts/run.sh --destroy --yes")
    assert around.leftovers(lab.ec2, user.block) == {}
    volumes = set(outputs["data_volume_ids"].values())
    snapshots = lab.ec2.client("ec2").describe_snapshots()["Snapshots"]
    assert volumes <= {snapshot["VolumeId"] for snapshot in snapshots}  # the default of at_destroy


def test_kept_volumes_give_a_destroyed_cluster_back(lab, account):
    """Fixed addresses, certificates of one's own, no balancer, volumes that stay: what a new cluster of these addresses gets is the old one."""
    addresses = {name: f"{lab.network}.{last}" for name, last in (("a", 10), ("b", 74), ("c", 138))}
    tls = {"tls": "files", "tls_files": "s3://etcd-tls/prod"}
    user = account(addresses=addresses, load_balancer=False, data_volume={"at_destroy": "keep"}, **tls)
    user.pack()
    user.deployment.look_into_credentials()
    lab.security = around.Fetched(client=FILES, peer=FILES)
    put_certificates(lab, addresses)
    machines = user.form("scripts/run.sh --yes")
    assert {name: machine.node.address for name, machine in machines.items()} == addresses
    machines["a"].node.etcd.put("key", "value")
    cluster = machines["a"].node.etcd.cluster_id()

    # Who says no has changed nothing, not even what Terraform knows.
    before = user.deployment.run("state", "list")
    assert "nothing was changed" in user.finish("scripts/run.sh --destroy", answer="no\n", code=1)
    assert user.deployment.run("state", "list") == before

    for machine in machines.values():
        machine.node.power_off()
        machine.node.detach()
    volumes = user.deployment.outputs()["data_volume_ids"]
    said = user.finish("scripts/run.sh --destroy --yes")
    assert all(volume in said for volume in volumes.values())
    kept = around.leftovers(lab.ec2, user.block)
    assert kept.pop("buckets") == ["etcd-tls"] and set(kept) == {"volumes"} and set(kept["volumes"]) == set(volumes.values())
    assert user.deployment.run("state", "list").strip() == ""

    user.set(existing_volumes=volumes)
    again = user.form("scripts/run.sh --yes", disks={name: machine.node for name, machine in machines.items()})
    assert {machine.node.instance.id for machine in again.values()}.isdisjoint(m.node.instance.id for m in machines.values())
    assert again["b"].node.etcd.cluster_id() == cluster and again["b"].node.etcd.get("key") == "value"
    described = lab.ec2.client("ec2").describe_volumes(VolumeIds=list(volumes.values()))["Volumes"]
    attached = {volume["VolumeId"]: volume["Attachments"][0]["InstanceId"] for volume in described}
    assert attached == {volumes[name]: machine.node.instance.id for name, machine in again.items()}

    # They are this cluster's now: who leaves them off would get empty ones in their place.
    user.set(existing_volumes={})
    with pytest.raises(tools.Failed) as told:
        user.deployment.run("plan", "-no-color", "-input=false", "-refresh=false")
    said = " ".join(str(told.value).replace("│", " ").split())
    assert f"existing_volumes: node a lives on another volume ({volumes['a']}), which would be exchanged" in said


def put_certificates(lab: Lab, addresses: dict[str, str]) -> None:
    """Each node's own into the bucket, as tls_files wants them."""
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket="etcd-tls", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for name, address in addresses.items():
        for side in SIDES:
            pair = lab.security.issue(side, address)
            files = {f"{side}.crt": pair.cert_pem(), f"{side}.key": pair.key_pem(), f"{side}_ca.crt": lab.security.ca(side).cert_pem()}
            for file, content in files.items():
                s3.put_object(Bucket="etcd-tls", Key=f"prod/{name}/{file}", Body=content)


def test_a_group_forms_is_refreshed_and_goes(lab, account):
    """The group's members complete their launch hooks as voters. Another release of etcd in the archive means a refresh: one after
    another is to end and leaves, and a new one takes its place, until all run that release."""
    first_release, next_release = install.newest("3.5.", install.DEFAULT_CACHE), "3.6.16"
    if not all(install.etcd_binaries(release).is_dir() for release in (first_release, next_release)):
        pytest.skip(f"etcd {first_release} or {next_release} is not installed: scripts/install-lab")
    user = account(shape="group", tls="automatic")
    user.pack(first_release)
    user.deployment.look_into_credentials()
    lab.security = around.Fetched(client=AUTO, peer=AUTO)
    script = user.begin("scripts/run.sh --yes")
    lab.wait(lambda: script.poll() is not None or "0 of 3 members are healthy" in user.said(), tools.BOUND, "apply")
    assert script.poll() is None, user.said()[-3000:]

    scaling, api = lab.ec2.client("autoscaling"), lab.ec2.client("ec2")
    (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    hooks = {hook["LifecycleHookName"]: hook for hook in scaling.describe_lifecycle_hooks(AutoScalingGroupName=NAME)["LifecycleHooks"]}
    assert {name: hook["DefaultResult"] for name, hook in hooks.items()} == {LAUNCH: "ABANDON", TERMINATE: "CONTINUE"}
    assert [process["ProcessName"] for process in group["SuspendedProcesses"]] == ["AZRebalance"]

    def latest() -> bytes:
        """The user data of the template's newest version, which the group launches from."""
        (made,) = api.describe_launch_templates()["LaunchTemplates"]
        (version,) = api.describe_launch_template_versions(LaunchTemplateId=made["LaunchTemplateId"], Versions=["$Latest"])["LaunchTemplateVersions"]
        data = version["LaunchTemplateData"]
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        return base64.b64decode(data["UserData"])

    def instances() -> set[str]:
        (now,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        return {instance["InstanceId"] for instance in now["Instances"]}

    with AutoScaling(lab.ec2.sessions, NAME) as hooked:
        at = {"AWS_ENDPOINT_URL_AUTO_SCALING": hooked.url}

        def boot(instance_id: str, user_data: bytes) -> around.Machine:
            hooked.wait_for(LAUNCH, instance_id)
            machine = around.Machine(lab, instance_id, user_data, at)
            machine.start()
            return machine

        first = [boot(instance, latest()) for instance in sorted(instances())]
        nodes = [machine.node for machine in first]
        cluster = wait_formed(lab, *nodes)
        lab.wait(lambda: not hooked.waiting, 60, "launch hooks completed")
        assert script.wait(tools.BOUND) == 0, user.said()[-3000:]
        around.session_manager(user.tools, first)
        assert "is healthy" in user.finish(page_commands()[-1])
        nodes[0].etcd.put("key", "kept")

        # The next release of etcd in the archive is a refresh, and nothing that Terraform does to an instance itself.
        before, user_data = instances(), latest()
        assert not user.refreshes.ordered
        user.pack(next_release)
        user.refreshes.state, user.refreshes.percentage = "InProgress", 0
        script, since = user.begin("scripts/run.sh --yes"), len(user.said())
        lab.wait(lambda: script.poll() is not None or "Instance refresh: InProgress 0" in user.said(), tools.BOUND, "the refresh")
        (order,) = user.refreshes.ordered
        assert (order["AutoScalingGroupName"], order["Strategy"]) == (NAME, "Rolling")
        bounds = {name.removeprefix("Preferences."): value for name, value in order.items() if name.startswith("Preferences.")}
        assert (bounds["MinHealthyPercentage"], bounds["MaxHealthyPercentage"]) == ("66", "100")
        assert instances() == before and latest() != user_data

        for old in list(nodes):
            # It ends one; the hook holds that until it has left.
            known = instances()
            hooked.wait_for(TERMINATE, old.instance.id)
            old.imds.meta_data["autoscaling/target-lifecycle-state"] = "Terminated"
            wait_said(lab, old, "hold: this instance has left the cluster")
            lab.wait(lambda: (TERMINATE, old.instance.id) in hooked.completed, 60, "terminate hook completed")
            nodes.remove(old)
            wait_formed(lab, *nodes)
            old.kill(signal.SIGTERM)
            old.wait_exit(60)
            old.power_off()
            old.detach()  # its address is free for the new one
            scaling.terminate_instance_in_auto_scaling_group(InstanceId=old.instance.id, ShouldDecrementDesiredCapacity=False)
            (new,) = instances() - known
            nodes.append(boot(new, latest()).node)
            assert wait_formed(lab, *nodes) == cluster
            lab.wait(lambda: not hooked.waiting, 60, "the new launch hook completed")
        assert not hooked.refusals
        # It is ended when AWS says so, and not before.
        assert script.poll() is None, user.said()[since:]
        user.refreshes.state, user.refreshes.percentage = "Successful", 100
        assert script.wait(tools.BOUND) == 0 and "3 of 3 members are healthy" in user.said()[since:]
        stepped = lambda: {node.etcd.peer_version()["etcdcluster"] for node in nodes} == {"3.6.0"}
        lab.wait(stepped, 60, "a cluster of 3.6")
        # The supervisors prepare the step after it: each etcd may be restarted once more, one at a time.
        running = lambda: {node.etcd.status()["version"] for node in nodes} == {next_release}
        lab.wait(running, 60, f"etcd {next_release} on all")
        kept = lambda: [node.etcd.get("key") for node in nodes] == ["kept"] * 3
        lab.wait(kept, 60, "the key on all")
        for node in nodes:
            node.power_off()

    user.finish("scripts/run.sh --destroy --yes")
    left = around.leftovers(lab.ec2, user.block)
    left.pop("volumes", None)  # moto keeps those that EC2 deletes with their instance
    assert left == {}
