"""The lifecycle hooks are as strict as Auto Scaling's, by AWS's own client."""

from datetime import datetime, timedelta, timezone

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from muster_tools.lab.autoscaling import AutoScaling, throttled
from muster_tools.lab.instance import REGION, Credentials

SESSION = Credentials("ASIAEXAMPLE", "secret", "token", datetime.now(timezone.utc) + timedelta(hours=6))
INSTANCE = "i-0123456789abcdef0"


@pytest.fixture
def group():
    with AutoScaling({SESSION.access_key_id: SESSION}) as made:
        yield made


def complete(group, secret="secret", token="token", region=REGION, **changes):
    client = boto3.client(
        "autoscaling",
        region_name=region,
        endpoint_url=group.url,
        aws_access_key_id=SESSION.access_key_id,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )
    asked = {"AutoScalingGroupName": "etcd", "InstanceId": INSTANCE, "LifecycleHookName": "launch"}
    client.complete_lifecycle_action(**{**asked, "LifecycleActionResult": "CONTINUE", **changes})


def test_a_hook_is_completed_once_and_only_while_it_waits(group):
    with pytest.raises(ClientError, match="No active Lifecycle Action found"):
        complete(group)
    group.wait_for("launch", INSTANCE)
    group.next.append(throttled())
    with pytest.raises(ClientError, match="Throttling"):
        complete(group)
    complete(group)
    assert group.completed == [("launch", INSTANCE)] and not group.waiting and not group.refusals
    with pytest.raises(ClientError, match="No active Lifecycle Action found"):
        complete(group)


@pytest.mark.parametrize(
    "wrong",
    [{"secret": "guessed"}, {"token": "other"}, {"region": "us-east-1"}, {"LifecycleActionResult": "ABANDON"}],
    ids=["secret", "token", "region", "result"],
)
def test_what_is_wrong_is_refused(group, wrong):
    group.wait_for("launch", INSTANCE)
    with pytest.raises(ClientError):
        complete(group, **wrong)
    assert group.refusals and not group.completed
