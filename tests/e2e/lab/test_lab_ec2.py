"""moto as the lab starts it refuses what EC2 refuses, and does what moto alone does not."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import botocore.credentials
import pytest
from botocore import UNSIGNED
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from moto.s3.models import S3Backend
from muster_tools.lab import moto_server
from muster_tools.lab.ec2 import Ec2, web_identity_token
from muster_tools.lab.instance import REGION, Credentials
from werkzeug.test import Client


def refusal(call, *arguments, **parameters):
    with pytest.raises(ClientError) as refused:
        call(*arguments, **parameters)
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def listed(ec2: Ec2, credentials: Credentials):
    answer = ec2.client("ec2", credentials).describe_instances()
    return {one["InstanceId"] for reservation in answer["Reservations"] for one in reservation["Instances"]}


def test_the_role_may_describe_and_nothing_else(ec2):
    instance = ec2.launch(f"{ec2.network}.1.11")
    role = ec2.role_credentials()
    assert instance.id in listed(ec2, role)
    assert ec2.client("ec2", role).describe_instance_status(InstanceIds=[instance.id])["InstanceStatuses"]
    terminate = ec2.client("ec2", role).terminate_instances
    assert refusal(terminate, InstanceIds=[instance.id]) == (403, "AccessDenied")


def test_a_wrong_secret_key_or_token_is_refused(ec2):
    role = ec2.role_credentials()
    for wrong in (
        replace(role, secret_access_key="wrong"),
        replace(role, token="wrong"),
        replace(role, token=None),
        replace(role, access_key_id="ASIAAAAAAAAAAAAAAAAA"),
    ):
        assert refusal(listed, ec2, wrong) == (401, "AuthFailure")


def test_a_role_without_policy_is_refused(ec2):
    assert refusal(listed, ec2, ec2.role_credentials_without_policy()) == (403, "AccessDenied")


def test_rights_can_be_taken_from_a_session_that_exists(ec2):
    role = ec2.role_credentials()
    ec2.set_role_actions("ec2:DescribeInstanceStatus")
    assert refusal(listed, ec2, role) == (403, "AccessDenied")
    ec2.set_role_actions("ec2:DescribeInstances", "ec2:DescribeInstanceStatus")
    listed(ec2, role)


def test_a_terminated_instance_stays_listed_and_frees_its_address(ec2):
    old = ec2.launch(f"{ec2.network}.1.12")
    ec2.terminate(old.id)
    new = ec2.launch(f"{ec2.network}.1.12")
    assert ec2.describe(old.id).state == "terminated"
    assert (new.private_ip, new.state) == (old.private_ip, "running")
    assert new.private_dns == f"ip-{new.private_ip.replace('.', '-')}.eu-west-1.compute.internal"


def shown(ec2: Ec2, instance_id: str):
    return ec2.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def test_a_terminated_instance_shows_no_address_no_name_and_no_interface(ec2):
    """Whose a member was that never published its name can't be told by its address any more."""
    instance = ec2.launch(f"{ec2.network}.1.16", name="gone")
    alive = shown(ec2, instance.id)
    assert alive["PrivateIpAddress"] == alive["NetworkInterfaces"][0]["PrivateIpAddress"] == instance.private_ip
    ec2.terminate(instance.id)
    gone = shown(ec2, instance.id)
    assert "PrivateIpAddress" not in gone and (gone["PrivateDnsName"], gone["NetworkInterfaces"]) == ("", [])
    assert {tag["Key"]: tag["Value"] for tag in gone["Tags"]} == {"etcd": "1", "Name": "gone"}
    assert gone["StateTransitionReason"].startswith("User initiated (20")
    described = ec2.describe(instance.id)
    assert (described.private_ip, described.private_dns, described.state) == ("", "", "terminated")


def test_a_start_renews_the_launch_time_and_leaves_that_of_the_first_launch(ec2):
    first = ec2.launch(f"{ec2.network}.1.13")

    def attached():
        (interface,) = shown(ec2, first.id)["NetworkInterfaces"]
        assert interface["Attachment"]["DeviceIndex"] == 0
        return interface["Attachment"]["AttachTime"]

    attached_first = attached()
    assert abs((attached_first - first.launch_time).total_seconds()) <= 1
    ec2.stop_instances(first.id)
    assert ec2.describe(first.id).state == "stopped"
    assert attached() == attached_first
    deadline = time.monotonic() + 5
    while ec2.start_instances(first.id)[0].launch_time == first.launch_time:  # EC2 tells whole seconds
        assert time.monotonic() < deadline
    again = ec2.describe(first.id)
    assert (again.id, again.private_ip, again.state) == (first.id, first.private_ip, "running")
    assert attached() == attached_first


def test_tags_are_set_and_taken_away(ec2):
    instance = ec2.launch(f"{ec2.network}.1.14", {"etcd": "2"}, name="a")
    ec2.set_tags(instance.id, {"etcd": None, "role": "db"})
    found = ec2.client("ec2").describe_tags(Filters=[{"Name": "resource-id", "Values": [instance.id]}])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in found} == {"Name": "a", "role": "db"}


def test_reset_leaves_an_empty_cloud_that_still_checks(ec2):
    before = ec2.role_credentials()
    ec2.launch(f"{ec2.network}.1.15")
    ec2.reset("127.9")
    assert listed(ec2, ec2.role_credentials()) == set()
    assert refusal(listed, ec2, before) == (401, "AuthFailure")
    ec2.launch("127.9.0.11")


def test_of_two_writes_on_a_condition_one_takes_place(monkeypatch):
    """In this process: the second write has to come in between the first one's look and its write, every time."""
    served = moto_server.application()
    look = S3Backend.get_object

    def look_and_dawdle(*arguments, **named):
        found = look(*arguments, **named)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(S3Backend, "get_object", look_and_dawdle)

    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKID/20260102/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}

    def put(path, **headers):
        return Client(served).put(path, base_url="http://s3.us-east-1.amazonaws.com", headers=signed | headers).status_code

    assert put("/claims") == 200
    with ThreadPoolExecutor() as pool:
        both = pool.map(lambda _: put("/claims/claim.json", **{"If-None-Match": "*"}), range(2))
        assert sorted(both) == [200, 412]


def test_a_call_is_served_as_a_whole():
    """Its answer is part of it: moto makes that of what others change."""
    inside, met = [], []

    def served(number: int) -> list[bytes]:
        inside.append(number)
        time.sleep(0.02)
        met.append(len(inside))
        inside.remove(number)
        return []

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(moto_server.OneAtATime(served), range(4)))
    assert met == [1] * 4


def test_a_web_identity_is_judged_by_its_token_and_the_roles_trust(ec2):
    def assume(token):
        unsigned = ec2.client("sts", Credentials("any", "any", None, None))
        unsigned.meta.events.register("choose-signer.sts.AssumeRoleWithWebIdentity", lambda **_: UNSIGNED)
        asked = {"RoleArn": ec2.role_arn(), "RoleSessionName": "pod", "WebIdentityToken": token}
        given = unsigned.assume_role_with_web_identity(**asked)["Credentials"]
        return Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])

    assert refusal(assume, web_identity_token("etcd")) == (403, "AccessDenied")
    ec2.trust_web_identity("etcd")
    session = assume(web_identity_token("etcd"))
    listed(ec2, session)
    assert refusal(listed, ec2, replace(session, secret_access_key="wrong")) == (401, "AuthFailure")
    assert refusal(assume, web_identity_token("other")) == (403, "AccessDenied")
    assert refusal(assume, web_identity_token("etcd", lasts=-1)) == (400, "ExpiredTokenException")
    assert refusal(assume, "no.token") == (400, "InvalidIdentityToken")
    ec2.role_credentials()  # whom it trusted before it still trusts


def test_a_signed_form_may_write_a_blank_either_way(ec2):
    """AWS's SDKs do, each its own; what was sent is what is signed."""
    keys = botocore.credentials.Credentials(*(getattr(ec2.administrator(), name) for name in ("access_key_id", "secret_access_key")))
    for blank, secret in (("+", None), ("%20", None), ("%20", "wrong")):
        form = f"Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Aa{blank}b&Filter.1.Value.1=1"
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        request = AWSRequest("POST", f"{ec2.url}/", kind, form.encode())
        signer = keys if secret is None else botocore.credentials.Credentials(keys.access_key, secret)
        SigV4Auth(signer, "ec2", REGION).add_auth(request)
        answer = URLLib3Session(proxies={}).send(request.prepare())
        assert answer.status_code == (200 if secret is None else 401), answer.text
