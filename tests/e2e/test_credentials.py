"""Credentials as people have them: a web identity's token, the shared files of AWS's SDKs, and no metadata service to ask."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import command, complaint, launch, start, wait_formed
from muster_tools.lab.ec2 import web_identity_token
from muster_tools.lab.ec2_faults import error
from muster_tools.lab.instance import REGION

DENIED, UNAVAILABLE = 77, 69
SUBJECT = "system:serviceaccount:etcd:node"
OFF = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": REGION}
ASSUME = "AssumeRoleWithWebIdentity"


@pytest.fixture
def node(lab):
    (node,) = launch(lab, 1, size=1)
    return node


@pytest.fixture
def identity(lab, node, tmp_path):
    """The environment of a pod whose service account may assume the nodes' role."""
    lab.ec2.trust_web_identity(SUBJECT)
    token = tmp_path / "token"
    token.write_text(web_identity_token(SUBJECT))
    arn = lab.ec2.role_arn()
    return OFF | {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": arn, "AWS_ENDPOINT_URL_STS": node.front.url}


def found(done) -> set[str]:
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return {entry["instance"] for entry in json.loads(done.stdout)}


def recorded(node, action: str) -> list:
    """Every call of that action from now on."""
    calls = []

    def record(call, following):
        calls.append(call)
        return following()

    node.front.add(record, action=action)
    return calls


def test_a_web_identity_is_enough_and_the_metadata_service_is_not_asked(lab, node, identity):
    calls = recorded(node, ASSUME)
    assert found(command(lab, node, "discover", "--json", **identity)) == {node.instance.id}
    (call,) = calls
    assert call.parameters["RoleSessionName"] == "etcd-muster" and call.request.header("Authorization") is None
    named = identity | {"AWS_ROLE_SESSION_NAME": "etcd@node-1"}
    assert found(command(lab, node, "discover", "--json", **named)) == {node.instance.id}
    assert calls[1].parameters["RoleSessionName"] == "etcd@node-1"
    assert not node.imds.requests


def test_a_supervisor_takes_the_files_newest_token_when_its_session_ends(lab, node, identity):
    token = Path(identity["AWS_WEB_IDENTITY_TOKEN_FILE"])
    # The instance says who it is; whom it acts for, the token does.
    node.env |= {key: value for key, value in identity.items() if key not in OFF}
    calls = recorded(node, ASSUME)
    old, new = token.read_text(), web_identity_token(SUBJECT, lasts=7200)

    def end_session(call, following):
        token.write_text(new)
        return error(400, "ExpiredToken", "The security token included in the request is expired")

    node.front.add(end_session, calls=1, action="DescribeInstances")
    start(node)
    wait_formed(lab, node)
    assert [call.parameters["WebIdentityToken"] for call in calls] == [old, new]
    assert not any("security-credentials" in path for path in node.imds.requests)


@pytest.mark.parametrize(
    "token, code, words",
    [
        (lambda: web_identity_token(SUBJECT, lasts=-60), "ExpiredTokenException", "has expired, and nothing has renewed it"),
        (lambda: "hunter2", "InvalidIdentityToken", "is none of an identity provider that the role trusts"),
        (lambda: web_identity_token("another"), "AccessDenied", f"must allow sts:{ASSUME}, for the identity provider"),
    ],
    ids=["late", "strange", "another's"],
)
def test_a_token_that_is_refused_is_named_with_the_way_out(lab, node, identity, token, code, words):
    written = token()
    Path(identity["AWS_WEB_IDENTITY_TOKEN_FILE"]).write_text(written)
    line = complaint(command(lab, node, "discover", **identity), DENIED)
    assert f"sts:{ASSUME} of {identity['AWS_ROLE_ARN']}: {code} (" in line and words in line, line
    assert written not in line


# The shared files.


def files(tmp_path: Path, credentials: str = "", config: str = "") -> dict[str, str]:
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/credentials").write_text(credentials)
    (home / ".aws/config").write_text(config)
    return {"HOME": str(home)}


def keys(who, profile: str) -> str:
    token = f"aws_session_token = {who.token}\n" if who.token else ""
    return f"[{profile}]\naws_access_key_id = {who.access_key_id}\naws_secret_access_key = {who.secret_access_key}\n{token}"


def test_a_profiles_keys_and_region_are_enough_on_a_laptop(lab, node, tmp_path):
    session = lab.ec2.role_credentials()
    home = files(tmp_path, keys(session, "ops"), f"[profile ops]\nregion = {REGION}\n")
    laptop = {**home, "AWS_PROFILE": "ops", "AWS_EC2_METADATA_DISABLED": "true"}
    assert found(command(lab, node, "discover", "--json", **laptop)) == {node.instance.id}
    line = complaint(command(lab, node, "discover", **(laptop | {"AWS_PROFILE": "opps", "AWS_REGION": REGION})), DENIED)
    assert "AWS_PROFILE=opps: it has no such profile" in line and line.endswith("; they have ops"), line
    assert not node.imds.requests


def test_a_profiles_role_is_assumed_with_its_sources_keys(lab, node, tmp_path):
    home = files(
        tmp_path,
        keys(lab.ec2.administrator(), "me"),
        f"[profile etcd]\nrole_arn = {lab.ec2.role_arn()}\nsource_profile = me\nregion = {REGION}\n",
    )
    laptop = {**home, "AWS_PROFILE": "etcd", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL_STS": node.front.url}
    assert found(command(lab, node, "discover", "--json", **laptop)) == {node.instance.id}
    assert node.front.calls == {"AssumeRole": 1, "DescribeInstances": 1}
    wrong = tmp_path / "wrong"
    wrong.write_text(keys(lab.ec2.administrator(), "me").replace("aws_secret_access_key = ", "aws_secret_access_key = x"))
    line = complaint(command(lab, node, "discover", **(laptop | {"AWS_SHARED_CREDENTIALS_FILE": str(wrong)})), DENIED)
    assert "sts:AssumeRole of " in line and "check the access key and the secret" in line, line


@pytest.mark.parametrize("setting", ["sso_session = corp", "credential_process = /bin/secrets"])
def test_what_only_the_aws_cli_can_get_is_refused_with_the_command_that_gets_it(lab, node, tmp_path, setting):
    home = files(tmp_path, config=f"[profile ops]\n{setting}\nregion = {REGION}\n")
    line = complaint(command(lab, node, "discover", AWS_PROFILE="ops", AWS_EC2_METADATA_DISABLED="true", **home), DENIED)
    assert f"profile ops: {setting.split()[0]}: " in line, line
    assert line.endswith('run eval "$(aws configure export-credentials --profile ops --format env)" before'), line


def test_without_the_metadata_service_it_is_said_what_else_to_set(lab, node):
    for env in (OFF, {"AWS_EC2_METADATA_DISABLED": "true"}):
        line = complaint(command(lab, node, "discover", **env), UNAVAILABLE)
        assert "AWS_EC2_METADATA_DISABLED=true: the instance metadata service is not asked; set AWS_REGION, and AWS_ACCESS_KEY_ID" in line, line
    assert not node.imds.requests


# Beside the other implementation.

ONE = "aws_access_key_id = {0}\naws_secret_access_key = s\n"
LAYOUTS = {
    "default": ({}, "[default]\n" + ONE.format("A"), ""),
    "named": ({"AWS_PROFILE": "ops"}, "[default]\n" + ONE.format("A") + "[ops]\n" + ONE.format("B"), ""),
    "in the config file": ({"AWS_PROFILE": "ops"}, "", "[profile ops]\n" + ONE.format("B")),
    "in both files": ({"AWS_PROFILE": "ops"}, "[ops]\n" + ONE.format("A"), "[profile ops]\n" + ONE.format("B")),
    "a quoted name": ({"AWS_PROFILE": "my ops"}, "", '[profile "my ops"]\n' + ONE.format("B")),
    "comments and blanks": ({}, "# a\n\n[default]\n ; b\n" + ONE.format("A") + "\n# aws_access_key_id = C\n", ""),
    "further lines": ({}, "", "[default]\ns3 =\n  aws_access_key_id = C\n" + ONE.format("A")),
    "indented": ({}, "[default]\n  aws_access_key_id = A\n  aws_secret_access_key = s\n", ""),
    "colons and capitals": ({}, "[default]\nAWS_ACCESS_KEY_ID: A\naws_secret_access_key:s\n", ""),
    "a section that is no profile": ({"AWS_PROFILE": "ops"}, "[ops]\n" + ONE.format("A"), "[ops]\n" + ONE.format("B")),
    "the environment first": ({"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "s"}, "[default]\n" + ONE.format("A"), ""),
    "the environment before a named one": (
        {"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "ops"},
        "[ops]\n" + ONE.format("A"),
        "",
    ),
}
BOTOCORES = "import botocore.session as b; print(b.get_session().get_credentials().access_key)"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_key_is_the_one_that_botocore_takes(lab, node, tmp_path, layout):
    env, credentials, config = LAYOUTS[layout]
    env = env | files(tmp_path, credentials, config) | OFF
    path = {"PATH": os.environ["PATH"]}
    theirs = subprocess.run([sys.executable, "-c", BOTOCORES], env=env | path, capture_output=True, text=True, check=True, timeout=60)
    calls = recorded(node, "DescribeInstances")
    command(lab, node, "discover", **env)
    (ours,) = {re.search("Credential=([^/]*)/", call.request.header("Authorization")).group(1) for call in calls}
    assert ours == theirs.stdout.strip()
