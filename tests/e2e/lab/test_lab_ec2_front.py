"""The front passes signed calls through unharmed, counts them, and fails or lies on request."""

import http.client
import socket
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.parsers import ResponseParserError
from muster_tools.lab import ec2_faults as faults
from muster_tools.lab.ec2_front import Ec2Front

ETCD = [{"Name": "tag:front", "Values": ["1"]}]


@pytest.fixture
def instances(ec2):
    ids = [ec2.launch(f"{ec2.network}.3.{host}", {"front": "1"}).id for host in (11, 12)]
    yield ids
    for instance_id in ids:
        ec2.terminate(instance_id)
        ec2.set_tags(instance_id, {"front": None})


@pytest.fixture
def front(ec2, instances):
    with Ec2Front(ec2.url) as front:
        yield front


@pytest.fixture
def node(ec2, front):
    """boto3 as the node would be: role credentials, by way of the front."""
    return ec2.client("ec2", ec2.role_credentials(), front.url)


def found(answer):
    return [one for reservation in answer["Reservations"] for one in reservation["Instances"]]


def ids(node):
    return sorted(one["InstanceId"] for one in found(node.describe_instances(Filters=ETCD)))


def code(call, **parameters):
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["ResponseMetadata"]["HTTPStatusCode"], refused.value.response["Error"]["Code"]


def test_a_signed_call_passes_and_is_counted(node, front, instances):
    assert ids(node) == sorted(instances)
    node.describe_instance_status()
    assert front.calls == {"DescribeInstances": 1, "DescribeInstanceStatus": 1}


def test_refusals_come_as_often_as_asked(node, front, instances):
    front.add(faults.throttled(), calls=2, action="DescribeInstances")
    node.describe_instance_status()
    assert [code(node.describe_instances) for _ in range(2)] == [(503, "RequestLimitExceeded")] * 2
    assert ids(node) == sorted(instances)
    front.add(faults.unauthorized())
    assert code(node.describe_instances) == (403, "UnauthorizedOperation")
    front.clear()
    assert ids(node) == sorted(instances)


@pytest.mark.parametrize(
    "rule, outcome",
    [
        (faults.malformed(), ResponseParserError),
        (faults.truncated(), ResponseParserError),
        (faults.dropped(), ConnectionClosedError),
    ],
)
def test_damage(node, front, rule, outcome):
    front.add(rule)
    with pytest.raises(outcome):
        node.describe_instances()


def test_a_load_balancers_error_page(node, front):
    front.add(faults.unavailable())
    assert code(node.describe_instances)[0] == 500


def test_a_cut_answer_ends_before_its_length(front):
    front.add(faults.cut())
    with closing(http.client.HTTPConnection(front.address, front.port, timeout=5)) as unsigned:
        unsigned.request("POST", "/", "Action=DescribeInstances&Version=2016-11-15")
        with pytest.raises(http.client.IncompleteRead):
            unsigned.getresponse().read()


def test_a_hang_ends_when_healed(node, front, instances):
    front.add(faults.hanging())
    with closing(http.client.HTTPConnection(front.address, front.port, timeout=0.2)) as impatient:
        impatient.request("POST", "/", "Action=DescribeInstances")
        with pytest.raises(socket.timeout):
            impatient.getresponse()
        impatient.sock.settimeout(5)
        while not front.calls["DescribeInstances"]:  # its thread has the request
            time.sleep(0.01)
        front.clear()
        assert impatient.sock.recv(1) == b""  # dropped
    assert ids(node) == sorted(instances)


def test_delay(node, front):
    front.add(faults.delayed(0.2))
    begun = time.monotonic()
    node.describe_instances()
    assert time.monotonic() - begun >= 0.2


def test_a_page_that_never_ends(node, front, instances):
    front.add(faults.repeating_page())
    first = node.describe_instances(Filters=ETCD, MaxResults=5)
    again = node.describe_instances(Filters=ETCD, MaxResults=5, NextToken=first["NextToken"])
    assert again["NextToken"] == first["NextToken"]
    assert found(again) == found(first) != []


def test_a_skewed_clock_expires_requests_and_says_the_time(node, front):
    front.add(faults.skewed_clock(timedelta(hours=1)))
    with pytest.raises(ClientError) as expired:
        node.describe_instances()
    answer = expired.value.response
    assert answer["Error"]["Code"] == "RequestExpired"
    told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    assert timedelta(minutes=59) < told - datetime.now(timezone.utc) < timedelta(minutes=61)
    front.clear()
    front.add(faults.skewed_clock(timedelta(minutes=2)))  # near enough: passes
    node.describe_instances()


def test_a_listing_that_lacks_an_instance(node, front, instances):
    front.add(faults.hidden(instances[0]))
    assert ids(node) == [instances[1]]
    assert code(node.describe_instances, InstanceIds=instances[:1]) == (400, "InvalidInstanceID.NotFound")
    assert found(node.describe_instances(InstanceIds=instances[1:]))


def test_a_stale_listing(ec2, node, front, instances):
    extra = ec2.launch(f"{ec2.network}.3.13", {"front": "1"}).id
    assert extra in ids(node)
    front.freeze()
    ec2.set_tags(extra, {"front": None})
    assert extra in ids(node)
    front.clear()
    assert extra not in ids(node)


def test_states_launch_times_and_checks_that_moto_never_shows(node, front, instances):
    front.add(faults.shown_as("shutting-down", instances[0]))
    front.add(faults.launched(timedelta(minutes=20), instances[1]))
    front.add(faults.impaired(instances[1]))
    by_id = {one["InstanceId"]: one for one in found(node.describe_instances(Filters=ETCD))}
    one, other = (by_id[instance_id] for instance_id in instances)
    assert one["State"] == {"Code": 32, "Name": "shutting-down"}
    assert other["State"]["Name"] == "running"
    assert ages(other) == (20, 20)
    checks = node.describe_instance_status(InstanceIds=instances)["InstanceStatuses"]
    assert {check["InstanceId"]: check["SystemStatus"]["Status"] for check in checks} == {
        instances[0]: "ok",
        instances[1]: "impaired",
    }


def ages(instance) -> tuple[int, int]:
    """Minutes since the launch that is shown, and since the first one."""
    attached = instance["NetworkInterfaces"][0]["Attachment"]["AttachTime"]
    now = datetime.now(timezone.utc)
    return tuple((now - moment) // timedelta(minutes=1) for moment in (instance["LaunchTime"], attached))


def test_an_old_instance_that_was_started_anew(ec2, node, front, instances):
    """What is true at EC2 of a fleet that was stopped overnight; a terminated instance has no interface to be dated by."""
    gone = ec2.launch(f"{ec2.network}.3.14", {"front": "1"}).id
    ec2.terminate(gone)
    front.add(faults.launched(timedelta(hours=2), gone, *instances))
    front.add(faults.restarted(timedelta(minutes=5), instances[0]))
    by_id = {one["InstanceId"]: one for one in found(node.describe_instances(InstanceIds=[gone, *instances]))}
    assert [ages(by_id[instance_id]) for instance_id in instances[:2]] == [(5, 120), (120, 120)]
    assert by_id[gone]["NetworkInterfaces"] == []


def test_a_stopped_front_refuses(node, front):
    front.stop()
    with pytest.raises(Exception, match=r"Could not connect|Connection was closed"):
        node.describe_instances()
    front.start()
    node.describe_instances()
