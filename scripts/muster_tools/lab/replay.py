"""DescribeInstances as AWS answers it: thousands of instances, made up in its shape once, served from memory.

For measuring a client at a size where moto would measure itself. It checks no signature, ignores filters and
MaxResults, and follows NextToken. Up to a page it also answers DescribeTags, and DescribeInstances for one id. What moto leaves out and AWS has is here on purpose: a second network interface with
addresses and tags of its own, block devices with ids and times, tags that need unescaping, nextToken after the set.

    PYTHONPATH=scripts python3 -m muster_tools.lab.replay --instances 10000     # prints its URL; runs until interrupted
"""

from __future__ import annotations

import argparse
import threading
import urllib.parse
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from muster_tools.lab.http_server import HttpServer, Reply, Request
from muster_tools.lab.instance import ACCOUNT, ROLE

FIRST_LAUNCH = datetime(2024, 5, 1, 6, 30, tzinfo=timezone.utc)
TAGS_PER_INSTANCE = 12
FEW = 100  # so many can also be asked for one by one


class Replay:
    """`replay.calls` counts requests; `replay.bytes` is the size of all pages together."""

    def __init__(self, instances: int = 10_000, page_size: int = 1_000, address: str = "127.0.0.1", port: int = 0):
        self._pages: dict[str, Reply] = {}
        for start in range(0, max(instances, 1), page_size):
            end = min(start + page_size, instances)
            page = _page(range(start, end), _token(end) if end < instances else None)
            self._pages[_token(start) if start else ""] = Reply(200, page, content_type=XML)
        self.bytes = sum(len(page.body) for page in self._pages.values())
        few = range(instances if instances <= FEW else 0)
        self._tags = Reply(200, _tag_page(few), content_type=XML)
        self._single = {instance_id(index): Reply(200, _page(range(index, index + 1), None), content_type=XML) for index in few}
        self.calls = 0
        self._guard = threading.Lock()
        self._server = HttpServer(address, port, self._answer)

    @property
    def url(self) -> str:
        return self._server.url

    def page(self) -> bytes:
        """The first one, as it is served."""
        return self._pages[""].body

    def start(self) -> Replay:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop()

    def __enter__(self) -> Replay:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, request: Request) -> Reply:
        with self._guard:
            self.calls += 1
        text = request.target.partition("?")[2] or request.body.decode("latin-1")
        asked = dict(urllib.parse.parse_qsl(text))
        if asked.get("Action") == "DescribeTags":
            return self._tags
        if "InstanceId.1" in asked:
            return self._single.get(asked["InstanceId.1"]) or Reply(400, BAD_TOKEN, content_type=XML)
        token = asked.get("NextToken", "")
        return self._pages.get(token) or Reply(400, BAD_TOKEN, content_type=XML)


def private_ip(index: int) -> str:
    """Loopback, so that a client which takes this for real knocks on no one's door."""
    return f"127.{200 + index // 62500}.{index // 250 % 250}.{index % 250 + 1}"


def instance_id(index: int) -> str:
    return f"i-{_hex17(index)}"


XML = "text/xml;charset=UTF-8"

BAD_TOKEN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>InvalidParameterValue</Code>'
    b"<Message>Unable to parse pagination token</Message></Error></Errors>"
    b"<RequestID>3be1508e-c444-4fef-89cc-000000000000</RequestID></Response>"
)


def _page(indices: range, next_token: str | None) -> bytes:
    more = f"<nextToken>{next_token}</nextToken>" if next_token else ""
    reservations = "".join(
        f"""
        <item>
            <reservationId>r-{_hex17(index)}</reservationId>
            <ownerId>{ACCOUNT}</ownerId>
            <groupSet/>
            <instancesSet>{_instance(index)}
            </instancesSet>
            <requesterId>940372691376</requesterId>
        </item>"""
        for index in indices
    )
    document = f"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-{indices.start:012x}</requestId>
    <reservationSet>{reservations}
    </reservationSet>
    {more}
</DescribeInstancesResponse>
"""
    return document.replace("    ", " ").encode()  # 6 KB an instance


def _tag_page(indices: range) -> bytes:
    """The tag `etcd` of each."""
    items = "".join(
        f"""
        <item>
            <resourceId>{instance_id(index)}</resourceId>
            <resourceType>instance</resourceType>
            <key>etcd</key>
            <value>1</value>
        </item>"""
        for index in indices
    )
    document = f"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeTagsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-000000000000</requestId>
    <tagSet>{items}
    </tagSet>
</DescribeTagsResponse>
"""
    return document.replace("    ", " ").encode()


def _instance(index: int) -> str:
    number, address = _hex17(index), private_ip(index)
    name = f"ip-{address.replace('.', '-')}.eu-west-1.compute.internal"
    launched = (FIRST_LAUNCH + timedelta(seconds=37 * index)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    attached = (FIRST_LAUNCH + timedelta(seconds=37 * index + 1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    zone = "abc"[index % 3]
    first, second = "1" + number[1:], "2" + number[1:]
    volumes = _volume("/dev/xvda", first, attached) + _volume("/dev/sdf", second, attached)
    interfaces = _interface(first, 0, address, attached) + _interface(second, 1, private_ip(index + 100_000), attached)
    return f"""
                <item>
                    <instanceId>i-{number}</instanceId>
                    <imageId>ami-0c1bc246476a5572b</imageId>
                    <instanceState>
                        <code>16</code>
                        <name>running</name>
                    </instanceState>
                    <privateDnsName>{name}</privateDnsName>
                    <dnsName/>
                    <reason/>
                    <amiLaunchIndex>0</amiLaunchIndex>
                    <productCodes/>
                    <instanceType>m6i.large</instanceType>
                    <launchTime>{launched}</launchTime>
                    <placement>
                        <availabilityZone>eu-west-1{zone}</availabilityZone>
                        <groupName/>
                        <tenancy>default</tenancy>
                    </placement>
                    <monitoring>
                        <state>disabled</state>
                    </monitoring>
                    <subnetId>subnet-0a1b2c3d4e5f6a7b{zone}</subnetId>
                    <vpcId>vpc-0f1e2d3c4b5a69788</vpcId>
                    <privateIpAddress>{address}</privateIpAddress>
                    <sourceDestCheck>true</sourceDestCheck>
                    <groupSet>
                        <item>
                            <groupId>sg-0123456789abcdef0</groupId>
                            <groupName>etcd &amp; friends</groupName>
                        </item>
                    </groupSet>
                    <architecture>x86_64</architecture>
                    <rootDeviceType>ebs</rootDeviceType>
                    <rootDeviceName>/dev/xvda</rootDeviceName>
                    <blockDeviceMapping>{volumes}
                    </blockDeviceMapping>
                    <virtualizationType>hvm</virtualizationType>
                    <clientToken>fleet-{number}-0</clientToken>
                    <tagSet>{_tags(index)}
                    </tagSet>
                    <hypervisor>xen</hypervisor>
                    <networkInterfaceSet>{interfaces}
                    </networkInterfaceSet>
                    <iamInstanceProfile>
                        <arn>arn:aws:iam::{ACCOUNT}:instance-profile/{ROLE}</arn>
                        <id>AIPAJBEBLMVUIYEXAMPLE</id>
                    </iamInstanceProfile>
                    <ebsOptimized>true</ebsOptimized>
                    <enaSupport>true</enaSupport>
                    <cpuOptions>
                        <coreCount>1</coreCount>
                        <threadsPerCore>2</threadsPerCore>
                    </cpuOptions>
                    <metadataOptions>
                        <state>applied</state>
                        <httpTokens>required</httpTokens>
                        <httpPutResponseHopLimit>2</httpPutResponseHopLimit>
                        <httpEndpoint>enabled</httpEndpoint>
                    </metadataOptions>
                    <platformDetails>Linux/UNIX</platformDetails>
                </item>"""


def _volume(device: str, number: str, attached: str) -> str:
    return f"""
                        <item>
                            <deviceName>{device}</deviceName>
                            <ebs>
                                <volumeId>vol-{number}</volumeId>
                                <status>attached</status>
                                <attachTime>{attached}</attachTime>
                                <deleteOnTermination>true</deleteOnTermination>
                            </ebs>
                        </item>"""


def _tags(index: int) -> str:
    tags = {"etcd": "1", "Name": f"etcd-{index}", "aws:autoscaling:groupName": "etcd", "note": "R&amp;D &lt;prod&gt;"}
    tags.update({f"team:cost-centre-{n}": f"value {n} of {index}" for n in range(TAGS_PER_INSTANCE - len(tags))})
    return "".join(
        f"""
                        <item>
                            <key>{key}</key>
                            <value>{value}</value>
                        </item>"""
        for key, value in tags.items()
    )


def _interface(number: str, device: int, address: str, attached: str) -> str:
    return f"""
                        <item>
                            <networkInterfaceId>eni-{number}</networkInterfaceId>
                            <subnetId>subnet-0a1b2c3d4e5f6a7b8</subnetId>
                            <vpcId>vpc-0f1e2d3c4b5a69788</vpcId>
                            <ownerId>{ACCOUNT}</ownerId>
                            <status>in-use</status>
                            <macAddress>02:00:00:00:00:0{device}</macAddress>
                            <privateIpAddress>{address}</privateIpAddress>
                            <sourceDestCheck>true</sourceDestCheck>
                            <attachment>
                                <attachmentId>eni-attach-{number}</attachmentId>
                                <deviceIndex>{device}</deviceIndex>
                                <status>attached</status>
                                <attachTime>{attached}</attachTime>
                            </attachment>
                            <privateIpAddressesSet>
                                <item>
                                    <privateIpAddress>{address}</privateIpAddress>
                                    <primary>true</primary>
                                </item>
                            </privateIpAddressesSet>
                            <tagSet>
                                <item>
                                    <key>etcd</key>
                                    <value>interface {device}</value>
                                </item>
                            </tagSet>
                        </item>"""


def _hex17(index: int) -> str:
    return f"0{index:016x}"


def _token(start: int) -> str:
    return f"eyJ2IjoiMiIsInMiOjF9-page-{start}="


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--instances", type=int, default=10_000)
    arguments.add_argument("--page-size", type=int, default=1_000)
    arguments.add_argument("--port", type=int, default=0)
    options = arguments.parse_args()
    with Replay(options.instances, options.page_size, port=options.port) as replay:
        print(f"AWS_ENDPOINT_URL_EC2={replay.url}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
