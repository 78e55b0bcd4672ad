"""Changes to a living cluster: what an operator sets later takes no data, and never two members at once."""

from __future__ import annotations

import json
import re
from typing import Any

import cloud as around
import pytest
import tools

ETCD = "module.instance_etcd."


def change_plan(user, *arguments: str, **variables: Any) -> dict[str, Any]:
    """What Terraform would do if these variables were set, as `terraform show -json` has it."""
    before = user.variables
    user.deployment.set(**{**before, **variables})
    try:
        user.deployment.run("plan", "-no-color", "-input=false", "-refresh=false", "-out=change.tfplan", *arguments)
    finally:
        user.deployment.set(**before)
    return json.loads(user.deployment.run("show", "-json", "change.tfplan"))


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

    # The guard keeps them where the variables are gone.
    user.set(data_volume={})
    said = user.finish("scripts/run.sh --destroy --yes")
    assert all(volume in said for volume in ids) and "These data volumes stay" in said
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
