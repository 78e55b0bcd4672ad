"""EC2, IAM and STS as moto plays them, with every signature and permission checked.

moto starts out open: the lab makes its own user and the nodes' role, then closes the door. From there on a wrong
secret is 401 AuthFailure and a missing right is 403 AccessDenied (EC2 proper would say UnauthorizedOperation).
moto checks neither the date nor the region of a signature, nor whether a session has expired.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from muster_tools.lab.instance import ACCOUNT, REGION, ROLE, Credentials, Instance

START_BOUND = 30  # seconds; moto needs about half of one
ROLE_WITHOUT_POLICY = "etcd-node-without-policy"
ISSUER, AUDIENCE = "issuer.example.com", "sts.amazonaws.com"  # of web identities
NODE_ACTIONS = ("ec2:DescribeInstances", "ec2:DescribeInstanceStatus")

# One try: a failure in the lab should show, not be smoothed over. No proxies: everything is on loopback.
CLIENT_CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15, proxies={})

# Until moto checks signatures; boto3 wants a key of some sort.
UNSIGNED = Credentials("AKIALABBEFORESETUP00", "none", None, None)
SESSIONS_OWN = Credentials(None, None, None, None)  # whoever the boto session is


class Ec2:
    """A private cloud for one lab: `with Ec2("127.7") as ec2` gives instances addresses in 127.7.0.0/16."""

    def __init__(self, network: str = "127.0", log: Path = Path(os.devnull)):
        self.network = network
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        # A client takes 0.1 s to make, and the services' models as long to read: both are kept, and sign as whoever administers now.
        self._boto = boto3.session.Session(UNSIGNED.access_key_id, UNSIGNED.secret_access_key)
        self._clients: dict[str, Any] = {}
        self._subnet = ""
        self.sessions: dict[str, Credentials] = {}  # all that were given out, by access key id
        self.url = ""

    def start(self) -> Ec2:
        with open(self._log, "ab") as log:
            command = [sys.executable, str(Path(__file__).with_name("moto_server.py"))]
            # moto has settings in the environment of its own: none of ours, and no AWS_* of the user's.
            environment = {"PATH": os.environ["PATH"], "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}
            self._server = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us, who then stop the nodes before their EC2
            )
        try:
            self.url = f"http://127.0.0.1:{self._port()}"
            self._set_up()
        except BaseException:
            self.stop()
            raise
        return self

    def reset(self, network: str) -> None:
        """An empty cloud again, for the next lab: a tenth of the time that a new server takes."""
        self.network = network
        self._post("reset")
        self._set_up()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            pipe.close()
        self._server = None

    def __enter__(self) -> Ec2:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What an operator does with instances.

    def launch(self, address: str, tags: dict[str, str] | None = None, name: str | None = None) -> Instance:
        """A running instance at this address; tagged etcd=1 unless told otherwise."""
        tags = {"etcd": "1"} if tags is None else dict(tags)
        if name is not None:
            tags["Name"] = name
        kinds = [{"ResourceType": "instance", "Tags": _pairs(tags)}] if tags else []
        answer = self.client("ec2").run_instances(
            ImageId="ami-0123456789abcdef0",
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            SubnetId=self._subnet,
            PrivateIpAddress=address,
            IamInstanceProfile={"Name": ROLE},
            TagSpecifications=kinds,
        )
        return self.describe(answer["Instances"][0]["InstanceId"])

    def describe(self, instance_id: str) -> Instance:
        found = self.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        return Instance(
            id=found["InstanceId"],
            private_ip=found.get("PrivateIpAddress", ""),  # a terminated one has none
            private_dns=found.get("PrivateDnsName", ""),
            launch_time=found["LaunchTime"],
            az=found["Placement"]["AvailabilityZone"],
            state=found["State"]["Name"],
        )

    def terminate(self, instance_id: str) -> None:
        """Stays listed, as on EC2 for up to an hour, without address, name and interface; its address is free at once."""
        self.client("ec2").terminate_instances(InstanceIds=[instance_id])

    def stop_instances(self, *ids: str) -> None:
        self.client("ec2").stop_instances(InstanceIds=list(ids))

    def start_instances(self, *ids: str) -> list[Instance]:
        """Same ids, addresses and times of attachment; new launch times."""
        self.client("ec2").start_instances(InstanceIds=list(ids))
        return [self.describe(instance_id) for instance_id in ids]

    def set_tags(self, instance_id: str, tags: dict[str, str | None]) -> None:
        """None takes a tag away."""
        lost = [{"Key": key} for key, value in tags.items() if value is None]
        kept = {key: value for key, value in tags.items() if value is not None}
        if lost:
            self.client("ec2").delete_tags(Resources=[instance_id], Tags=lost)
        if kept:
            self.client("ec2").create_tags(Resources=[instance_id], Tags=_pairs(kept))

    # Who may do what.

    def role_credentials(self) -> Credentials:
        """A new session of the role that the nodes' instance profile holds."""
        return self._assume(ROLE)

    def role_credentials_without_policy(self) -> Credentials:
        """A session that is valid and may do nothing."""
        return self._assume(ROLE_WITHOUT_POLICY)

    def set_role_actions(self, *actions: str) -> None:
        """Replace what the nodes' role may do, at once and for sessions that exist."""
        self._put_role_policy(ROLE, actions)

    def administrator(self) -> Credentials:
        """Whose keys may do everything, and assume the roles."""
        own = self._boto.get_credentials()
        return Credentials(own.access_key, own.secret_key, None, None)

    def role_arn(self, role: str = ROLE) -> str:
        return self.client("iam").get_role(RoleName=role)["Role"]["Arn"]

    def trust_web_identity(self, subject: str) -> None:
        """The nodes' role may be assumed with a token of that subject, too."""
        trusted = {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"}
        condition = {"StringEquals": {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": subject}}
        statement = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": condition}
        document = json.loads(_trust(self.client("iam").get_user(UserName="lab")["User"]["Arn"]))
        document["Statement"].append(statement)
        self.client("iam").update_assume_role_policy(RoleName=ROLE, PolicyDocument=json.dumps(document))

    def client(self, service: str, credentials: Credentials | None = None, endpoint: str | None = None) -> Any:
        """A boto3 client of this cloud, or of a front of it; without credentials, the administrator's."""
        if credentials is None and service in self._clients:
            return self._clients[service]
        who = credentials or SESSIONS_OWN
        made = self._boto.client(
            service,
            region_name=REGION,
            endpoint_url=endpoint or self.url,
            aws_access_key_id=who.access_key_id,
            aws_secret_access_key=who.secret_access_key,
            aws_session_token=who.token,
            config=CLIENT_CONFIG,
        )
        if credentials is None:
            self._clients[service] = made
        return made

    # Setting up.

    def _port(self) -> int:
        ready, _, _ = select.select([self._server.stdout], [], [], START_BOUND)
        line = self._server.stdout.readline() if ready else b""
        if not line:
            raise RuntimeError(f"moto did not start within {START_BOUND} s; its log is {self._log}")
        return int(line)

    def _set_up(self) -> None:
        self._post("reset-auth", "inf")  # how many requests may still pass unsigned
        self._set_up_iam()
        self._post("reset-auth", "0")
        self._set_up_network()

    def _post(self, control: str, body: str = "") -> None:
        """moto's own controls, beside AWS's API."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/{control}", data=body.encode(), headers={"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).close()

    def _administer_as(self, who: Credentials) -> None:
        """What the session holds is what its clients sign with, those made before as well."""
        signs = self._boto.get_credentials()
        signs.access_key, signs.secret_key = who.access_key_id, who.secret_access_key

    def _set_up_iam(self) -> None:
        self._administer_as(UNSIGNED)
        iam = self.client("iam")
        admin = iam.create_user(UserName="lab")["User"]["Arn"]
        key = iam.create_access_key(UserName="lab")["AccessKey"]
        iam.put_user_policy(UserName="lab", PolicyName="all", PolicyDocument=_policy(["*"]))
        for role in (ROLE, ROLE_WITHOUT_POLICY):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=_trust(admin))
        self._put_role_policy(ROLE, NODE_ACTIONS)
        iam.create_instance_profile(InstanceProfileName=ROLE)
        iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
        self._administer_as(Credentials(key["AccessKeyId"], key["SecretAccessKey"], None, None))

    def _set_up_network(self) -> None:
        block = f"{self.network}.0.0/16"
        vpc = self.client("ec2").create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
        self._subnet = self.client("ec2").create_subnet(VpcId=vpc, CidrBlock=block)["Subnet"]["SubnetId"]

    def _put_role_policy(self, role: str, actions: tuple[str, ...]) -> None:
        document = _policy(list(actions))
        self.client("iam").put_role_policy(RoleName=role, PolicyName="node", PolicyDocument=document)

    def _assume(self, role: str) -> Credentials:
        arn = self.role_arn(role)
        given = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
        session = Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])
        self.sessions[session.access_key_id] = session
        return session


def web_identity_token(subject: str, lasts: float = 3600) -> str:
    """A token as a cluster's issuer makes it, but for the signature, which the lab's STS does not check."""
    claims = {"iss": f"https://{ISSUER}", "aud": AUDIENCE, "sub": subject, "exp": int(time.time() + lasts)}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), "c2lnbmF0dXJl"])


def _pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _policy(actions: list[str]) -> str:
    allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [allowed]})


def _trust(admin: str) -> str:
    # The lab stands in for the EC2 service, which hands a node its session through the metadata service.
    trusted = {"Effect": "Allow", "Principal": {"AWS": admin}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
