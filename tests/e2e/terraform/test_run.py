"""scripts/run.sh on bad days: what is wrong is named in one line, with the way out, before anything is changed."""

from __future__ import annotations

import os
import shutil
import signal

import boto3
import cloud as around
import pytest
import tools


@pytest.fixture
def user(account):
    made = account()
    (made.deployment.private / "etcd.tar.gz").write_bytes(b"what a plan needs is a file")
    return made


def refusal(user, command: str, **environment: str) -> str:
    """Its own last words; nothing is there after them."""
    before = user.environment
    user.environment = {**before, **environment}
    said = user.finish(command, code=1)
    user.environment = before
    assert not (user.deployment.folder / "terraform.tfstate").exists(), said
    (line,) = [line for line in said.splitlines() if line.startswith("run.sh: ")]
    return line


def test_what_is_missing_or_wrong_is_named_before_anything_is_made(user):
    """Tools, the file of credentials, credentials themselves, options."""
    path = user.tools.parent / "without-terraform"
    path.mkdir()
    for tool in ("sh", "dirname", "aws", "openssl"):
        (path / tool).symlink_to(shutil.which(tool, path=user.environment["PATH"]))
    line = refusal(user, "scripts/run.sh", PATH=str(path))
    assert "missing: terraform" in line and "install" in line
    line = refusal(user, "scripts/run.sh --yes")
    assert "cp terraform/init/aws_credentials.tf.example terraform/init/aws_credentials.tf" in line
    assert "there is no --destory" in refusal(user, "scripts/run.sh --destory")

    user.deployment.look_into_credentials()
    line = refusal(user, "scripts/run.sh --yes", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert "AWS doesn't know you in eu-west-1: " in line and "credentials" in line and "aws sso login" in line and "AWS_PROFILE" in line
    line = refusal(user, "scripts/run.sh --yes -var name=other", AWS_SECRET_ACCESS_KEY="wrong")
    assert "AWS doesn't know you in eu-west-1: " in line and "aws sso login" in line
    # As it is where the name of a region has no address.
    line = refusal(user, "scripts/run.sh --yes -parallelism=4 -var region=eu-nowhere-1", AWS_ENDPOINT_URL_STS="http://127.0.0.1:9")
    assert "AWS doesn't know you in eu-nowhere-1: " in line and "Could not connect" in line and "correct the variable region" in line

    line = refusal(user, "scripts/run.sh --destroy --yes")
    assert "nothing to destroy" in line and "terraform/init/terraform.tfstate" in line
    said = user.finish("scripts/run.sh --yes -var region=eu-west-9", code=1)
    assert "zones of eu-west-9" in " ".join(said.replace("│", " ").split())


def test_places_and_images_that_are_not_there_are_named_before_anything_is_made(lab, user):
    """What a machine would learn at its boot, or Terraform in the midst of an apply; what may not be asked is let through."""
    user.deployment.look_into_credentials()
    keys = {"aws_access_key_id": user.environment["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": user.environment["AWS_SECRET_ACCESS_KEY"]}
    there = boto3.client("s3", region_name="eu-central-1", endpoint_url=lab.ec2.url, **keys)
    there.create_bucket(Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for variable, place in (("claim", "s3://elsewhere/etcd"), ("tls_files", "s3://elsewhere/tls"), ("snapshots", '{"place": "s3://elsewhere/etcd"}')):
        line = refusal(user, f"scripts/run.sh --yes -var '{variable}={place}'")
        assert "the bucket elsewhere is in eu-central-1, and the members fetch from eu-west-1 only" in line
    assert "there is no bucket nowhere" in refusal(user, "scripts/run.sh --yes -var claim=s3://nowhere/etcd")
    assert "there is no image ami-0123456789abcdef0 in eu-west-1" in refusal(user, "scripts/run.sh --yes -var ami_id=ami-0123456789abcdef0")

    def told(command: str) -> str:
        said = user.finish(command, code=1)
        assert not (user.deployment.folder / "terraform.tfstate").exists(), said
        return " ".join(said.replace("│", " ").split())

    assert "region is the region's code, as eu-west-1, without a zone's letter" in told("scripts/run.sh --yes -var region=eu-west-1a")
    zones = dict(user.variables["subnet_private"]["dev"])
    zones.pop("eu-west-1c")
    user.set(subnet_private={"dev": zones})
    assert "3 members in 2 zones (eu-west-1a, eu-west-1b): the loss of one zone may cost the quorum; give three" in told("scripts/run.sh --yes")


def test_an_apply_that_is_interrupted_is_taken_away(lab, user):
    """Ctrl-C: what was made is known, and --destroy takes it away; and before that, who says nothing has nothing made."""
    user.deployment.look_into_credentials()
    assert "nothing was changed" in refusal(user, "scripts/run.sh")  # nobody answers
    # From a call that is cut off Terraform learns nothing, and names it: so here it is at one thing, which is there and waited for.
    user.environment["TF_CLI_ARGS_apply"] = "-no-color -parallelism=1"
    script = user.begin("exec scripts/run.sh --yes")
    api = lab.ec2.client("ec2")

    def waited_for() -> list[dict]:
        return api.describe_volumes()["Volumes"] + api.describe_vpc_endpoints()["VpcEndpoints"]

    lab.wait(lambda: script.poll() is not None or (waited_for() and waited_for()), tools.BOUND, "something that takes a while")
    assert script.poll() is None, user.said()[-3000:]
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    assert script.wait(tools.BOUND) == 1
    assert "the apply ended early: what was made is in Terraform's state" in user.said()
    known = user.deployment.run("state", "list")
    assert "aws_ebs_volume.data[" in known or "aws_vpc_endpoint." in known
    user.finish("scripts/run.sh --destroy --yes")
    assert around.leftovers(lab.ec2, user.block) == {}
