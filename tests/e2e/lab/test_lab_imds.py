"""The metadata service is as strict as EC2's, and fails in each of the ways it promises."""

import http.client
import json
import socket
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
from muster_tools.lab.imds import Imds
from muster_tools.lab.instance import Credentials, Instance
from muster_tools.lab.moments import covered

ADDRESS = "127.0.2.11"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
ROLES = "/latest/meta-data/iam/security-credentials/"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
INSTANCE = Instance("i-0123456789abcdef0", ADDRESS, "ip-127-0-2-11.internal", NOW, "eu-west-1b", "running")


def session() -> Credentials:
    return Credentials("ASIAEXAMPLE", "secret", "token", datetime.now(timezone.utc) + timedelta(hours=6))


@pytest.fixture
def imds():
    service = Imds(INSTANCE, session).start()
    yield service
    service.stop()


def ask(method, path, timeout=5.0, **headers):
    with closing(http.client.HTTPConnection(ADDRESS, 1338, timeout=timeout)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def put_token(ttl="60", timeout=5.0, **headers):
    return ask("PUT", "/latest/api/token", timeout, **{TTL: ttl}, **headers)


def read(path, token=None):
    return ask("GET", path, X_aws_ec2_metadata_token=token or put_token()[1])


def test_how_long_it_took_to_answer_is_kept(imds):
    began = time.time()
    read("/latest/meta-data/instance-id")
    assert len(imds.answered) == 2  # the token, the item
    assert 0 < covered(imds.answered) < time.time() - began


def test_what_it_serves(imds):
    document = json.loads(read("/latest/dynamic/instance-identity/document")[1])
    assert (document["instanceId"], document["privateIp"]) == (INSTANCE.id, ADDRESS)
    assert (document["region"], document["availabilityZone"]) == ("eu-west-1", "eu-west-1b")
    assert document["pendingTime"] == "2026-01-02T03:04:05Z"
    for item, value in {
        "instance-id": INSTANCE.id,
        "local-ipv4": ADDRESS,
        "local-hostname": INSTANCE.private_dns,
        "placement/availability-zone": "eu-west-1b",
        "placement/region": "eu-west-1",
        "autoscaling/target-lifecycle-state": "InService",
        "iam/security-credentials/": "etcd-node",
    }.items():
        assert read(f"/latest/meta-data/{item}") == (200, value)
    given = json.loads(read(ROLES + "etcd-node")[1])
    assert (given["Code"], given["AccessKeyId"], given["Token"]) == ("Success", "ASIAEXAMPLE", "token")
    for absent in ("spot/instance-action", "iam/security-credentials/other", "ami-id", ""):
        assert read(f"/latest/meta-data/{absent}")[0] == 404


@pytest.mark.parametrize("ttl", ["0", "21601", "-1", "", "1h", "6.5", "²"])
def test_a_token_needs_a_ttl_from_1_to_21600(imds, ttl):
    assert put_token(ttl.encode("utf-8"))[0] == 400


def test_a_token_needs_the_ttl_header_and_no_proxy(imds):
    assert ask("PUT", "/latest/api/token")[0] == 400
    assert put_token("21600")[0] == 200
    assert put_token(X_Forwarded_For="10.0.0.1")[0] == 403


def test_reading_needs_a_valid_token(imds):
    path = "/latest/meta-data/instance-id"
    assert ask("GET", path)[0] == 401
    assert read(path, "made-up")[0] == 401
    token = put_token()[1]
    assert read(path, token)[0] == 200
    imds.expire_tokens()
    assert read(path, token)[0] == 401


def test_it_counts_by_path(imds):
    read("/latest/meta-data/instance-id")
    read("/latest/meta-data/instance-id")
    assert imds.requests == {"/latest/api/token": 2, "/latest/meta-data/instance-id": 2}


def test_faults_that_answer(imds):
    token = put_token()[1]
    imds.fault = "disabled"
    assert (put_token()[0], read(ROLES, token)[0]) == (403, 403)
    imds.fault = "no-role"
    assert (read(ROLES, token)[0], read(ROLES + "etcd-node", token)[0]) == (404, 404)
    imds.fault = "creds-code-failed"
    assert json.loads(read(ROLES + "etcd-node", token)[1])["Code"] != "Success"
    imds.fault = "expired-credentials"
    expiration = json.loads(read(ROLES + "etcd-node", token)[1])["Expiration"]
    assert expiration < datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    imds.fault = None
    imds.notice_spot_interruption()
    assert json.loads(read("/latest/meta-data/spot/instance-action", token)[1])["action"] == "terminate"
    with pytest.raises(ValueError, match="no such fault"):
        imds.fault = "slient"


def test_a_token_is_rejected_once(imds):
    token = put_token()[1]
    imds.fault = "token-rejected-once"
    assert read("/latest/meta-data/instance-id", token)[0] == 401
    assert read("/latest/meta-data/instance-id", token)[0] == 401  # that token stays dead
    assert read("/latest/meta-data/instance-id")[0] == 200


def test_silence_lasts_until_healed(imds):
    imds.fault = "silent"
    with pytest.raises(socket.timeout):
        put_token(timeout=0.1)
    assert ask("GET", "/latest/meta-data/instance-id")[0] == 401  # only the token's answer is too many hops away
    outcome = []

    def hang():
        try:
            outcome.append(put_token())
        except http.client.RemoteDisconnected:
            outcome.append("dropped")

    caller = threading.Thread(target=hang)
    caller.start()
    imds.fault = None
    caller.join(5)
    assert outcome[0] == "dropped" or outcome[0][0] == 200  # by whether it came before the healing
    assert put_token()[0] == 200


def test_no_listener_refuses_and_drops(imds):
    with closing(http.client.HTTPConnection(ADDRESS, 1338, timeout=5)) as kept_alive:
        kept_alive.request("GET", "/")
        kept_alive.getresponse().read()
        imds.fault = "no-listener"
        with pytest.raises(ConnectionRefusedError):
            put_token()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            kept_alive.request("GET", "/")
            kept_alive.getresponse()
    imds.fault = None
    assert put_token()[0] == 200
