"""Changes to a living cluster: what an operator sets later takes no data, and never two members at once."""

from __future__ import annotations

import json
import re
from typing import Any

import cloud as around
import pytest
import tools
from fleet import wait_formed

ETCD = "module.instance_etcd."


def change_plan(user, *arguments: str, **variables: Any) -> dict[str, Any]:
    """What Terraform would do if these variables were set, as `terraform show -json` has it."""
    before = user.variables
    user.deployment.set(**{**before, **variables})
    try:
        user.deployment.run("plan", "-no-color", "-input=false", "-refresh=false", "-out=change.tfplan", *arguments)
    finally:
        user.deployment.set(**before)
    told = user.deployment.run("show", "-json", "change.tfplan")
    (user.deployment.folder / "change.json").write_text(told)
    return json.loads(told)


def ended(plan: dict[str, Any], kind: str) -> set[str]:
    """The addresses of that kind that would be destroyed, to be made anew or not."""
    return {change["address"] for change in plan["resource_changes"] if change["type"] == kind and "delete" in change["change"]["actions"]}


def volumes(lab) -> set[str]:
    return {volume["VolumeId"] for volume in lab.ec2.client("ec2").describe_volumes()["Volumes"]}


@pytest.fixture
def fixed(account):
    """Three single machines as Terraform knows them; nothing runs on them."""
    user = account(load_balancer=False, session_manager=False)
    (user.deployment.private / "etcd.tar.gz").write_bytes(b"what a plan needs is a file")
    user.deployment.look_into_credentials()
    user.finish("scripts/run.sh --yes")
    return user


def test_a_volume_outlives_every_word_about_its_end(lab, fixed):
    """snapshot, delete, keep: the same three volumes, attached to the same machines; one that is kept survives a destroy, whoever
    asks for it, and a state that has kept volumes under another address, as an earlier version of the module wrote it, is taken over."""
    user = fixed
    made = user.deployment.outputs()
    ids = set(made["data_volume_ids"].values())
    assert len(ids) == 3 and ids <= volumes(lab)

    for at_destroy in ("delete", "keep"):
        plan = change_plan(user, data_volume={"at_destroy": at_destroy})
        assert not ended(plan, "aws_ebs_volume") and not ended(plan, "aws_volume_attachment") and not ended(plan, "aws_instance")
        user.set(data_volume={"at_destroy": at_destroy})
        user.finish("scripts/run.sh --yes")
        now = user.deployment.outputs()
        assert (now["data_volume_ids"], now["instance_ids"], now["at_destroy"]) == (made["data_volume_ids"], made["instance_ids"], at_destroy)
        assert ids <= volumes(lab)

    # No plan ends or exchanges a kept one, not even one that is about nothing else.
    for arguments in (("-destroy",), (f"-replace={ETCD}aws_ebs_volume.data[\"0\"]",), ("-destroy", f"-target={ETCD}aws_ebs_volume.data[\"1\"]")):
        with pytest.raises(tools.Failed, match=r"(?s)terraform_data.kept.*Instance cannot be destroyed|Instance cannot be destroyed.*terraform_data.kept"):
            change_plan(user, *arguments)
    with pytest.raises(tools.Failed, match="Instance cannot be destroyed"):
        change_plan(user, data_volume={"at_destroy": "snapshot"})

    # run.sh takes the guards away; who then says no has changed nothing.
    before = user.deployment.run("state", "list")
    said = user.finish("scripts/run.sh -var 'data_volume={at_destroy=\"snapshot\"}'", answer="no\n", code=1)
    assert "lose their guard" in said and "nothing was changed" in said
    assert user.deployment.run("state", "list") == before

    # An earlier version's state.
    user.deployment.run("state", "mv", f"{ETCD}aws_ebs_volume.data", f"{ETCD}aws_ebs_volume.kept")
    known = user.deployment.run("state", "list").split()
    user.deployment.run("state", "rm", *[address for address in known if ".terraform_data." in address])
    plan = change_plan(user)
    moved = {change["address"]: change["previous_address"] for change in plan["resource_changes"] if change.get("previous_address")}
    assert moved == {f'{ETCD}aws_ebs_volume.data["{node}"]': f'{ETCD}aws_ebs_volume.kept["{node}"]' for node in "012"}
    assert not ended(plan, "aws_ebs_volume") and not ended(plan, "aws_instance") and not ended(plan, "aws_volume_attachment")
    user.finish("scripts/run.sh --yes")
    assert user.deployment.outputs()["data_volume_ids"] == made["data_volume_ids"] and ids <= volumes(lab)

    # The volume of a member that goes stays, too.
    user.set(instance_count=2)
    said = user.finish("scripts/run.sh --yes --left")
    assert f"These data volumes stay, and Terraform forgets them: {made['data_volume_ids']['2']}\n" in said and ids <= volumes(lab)
    assert set(user.deployment.outputs()["instance_ids"]) == {"0", "1"}

    # The guard keeps them where the variables are gone.
    user.set(data_volume={})
    said = user.finish("scripts/run.sh --destroy --yes")
    assert all(made["data_volume_ids"][node] in said for node in "01") and "These data volumes stay" in said
    left = around.leftovers(lab.ec2, user.block)
    assert set(left.pop("volumes")) == ids and left == {}


def test_what_a_destroy_is_told_about_the_volumes_is_done_or_refused(lab, fixed):
    """keep, said to the destroy alone, keeps; snapshot, said to it alone, would not be heard by Terraform, so it is refused."""
    user = fixed
    ids = set(user.deployment.outputs()["data_volume_ids"].values())
    user.set(data_volume={"at_destroy": "delete"})
    user.finish("scripts/run.sh --yes")
    line = user.finish("scripts/run.sh --destroy --yes -var 'data_volume={at_destroy=\"snapshot\"}'", code=1)
    assert re.search(r"run.sh: data_volume.at_destroy is snapshot, and the volumes were last applied with delete.*apply first", line)
    assert ids <= volumes(lab)
    user.finish("scripts/run.sh --destroy --yes -var 'data_volume={at_destroy=\"keep\"}'")
    left = around.leftovers(lab.ec2, user.block)
    assert set(left.pop("volumes")) == ids and left == {}


# One variable at a time.

STOPPING = ("instance_type", "user_data", "user_data_base64", "ebs_optimized", "cpu_options", "placement_group")
HARMLESS = "none"


def taken(plan: dict[str, Any]) -> set[str]:
    """The members whose machine or volume the plan would end, stop or detach; by itself, not as terraform/judge reads it."""
    found = set()
    for change in plan["resource_changes"]:
        before, after, actions = change["change"]["before"] or {}, change["change"]["after"] or {}, change["change"]["actions"]
        node = str(change.get("index", change["address"]))
        if change["type"] in ("aws_instance", "aws_ebs_volume", "aws_volume_attachment") and "delete" in actions:
            found.add(node)
        if change["type"] == "aws_instance" and any(before.get(name) != after.get(name) for name in STOPPING) and actions == ["update"]:
            found.add(node)
        if change["type"] == "aws_autoscaling_group":
            fewer = before.get("desired_capacity", 0) - after.get("desired_capacity", 0)
            found |= {"a group's"} if actions == ["create"] else {f"the group's {n}" for n in range(99 if "delete" in actions else fewer)}
        if change["type"] in ("aws_vpc", "aws_subnet") and "delete" in actions:
            found |= {"all", "in it"}
    return found


def judged(user) -> str:
    """The word of terraform/judge on the last plan."""
    told = user.deployment.folder / "change.json"
    said = tools.terraform(user.deployment.repository / "terraform" / "judge", "console", f"-var=plan={told}", stdin="local.verdict\n")
    return re.findall(r'^"(.*)"$', said, re.MULTILINE)[-1]


def sentence(failed: str) -> str:
    """Terraform's message as one line."""
    return " ".join(re.sub(r"[│╷╵]", " ", failed).split())


def judge_each(user, changes: dict[str, tuple[dict[str, Any], str]]) -> None:
    """Each change by itself. What is expected is a word of the judge, or a part of the sentence by which Terraform refuses the plan. Only
    the judge's `none` goes through without more; then nobody is taken away."""
    wrong = {}
    for name, (variables, expected) in changes.items():
        try:
            plan = change_plan(user, **variables)
        except tools.Failed as failed:
            if expected not in sentence(str(failed)):
                wrong[name] = sentence(str(failed))[-700:]
            continue
        verdict, members = judged(user), taken(plan)
        if verdict.split(" module.network")[0] != expected or (len(members) > 1 and verdict == HARMLESS):
            wrong[name] = f"{verdict}, {members}"
    assert not wrong, json.dumps(wrong, indent=1)


SAME_OF_BOTH = {
    "the disks' key": ({"data_volume": {"kms_key_arn": "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-4000-8000-000000000000"}}, HARMLESS),
    "larger disks": ({"data_volume": {"size": 30}}, HARMLESS),
    "volumes that stay": ({"data_volume": {"at_destroy": "keep"}}, HARMLESS),
    "another type": ({"instance_type": "m7i.large"}, HARMLESS),
    "another image": ({"ami_id": "ami-0123456789abcdef0"}, HARMLESS),
    "SSH": ({"ssh": {"public_key_file": "private/me.pub", "cidrs": ["192.0.2.0/24"]}}, HARMLESS),
    "a claim": ({"claim": "s3://claims/etcd"}, HARMLESS),
    "snapshots": ({"snapshots": {}}, HARMLESS),
    "two members more": ({"instance_count": 5}, HARMLESS),
    "TLS": ({"tls": "automatic"}, 'This cluster speaks tls = "none"; a machine with "automatic" could not join'),
    "another name": ({"name": "blue"}, 'This cluster\'s name is "etcd-dev"'),
    "other tags": ({"filter_tags": {"etcd": "2"}}, "This cluster's members find each other by etcd=1"),
}


def zones(user) -> dict[str, str]:
    return dict(user.variables["subnet_private"]["dev"])


def test_no_variable_takes_two_single_machines_at_once(fixed):
    """Terraform's plan of each change of one variable, over a living cluster; what would take more than one member is refused by the module
    or by run.sh, or done one member at a time."""
    user = fixed
    (user.deployment.private / "me.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTlk2dNYvZIX0EMe3vmsEn8uoYDLKzBZpHJBBW0vXYH me\n")
    other, network = zones(user), user.lab.network
    other.pop("eu-west-1a")
    addresses = {name: f"{network}.{last}" for name, last in (("a", 10), ("b", 74), ("c", 138))}
    elsewhere = {zone.replace("west", "central"): block for zone, block in zones(user).items()}
    image = user.variables["ami_id"]
    judge_each(
        user,
        {
            **SAME_OF_BOTH,
            "smaller disks": ({"data_volume": {"size": 10}}, "shrunk 0 1 2"),
            "a zone more": ({"subnet_private": {"dev": {**zones(user), "eu-west-1d": f"{network}.192/26"}}}, HARMLESS),
            "a zone less": ({"subnet_private": {"dev": other}, "few_zones": True}, "Members may be in eu-west-1a"),
            "another block": ({"vpc": {"dev": "10.99.0.0/16"}}, "network"),
            "addresses": ({"addresses": addresses}, "This cluster was made without addresses"),
            "another system": ({"os": "flatcar", "ami_id": image}, HARMLESS),
            "one member": ({"instance_count": 1}, "leaving 1 2"),
            "the other shape": ({"shape": "group"}, "This cluster's shape is fixed"),
            "another region": ({"region": "eu-central-1", "subnet_private": {"dev": elsewhere}}, "This cluster is in eu-west-1"),
        },
    )
    # By name, as an operator may ask for it.
    change_plan(user, *[f'-replace={ETCD}aws_instance.node["{node}"]' for node in "01"])
    assert judged(user) == "away 0 1"
    change_plan(user, f'-replace={ETCD}aws_instance.node["2"]')
    assert judged(user) == "away 2"
    change_plan(user, *[f'-replace={ETCD}aws_ebs_volume.data["{node}"]' for node in "12"])
    assert judged(user) == "emptied 1 2"

    # And run.sh says it in one sentence, and changes nothing; a member that can't be told to leave keeps its machine.
    known = (user.deployment.folder / "terraform.tfstate").read_text()
    for arguments, words in (
        ("-var instance_count=1", "member 1 did not leave, so its machine stays"),
        ("-var 'data_volume={size=10}'", "data_volume.size is less than the volumes of 0, 1, 2 have, and EBS volumes only grow"),
        (" ".join(f"-replace='{ETCD}aws_instance.node[\"{node}\"]'" for node in "01"), "would take members 0, 1 away at once"),
    ):
        said = user.finish(f"scripts/run.sh --yes {arguments}", code=1)
        (line,) = [line for line in said.splitlines() if line.startswith("run.sh: ")]
        assert words in line
    assert (user.deployment.folder / "terraform.tfstate").read_text() == known

    # A state that has machines of somebody else's configuration, or of an early version of this one.
    user.deployment.run("state", "mv", f'{ETCD}aws_instance.node["2"]', "aws_instance.etcd")
    said = user.finish("scripts/run.sh --yes", code=1)
    (line,) = [line for line in said.splitlines() if line.startswith("run.sh: ")]
    assert "would end what this module did not make or no longer knows (aws_instance.etcd)" in line and "terraform state rm" in line


def test_no_variable_takes_two_of_a_group_at_once(account):
    """The same over an Auto Scaling group: it is never made anew, and its size falls by one at a time, before its template changes."""
    user = account(shape="group", load_balancer=False, session_manager=False)
    (user.deployment.private / "etcd.tar.gz").write_bytes(b"what a plan needs is a file")
    (user.deployment.private / "me.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTlk2dNYvZIX0EMe3vmsEn8uoYDLKzBZpHJBBW0vXYH me\n")
    user.deployment.look_into_credentials()
    user.finish("scripts/run.sh --yes")
    other = zones(user)
    other.pop("eu-west-1a")
    judge_each(
        user,
        {
            **SAME_OF_BOTH,
            "a zone more": ({"subnet_private": {"dev": {**zones(user), "eu-west-1d": f"{user.lab.network}.192/26"}}}, HARMLESS),
            "a zone less": ({"subnet_private": {"dev": other}, "few_zones": True}, "Members may be in eu-west-1a"),
            "one member": ({"instance_count": 1}, "fewer 2"),
            "addresses": ({"addresses": {"a": f"{user.lab.network}.10"}}, 'it is for shape = "fixed"'),
            "the other shape": ({"shape": "fixed"}, "This cluster's shape is group"),
        },
    )

    # A refresh that fails is told, with AWS's reason, and what to do.
    user.refreshes.state, user.refreshes.percentage, user.refreshes.reason = "Failed", 33, "There are no instances that are in service"
    said = user.finish("scripts/run.sh --yes -var instance_type=m7i.large", code=1)
    assert len(user.refreshes.ordered) == 1
    (line,) = [line for line in said.splitlines() if line.startswith("run.sh: ")]
    assert "the instance refresh of etcd-dev ended as Failed 33 There are no instances that are in service" in line and "run me again" in line
    user.refreshes.state, user.refreshes.percentage, user.refreshes.reason = "Successful", 100, ""

    # Down to one, as run.sh does it.
    asked: list[int] = []

    def noted(call, proceed):
        asked.extend(int(call.parameters[name]) for name in ("DesiredCapacity",) if name in call.parameters)
        return proceed()

    user.front.add(noted, action="UpdateAutoScalingGroup")
    said = user.finish("scripts/run.sh --yes -var instance_count=1")
    assert asked[:2] == [2, 1] and set(asked[2:]) <= {1}, asked
    assert "The group goes to 2 members" in said
    (group,) = user.lab.ec2.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (1, 1, 1)


def state(lab, instance_id: str) -> str:
    (found,) = lab.ec2.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
    return found["Instances"][0]["State"]["Name"]


def test_members_are_exchanged_and_leave_one_after_another(lab, account):
    """--roll, for a type and a setting that living machines don't get: a machine goes when all are healthy, and the next one only when the
    new one is a voter; the volumes are the same. Then two of the three leave before their machines end; what was written is there."""
    user = account()
    user.pack()
    user.deployment.look_into_credentials()
    machines = user.form("scripts/run.sh --yes")
    around.session_manager(user.tools, list(machines.values()))
    first = user.deployment.outputs()
    machines["0"].node.etcd.put("key", "value")
    cluster = machines["0"].node.etcd.cluster_id()

    # One that is ill: nobody else is taken away.
    machines["2"].node.kill()
    lab.wait(lambda: not around.is_ready(machines["2"].node.address), 60, "a member that is not ready")
    said = user.finish(f"scripts/run.sh --yes -replace='{ETCD}aws_instance.node[\"0\"]'", code=1)
    assert "member 0 is healthy and not all of the others are" in said
    machines["2"].node.start()
    wait_formed(lab, *[machine.node for machine in machines.values()])

    user.set(instance_type="m7i.large", muster_environment={"MUSTER_REMOVE_INTERVAL": "7m"})
    script = user.begin("scripts/run.sh --yes --roll")
    for node in "012":
        old = machines[node].node

        def exchanged() -> bool:
            assert script.poll() is None, user.said()[-3000:]
            return state(lab, old.instance.id) != "running"  # stopped, for its volume, and then terminated

        lab.wait(exchanged, tools.BOUND, f"the end of {old.instance.id}")
        others = [machine.node for name, machine in machines.items() if name != node]
        assert all(state(lab, other.instance.id) == "running" and around.is_ready(other.address) for other in others)
        old.power_off()
        old.detach()

        def known() -> str:
            return user.deployment.outputs()["instance_ids"].get(node, old.instance.id)

        lab.wait(lambda: known() != old.instance.id, tools.BOUND, "the new machine")
        id_ = known()
        machines[node] = around.Machine(lab, id_, around.instance_user_data(lab.ec2, id_), disk=old)
        assert machines[node].node.env["MUSTER_REMOVE_INTERVAL"] == "7m"
        machines[node].start()
        wait_formed(lab, *[machine.node for machine in machines.values()])
    assert script.wait(tools.BOUND) == 0, user.said()[-3000:]
    now = user.deployment.outputs()
    assert now["data_volume_ids"] == first["data_volume_ids"]
    described = lab.ec2.client("ec2").describe_instances(InstanceIds=list(now["instance_ids"].values()))["Reservations"]
    assert {i["InstanceType"] for r in described for i in r["Instances"]} == {"m7i.large"}
    assert machines["1"].node.etcd.cluster_id() == cluster and machines["1"].node.etcd.get("key") == "value"

    # Two go: each has left before any machine ends.
    around.session_manager(user.tools, list(machines.values()))
    user.set(instance_count=1)
    said = user.finish("scripts/run.sh --yes")
    assert said.index("Member 1 (") < said.index("Member 2 (") < said.index("Destroying") and said.count("node-muster: exit 0") == 2
    assert list(user.deployment.outputs()["instance_ids"]) == ["0"]
    node = machines["0"].node
    assert len(node.etcd.members()) == 1 and node.etcd.get("key") == "value"
    for machine in machines.values():
        machine.node.power_off()
    user.finish("scripts/run.sh --destroy --yes")
    assert around.leftovers(lab.ec2, user.block) == {}
