"""What stands around a deployment in the tests: the load balancer's health check, and machines that do what their user
data tells them."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import yaml
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.ec2_front import Call, Ec2Front, Next
from muster_tools.lab.http_server import Reply
from muster_tools.lab.imds import Imds
from muster_tools.lab.instance import Credentials
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.security import MINTED, SIDES, Security

STATUS_PORT = 2381
PROBE_SECONDS = 2
SCRIPTS = {"etcd-fetch", "etcd-prepare", "node-etcdctl", "node-muster"}


def asks_the_targets(ec2: Ec2) -> Callable[[Call, Next], Reply | None]:
    """moto calls every target healthy without asking; this asks, as the target group's health check says."""

    def rule(_: Call, proceed: Next) -> Reply | None:
        reply = proceed()
        targets = []
        for part in re.split(r"(?=<member>)", reply.body.decode()):  # one target each
            for instance in re.findall(r"<Id>(i-[0-9a-f]+)</Id>", part):
                state = "healthy" if is_ready(ec2.describe(instance).private_ip) else "unhealthy"
                part = re.sub(r"<State>\w+</State>", f"<State>{state}</State>", part)
            targets.append(part)
        return Reply(reply.status, "".join(targets).encode(), reply.headers, reply.content_type)

    return rule


def is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, STATUS_PORT, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def active_at_once(_: Call, proceed: Next) -> Reply | None:
    """moto's balancer is provisioning at the first look, and the provider then waits another half minute."""
    reply = proceed()
    return Reply(reply.status, reply.body.replace(b"provisioning", b"active"), reply.headers, reply.content_type)


def a_session(_: Call, proceed: Next) -> Reply | None:
    """moto's Systems Manager opens none; the plugin below is the other end of this one."""
    given = {"SessionId": "lab", "TokenValue": "lab", "StreamUrl": "wss://lab"}
    return Reply(200, json.dumps(given).encode(), content_type="application/x-amz-json-1.1")


def without_public_addresses(_: Call, proceed: Next) -> Reply | None:
    """moto names one of each instance, if only an empty one, and the provider then replaces those that are to have none."""
    reply = proceed()
    body = re.sub(rb"<association>.*?</association>|<association ?/>", b"", reply.body, flags=re.DOTALL)
    return Reply(reply.status, body, reply.headers, reply.content_type)


class Refreshes:
    """moto can't refresh a group. This takes the order, as AWS does, and tells of the newest one what the test says; what AWS then does is the
    test's. Fields and states as in docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html."""

    def __init__(self) -> None:
        self.ordered: list[dict[str, str]] = []  # the parameters of each
        self.state, self.percentage, self.reason = "Successful", 100, ""

    def tell(self, _: Call, __: Next) -> Reply | None:
        number = f"00000000-0000-4000-8000-{len(self.ordered):012}"
        reason = f"<StatusReason>{self.reason}</StatusReason>" if self.reason else ""
        newest = (
            f"<member><InstanceRefreshId>{number}</InstanceRefreshId><Status>{self.state}</Status>{reason}"
            f"<PercentageComplete>{self.percentage}</PercentageComplete></member>"
        )
        body = (
            '<DescribeInstanceRefreshesResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><DescribeInstanceRefreshesResult>'
            f"<InstanceRefreshes>{newest if self.ordered else ''}</InstanceRefreshes></DescribeInstanceRefreshesResult>"
            f"<ResponseMetadata><RequestId>{number}</RequestId></ResponseMetadata></DescribeInstanceRefreshesResponse>"
        )
        return Reply(200, body.encode(), content_type="text/xml")

    def take(self, call: Call, _: Next) -> Reply | None:
        self.ordered.append({name: value for name, value in call.parameters.items() if name not in ("Action", "Version")})
        number = f"00000000-0000-4000-8000-{len(self.ordered):012}"
        body = (
            '<StartInstanceRefreshResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><StartInstanceRefreshResult>'
            f"<InstanceRefreshId>{number}</InstanceRefreshId></StartInstanceRefreshResult>"
            f"<ResponseMetadata><RequestId>{number}</RequestId></ResponseMetadata></StartInstanceRefreshResponse>"
        )
        return Reply(200, body.encode(), content_type="text/xml")


def front(ec2: Ec2, refreshes: Refreshes) -> Ec2Front:
    """The way to those services of which moto tells too little."""
    made = Ec2Front(ec2.url)
    made.add(asks_the_targets(ec2), action="DescribeTargetHealth")
    made.add(without_public_addresses, action="DescribeInstances")
    made.add(active_at_once, action="DescribeLoadBalancers")
    made.add(a_session, action="StartSession")
    made.add(refreshes.take, action="StartInstanceRefresh")
    made.add(refreshes.tell, action="DescribeInstanceRefreshes")
    return made


def role_credentials(ec2: Ec2) -> Credentials:
    """A session of the role that Terraform made for the members, with its rights and no others."""
    (role,) = [role for role in ec2.client("iam").list_roles()["Roles"] if "-member-" in role["RoleName"]]
    trust = json.dumps(role["AssumeRolePolicyDocument"])
    if "ec2.amazonaws.com" in trust:
        # The lab stands in for the EC2 service, which hands a machine its session.
        admin = ec2.client("iam").get_user(UserName="lab")["User"]["Arn"]
        document = trust.replace('{"Service": "ec2.amazonaws.com"}', json.dumps({"AWS": admin}))
        ec2.client("iam").update_assume_role_policy(RoleName=role["RoleName"], PolicyDocument=document)
        widen_beyond_s3(ec2, role["RoleName"])
        allow_plain_http(ec2)
    given = ec2.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="node")["Credentials"]
    session = Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])
    ec2.sessions[session.access_key_id] = session
    return session


def allow_plain_http(ec2: Ec2) -> None:
    """In the lab all is plain http, which the claim's bucket refuses."""
    s3 = ec2.client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        if "-claim-" in bucket["Name"]:
            s3.delete_bucket_policy(Bucket=bucket["Name"])


def widen_beyond_s3(ec2: Ec2, role: str) -> None:
    """moto knows what an S3 call is about, of others only the action: "on this parameter" would never match there.

    That the module names the parameter is what its own tests show (modules/etcd/tests); the action has still to be allowed.
    """
    iam = ec2.client("iam")
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for statement in policy["Statement"]:
        if not all(action.startswith("s3:") for action in statement["Action"]):
            statement["Resource"] = "*"
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


class Fetched(Security):
    """Nothing is laid out for the node: it fetches what it has."""

    def environment(self, node_directory: Path) -> dict[str, str]:
        return {}

    def equip(self, node_directory: Path, *names: str) -> None:
        pass


class Given(Fetched):
    """Both ports by certificates of a CA that is the deployment's."""

    def __init__(self, private: Path):
        super().__init__()
        self.modes = {side: MINTED for side in SIDES}
        context = ssl.create_default_context(cafile=str(private / "ca.crt"))
        context.load_cert_chain(private / "client.crt", private / "client.key")
        self._contexts = {side: context for side in SIDES}


# The AWS CLI starts it with what StartSession answered, the region, a word, the profile, what was asked, and the service's URL.
# What was asked is done as on the machine, in its directory and environment.
PLUGIN = """#!{python}
import json, os, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("1.2.0.0"))
asked = json.loads(sys.argv[5])
(command,) = asked["Parameters"]["command"]
script, *arguments = command.removeprefix("sudo /opt/etcd/bin/").split()
machine = json.load(open({table!r}))[asked["Target"]]
os.execve("/bin/sh", ["sh", machine["directory"] + "/" + script, *arguments], machine["environment"])
"""


def session_manager(folder: Path, machines: list[Machine]) -> None:
    """Session Manager's plugin for the AWS CLI, into this folder, for these machines."""
    table = folder / "machines.json"
    told = {m.node.instance.id: {"directory": str(m.node.directory), "environment": m.environment()} for m in machines}
    table.write_text(json.dumps(told))
    plugin = folder / "session-manager-plugin"
    plugin.write_text(PLUGIN.format(python=sys.executable, table=str(table)))
    plugin.chmod(0o755)


class Machine:
    """One instance that Terraform made, booted: its user data carried out in a directory of its own."""

    def __init__(self, lab: Lab, instance_id: str, user_data: bytes, env: dict[str, str] | None = None, disk: Node | None = None):
        found = lab.ec2.describe(instance_id)
        self.lab = lab
        self.node = lab.add_node(launch=False, address=found.private_ip)
        if disk is not None:  # its data volume is now this one's
            for mine, theirs in ((self.node.data, disk.data), (self.node.wal, disk.wal)):
                mine.rmdir()
                theirs.rename(mine)
        imds = Imds(found, lambda: role_credentials(lab.ec2))
        imds.meta_data["services/domain"] = "amazonaws.com"
        self.node.attach(found, imds, Ec2Front(lab.ec2.url, found.private_ip))
        config = yaml.safe_load(gzip.decompress(user_data))
        self.files: dict[str, str] = {f["path"]: f["content"] for f in config["write_files"]}
        for path, text in self.files.items():
            if path.startswith("/etc/etcd-muster/ssl/"):
                (self.node.ssl / Path(path).name).write_text(text)
        for name in SCRIPTS:
            self._script(name).write_text(self.files[f"/opt/etcd/bin/{name}"])
        (self.node.directory / "fetch").write_text(self.files["/etc/etcd-muster/fetch"])
        self.node.env.update(self._environment(), **(env or {}))
        (self.node.directory / "env").write_text("".join(f"{k}={v}\n" for k, v in self.node.environment().items() if k != "PATH"))

    def _script(self, name: str) -> Path:
        return self.node.directory / name

    def _environment(self) -> dict[str, str]:
        """As the user data has it, but for the places: several machines share this one's directories and ports."""
        told = dict(line.split("=", 1) for line in self.files["/etc/etcd-muster/env"].splitlines())
        places = {"/etc/etcd-muster/ssl": str(self.node.ssl), "0.0.0.0": self.node.address}
        for before, after in places.items():
            told = {key: value.replace(before, after) for key, value in told.items()}
        return {key: value for key, value in told.items() if not key.startswith("ED_")}

    def environment(self) -> dict[str, str]:
        """Of the machine's scripts: its metadata service, its S3, its places."""
        node = self.node
        places = {"OPT": node.home, "SSL": node.ssl, "LIST": node.directory / "fetch", "ENV": node.directory / "env"}
        return {
            "PATH": os.environ["PATH"],
            "OWNER": f"{os.getuid()}:{os.getgid()}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": node.imds.url,
            "AWS_ENDPOINT_URL_S3": node.front.url,
            **{name: str(place) for name, place in places.items()},
        }

    def run(self, script: str, *arguments: str) -> str:
        """One of the machine's scripts."""
        done = subprocess.run(
            ["sh", str(self._script(script)), *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self) -> None:
        """What the unit does: fetch, then run."""
        (self.node.home / "bin" / "etcd").unlink()  # the lab's own; this machine has what it fetches
        self.run("etcd-fetch")
        self.node.start()


def instance_user_data(ec2: Ec2, instance_id: str) -> bytes:
    told = ec2.client("ec2").describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    return base64.b64decode(told["UserData"]["Value"])


def leftovers(ec2: Ec2, vpc_block: str) -> dict[str, Any]:
    """What of a deployment is still there."""
    api = ec2.client("ec2")
    profiles = ec2.client("iam").list_instance_profiles()["InstanceProfiles"]
    states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    found = {
        "instances": [i["InstanceId"] for r in api.describe_instances(Filters=states)["Reservations"] for i in r["Instances"]],
        "volumes": [v["VolumeId"] for v in api.describe_volumes()["Volumes"]],
        "vpcs": [v["VpcId"] for v in api.describe_vpcs()["Vpcs"] if v["CidrBlock"] == vpc_block],
        "groups": [g["GroupName"] for g in api.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"],
        "endpoints": [e["VpcEndpointId"] for e in api.describe_vpc_endpoints()["VpcEndpoints"] if e["State"] != "deleted"],
        "roles": [r["RoleName"] for r in ec2.client("iam").list_roles()["Roles"] if "-member-" in r["RoleName"]],
        "profiles": [name for name in (p["InstanceProfileName"] for p in profiles) if "-member-" in name],
        "templates": [t["LaunchTemplateName"] for t in api.describe_launch_templates()["LaunchTemplates"]],
        "balancers": [b["LoadBalancerName"] for b in ec2.client("elbv2").describe_load_balancers()["LoadBalancers"]],
        "scaling": [g["AutoScalingGroupName"] for g in ec2.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]],
        "buckets": [b["Name"] for b in ec2.client("s3").list_buckets()["Buckets"]],
        "parameters": [p["Name"] for p in ec2.client("ssm").describe_parameters()["Parameters"]],
    }
    return {kind: names for kind, names in found.items() if names}
