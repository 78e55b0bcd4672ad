"""The replay hands out every instance once, in a document that a standard client reads."""

import boto3
import pytest
from botocore.exceptions import ClientError
from muster_tools.lab.replay import Replay, instance_id, private_ip


def test_all_pages_in_turn():
    with Replay(instances=25, page_size=10) as replay:
        client = boto3.session.Session().client(
            "ec2", "eu-west-1", endpoint_url=replay.url, aws_access_key_id="a", aws_secret_access_key="b"
        )
        pages = list(client.get_paginator("describe_instances").paginate())
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
        assert [one["InstanceId"] for one in found] == [instance_id(index) for index in range(25)]
        assert [one["PrivateIpAddress"] for one in found] == [private_ip(index) for index in range(25)]
        assert {tag["Key"]: tag["Value"] for tag in found[7]["Tags"]}["note"] == "R&D <prod>"
        assert found[7]["NetworkInterfaces"][1]["PrivateIpAddress"] != private_ip(7)
        assert replay.calls == 3
        assert 5_000 < replay.bytes / 25 < 6_500
        with pytest.raises(ClientError, match="pagination token"):
            client.describe_instances(NextToken="made-up")


def test_few_can_be_asked_for_by_tag_and_one_by_one():
    with Replay(instances=3) as replay:
        client = boto3.session.Session().client(
            "ec2", "eu-west-1", endpoint_url=replay.url, aws_access_key_id="a", aws_secret_access_key="b"
        )
        ids = [tag["ResourceId"] for tag in client.describe_tags()["Tags"]]
        assert ids == [instance_id(index) for index in range(3)]
        one = client.describe_instances(InstanceIds=[ids[1]])["Reservations"]
        assert [i["PrivateIpAddress"] for r in one for i in r["Instances"]] == [private_ip(1)]
