"""snapshots = {…} of terraform/: the bucket as S3 tells it, the rights as the page tells them, and a member that stores with them."""

from __future__ import annotations

import json
import re

import cloud as around
import pytest
import tools
from botocore.exceptions import ClientError
from fleet import command, wait_formed

PAGE = tools.REPOSITORY / "docs" / "snapshots.md"
NAME = "etcd-dev"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-4000-8000-000000000000"
PARAMETER = "/etcd/snapshot-key"
SETTINGS = {"every": "0", "keep": "48h,14d", "kms_key_arn": KEY, "key": f"ssm:{PARAMETER}", "noncurrent_days": 7, "object_lock": {"days": 14}}
OF_THE_PAGE = {"bucket": "backups", "prefix": "etcd/blue"}


def statements(lab) -> list[dict]:
    """What the members may, and where: the policy that Terraform gave their role."""
    iam = lab.ec2.client("iam")
    (role,) = [role["RoleName"] for role in iam.list_roles()["Roles"] if "-member-" in role["RoleName"]]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    return iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]


def page_policy() -> list[dict]:
    """The policy in docs/snapshots.md: the only block that is one."""
    (block,) = [block for block in re.findall(r"\n\n((?:    .*\n)+)", PAGE.read_text()) if '"Statement"' in block]
    return json.loads(block)["Statement"]


@pytest.fixture
def user(account):
    made = account(instance_count=1, load_balancer=False, session_manager=False)
    made.pack()
    made.deployment.look_into_credentials()
    return made


def refused(call, **arguments) -> str:
    with pytest.raises(ClientError) as told:
        call(**arguments)
    return told.value.response["Error"]["Code"]


def test_a_member_stores_snapshots_with_the_rights_of_the_page_in_a_guarded_bucket_that_stays(lab, user):
    """A bucket is made, as S3 then tells it; a member has the page's rights on it and no others, and they are enough; a second plan
    has no difference; who leaves snapshots off afterwards, or destroys, doesn't lose them."""
    lab.ec2.client("ssm").put_parameter(Name=PARAMETER, Type="SecureString", Value="MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    user.set(snapshots=SETTINGS)
    script = user.begin("scripts/run.sh --yes")
    assert script.wait(tools.BOUND) == 0, user.said()[-3000:]
    place = user.deployment.outputs()["snapshots_place"]
    bucket, prefix = place.removeprefix("s3://").split("/")
    assert bucket.startswith(f"{NAME}-snapshots-") and prefix == NAME

    s3 = lab.ec2.client("s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule == {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}, "BucketKeyEnabled": True}
    lock = s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    retention = lock["Rule"]["DefaultRetention"]
    assert (lock["ObjectLockEnabled"], retention["Mode"], retention["Days"]) == ("Enabled", "GOVERNANCE", 14)
    rules = {rule.pop("ID"): rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    below = {"Filter": {"Prefix": f"{prefix}/"}, "Status": "Enabled"}
    assert rules == {
        "unfinished-uploads": {**below, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
        "deleted-snapshots": {**below, "NoncurrentVersionExpiration": {"NoncurrentDays": 7}, "Expiration": {"ExpiredObjectDeleteMarker": True}},
    }, "nothing that is there expires"
    (denied,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    arn = f"arn:aws:s3:::{bucket}"
    assert (denied["Effect"], denied["Principal"], denied["Action"], denied["Resource"]) == ("Deny", "*", "s3:*", [arn, f"{arn}/*"])
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}

    # The page's rights, to the letter, and no others about the bucket or the keys.
    told = json.dumps([statement for statement in statements(lab) if statement["Sid"].startswith("Snapshots")])
    parts = {f":::{bucket}/{prefix}/": ":::backups/etcd/blue/", f":::{bucket}": ":::backups", f'"{prefix}/*"': '"etcd/blue/*"'}
    for ours, theirs in parts.items():
        told = told.replace(ours, theirs)
    assert json.loads(re.sub(r":\d{12}:", ":123456789012:", told)) == page_policy()

    # The same again changes nothing, as S3 and IAM tell it; moto's instances have differences of their own. Without the bucket: no plan.
    user.deployment.run("plan", "-no-color", "-input=false", "-out=again.tfplan")
    planned = json.loads(user.deployment.run("show", "-json", "again.tfplan"))["resource_changes"]
    guarded = {change["address"]: change["change"]["actions"] for change in planned if re.match(r"module\.instance_etcd\.aws_(s3|iam)_", change["address"])}
    assert len(guarded) == 13 and all(actions == ["no-op"] for actions in guarded.values()), guarded
    user.set(snapshots=None)
    with pytest.raises(tools.Failed, match="Instance cannot be destroyed"):
        user.deployment.run("plan", "-no-color", "-input=false", "-refresh=false")
    user.set(snapshots=SETTINGS)

    # In the lab all is plain http, which the bucket refuses.
    assert refused(s3.put_object, Bucket=bucket, Key=f"{prefix}/a", Body=b"") == "403"
    s3.delete_bucket_policy(Bucket=bucket)
    (id_,) = user.deployment.outputs()["instance_ids"].values()
    machine = around.Machine(lab, id_, around.instance_user_data(lab.ec2, id_))
    session = around.role_credentials(lab.ec2)
    member = lab.ec2.client("s3", session)
    assert refused(member.list_objects_v2, Bucket=bucket) == "AccessDenied"
    assert refused(member.list_objects_v2, Bucket=bucket, Prefix="other/") == "AccessDenied"
    assert refused(member.put_object, Bucket=bucket, Key="other/a", Body=b"") == "AccessDenied"
    assert refused(member.get_bucket_policy, Bucket=bucket) == "AccessDenied"
    machine.start()
    wait_formed(lab, machine.node)
    machine.node.etcd.put("key", "value")
    for asked in ("save", "list", "verify"):
        done = command(lab, machine.node, "snapshot", asked, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
    kept = sorted(entry["Key"].rpartition(".")[2] for entry in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"])
    assert kept == ["db", "json"]

    machine.node.power_off()
    said = user.finish("scripts/run.sh --destroy --yes")
    assert place in said and "Terraform forgets their bucket" in said
    left = around.leftovers(lab.ec2, user.block)
    assert left.pop("buckets") == [bucket] and left.pop("parameters") == [PARAMETER] and left == {}
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert len(s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]) == 2
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 2
