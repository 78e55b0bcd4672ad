"""The way to AWS: over TLS that is verified, through a proxy where there is one, and to Parameter Store as well."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    command,
    complaint,
    etcd_pid,
    field,
    launch,
    mark,
    occupied,
    said,
    start,
    stop,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.connect_proxy import ConnectProxy
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.ec2_faults import dropped, skewed_clock, unavailable
from muster_tools.lab.ec2_front import Ec2Front, Rule
from muster_tools.lab.http_server import HttpServer, Reply
from muster_tools.lab.instance import REGION, ROLE
from muster_tools.lab.pki import Ca, Pair

REPOSITORY = Path(__file__).resolve().parents[2]

UNAVAILABLE, DENIED, CONFIG = 69, 77, 78
EC2 = f"ec2.{REGION}.amazonaws.com"
DAY = timedelta(days=1)


def context(pair: Pair, directory: Path, cipher: str | None = None) -> ssl.SSLContext:
    """A server's. The ssl module reads certificates from files only."""
    cert, key = directory / "server.crt", directory / "server.key"
    pair.write(cert, key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    if cipher is not None:
        made.set_ciphers(cipher)
    return made


@pytest.fixture
def ca() -> Ca:
    return Ca("a company's CA")


@pytest.fixture
def bundle(ca, tmp_path) -> Path:
    path = tmp_path / "bundle.pem"
    path.write_bytes(ca.cert_pem())
    return path


@pytest.fixture
def node(lab):
    (node,) = launch(lab, 1, size=1)
    return node


@pytest.fixture
def front(lab, node, ca, tmp_path):
    """The node's way to AWS, over TLS: by the node's own address, and under EC2's public name."""
    pair = ca.issue(node.address, EC2)
    with Ec2Front(lab.ec2.url, node.address, tls=context(pair, tmp_path)) as front:
        yield front


def discover(lab, node, **env):
    return command(lab, node, "discover", "--json", **env)


def assert_found(done, *nodes) -> None:
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    assert {entry["instance"] for entry in json.loads(done.stdout)} == {node.instance.id for node in nodes}


# Whom to trust.


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ec2_is_reached_over_tls_under_a_ca_of_ones_own(lab, node, front, bundle, variable):
    """A VPC endpoint under a private name, or a proxy that looks inside: its CA is named where every AWS tool reads it."""
    assert_found(discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, **{variable: str(bundle)}), node)
    assert front.calls == {"DescribeInstances": 1}


def test_both_files_add_to_the_roots(lab, node, front, bundle, tmp_path):
    """SSL_CERT_FILE is the image's, AWS_CA_BUNDLE the operator's: neither takes away what the other brings."""
    other = tmp_path / "other.pem"
    other.write_bytes(Ca("another").cert_pem())
    for right, wrong in (("AWS_CA_BUNDLE", "SSL_CERT_FILE"), ("SSL_CERT_FILE", "AWS_CA_BUNDLE")):
        env = {right: str(bundle), wrong: str(other)}
        assert_found(discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, **env), node)


def bad_server(case: str, ca: Ca, address: str, directory: Path) -> ssl.SSLContext:
    if case == "an unknown CA":
        return context(Ca("somebody else's").issue(address), directory)
    if case == "an expired certificate":
        return context(ca.issue(address, begin=-2 * DAY, end=-DAY), directory)
    if case == "a certificate that isn't valid yet":
        return context(ca.issue(address, begin=DAY, end=2 * DAY), directory)
    if case == "another host's certificate":
        return context(ca.issue("192.0.2.1", "elsewhere.example"), directory)
    made = context(ca.issue(address), directory, "ALL:@SECLEVEL=0")  # OpenSSL itself refuses 1.1 at any other level
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_1
    return made


BAD_SERVERS = {
    "an unknown CA": ["not signed by a CA that is trusted here", "AWS_CA_BUNDLE"],
    "an expired certificate": ["its certificate has expired"],
    "a certificate that isn't valid yet": ["its certificate is not valid yet"],
    "another host's certificate": ["not valid for name", "elsewhere.example"],
    "TLS 1.1": ["it speaks neither TLS 1.2 nor 1.3"],
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("case", BAD_SERVERS)
def test_a_server_that_does_not_prove_itself_is_one_line_and_no_empty_listing(lab, node, ca, bundle, tmp_path, case):
    """Whoever sits on the way must not be able to say that there is no cluster."""
    with Ec2Front(lab.ec2.url, node.address, tls=bad_server(case, ca, node.address, tmp_path)) as front:
        done = discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, AWS_CA_BUNDLE=str(bundle))
        line = complaint(done, UNAVAILABLE)
        assert done.stdout == "" and f"{front.url}/: TLS: " in line
        assert all(word in line for word in BAD_SERVERS[case]), line
        assert not front.calls


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(lab, node, ca, bundle, tmp_path, version):
    """What AWS serves, and what else may stand before it."""
    tls = context(ca.issue(node.address), tmp_path)
    tls.minimum_version = tls.maximum_version = version
    with Ec2Front(lab.ec2.url, node.address, tls=tls) as front:
        assert_found(discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, AWS_CA_BUNDLE=str(bundle)), node)


def test_a_port_without_tls_is_no_empty_listing(lab, node):
    """https:// where http:// was meant."""
    with occupied(node.address, 8080, b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        done = discover(lab, node, AWS_ENDPOINT_URL_EC2=f"https://{node.address}:8080")
    assert "it does not speak TLS; is it plain HTTP?" in complaint(done, UNAVAILABLE) and done.stdout == ""


BAD_FILES = {
    "missing": ["the file does not exist"],
    "a directory": ["it is a directory, not a regular file"],
    "a pipe": ["it is a pipe, not a regular file"],
    "empty": ["is empty"],
    "a key": ["holds a private key, no certificate"],
    "DER": ["is DER, not PEM"],
    "cut": ["its PEM is damaged"],
    "no certificate inside": ["none of its 1 certificates can be read"],
}
NOT_DER = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def write_bad_file(case: str, ca: Ca, path: Path) -> None:
    content = {
        "empty": b"",
        "a key": ca.key_pem(),
        "DER": ca.pair.cert_der(),
        "cut": ca.cert_pem()[:200],
        "no certificate inside": NOT_DER,
    }
    if case == "a directory":
        path.mkdir()
    elif case == "a pipe":
        os.mkfifo(path)
    elif case in content:
        path.write_bytes(content[case])


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_of_cas_is_named_with_its_variable_and_the_reason(lab, node, front, ca, tmp_path, variable, case):
    """Which of the files that could be meant, and what is the matter with it."""
    path = tmp_path / "cas.pem"
    write_bad_file(case, ca, path)
    line = complaint(discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, **{variable: str(path)}), UNAVAILABLE)
    assert f"{variable}={path}: " in line and all(word in line for word in BAD_FILES[case]), line


def test_one_odd_certificate_spoils_no_bundle(lab, node, front, bundle):
    """A distribution's bundle holds some that are older than the rules: the others count, and the log says what doesn't."""
    bundle.write_bytes(NOT_DER + bundle.read_bytes())
    done = discover(lab, node, AWS_ENDPOINT_URL_EC2=front.url, AWS_CA_BUNDLE=str(bundle))
    assert_found(done, node)
    assert f"AWS_CA_BUNDLE={bundle}: 1 of its 2 certificates" in done.stderr


def test_a_fresh_node_holds_over_a_missing_file_and_goes_on_when_it_is_there(lab, node, front, bundle):
    """The file comes with the machine's configuration, maybe later than the unit: nothing is founded on what wasn't seen."""
    content = bundle.read_bytes()
    bundle.unlink()
    node.env.update(AWS_ENDPOINT_URL_EC2=front.url, AWS_CA_BUNDLE=str(bundle))
    start(node)
    wait_said(lab, node, "hold: ", f"AWS_CA_BUNDLE={bundle}: the file does not exist")
    wait_looks(lab, node, more=2)
    assert not node.etcd_pids() and not said(node, "propose: ") and not front.calls
    bundle.write_bytes(content)
    wait_formed(lab, node)


@pytest.mark.parametrize(("kind", "words"), [("missing", "the file does not exist"), ("a pipe", "it is a pipe, not a regular file")])
def test_a_node_with_data_starts_whatever_becomes_of_the_file(lab, node, front, bundle, kind, words):
    """Losing sight of EC2 keeps no etcd from restarting with its data, and a file that went missing is no more than that."""
    node.env.update(AWS_ENDPOINT_URL_EC2=front.url, AWS_CA_BUNDLE=str(bundle))
    start(node)
    cluster = wait_formed(lab, node)
    stop(node)
    bundle.unlink()
    if kind == "a pipe":
        os.mkfifo(bundle)
    since = mark(node)
    start(node)
    assert wait_formed(lab, node) == cluster
    assert said(node, words, since=since)
    assert stop(node) == 0


def test_the_claim_is_written_over_tls_too(lab, node, front, bundle):
    """S3 goes the same way as EC2."""
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket="claims", CreateBucketConfiguration={"LocationConstraint": REGION})
    lab.ec2.set_role_actions(*NODE_ACTIONS, "s3:GetObject", "s3:PutObject", "s3:ListBucket")
    node.env.update(
        AWS_ENDPOINT_URL_EC2=front.url,
        AWS_ENDPOINT_URL_S3=front.url,
        AWS_CA_BUNDLE=str(bundle),
        MUSTER_CLAIM="s3://claims/prod",
    )
    start(node)
    wait_formed(lab, node)
    assert front.calls["PUT"] >= 1 and s3.get_object(Bucket="claims", Key="prod/claim.json")


# By way of a proxy.


@pytest.fixture
def proxy(front):
    """It knows where EC2's public name is; here nothing else does."""
    with ConnectProxy(names={EC2: (front.address, front.port)}) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy, bundle) -> dict[str, str]:
    """EC2 by its public name, through the proxy."""
    return {"AWS_ENDPOINT_URL_EC2": "", "AWS_CA_BUNDLE": str(bundle), "HTTPS_PROXY": proxy.url}


def test_ec2s_public_endpoint_is_reached_through_the_proxy(lab, node, front, proxy, proxied):
    """A subnet without a way out but the proxy, which also looks up the names. The metadata service is never asked that way."""
    assert_found(discover(lab, node, **proxied), node)
    assert proxy.requests == {f"CONNECT {EC2}:443": 1} and proxy.tunnels == {f"{EC2}:443": 1}
    assert front.calls == {"DescribeInstances": 1}
    assert node.imds.requests["/latest/api/token"] == 1


@pytest.mark.parametrize("except_for", ["{address}", "127.0.0.0/8", "10.0.0.0/8, {address}", "*"])
def test_no_proxy_is_the_direct_way(lab, node, front, proxy, bundle, except_for):
    """A VPC endpoint is inside: an address, a block, or all."""
    env = {"AWS_CA_BUNDLE": str(bundle), "HTTPS_PROXY": proxy.url, "AWS_ENDPOINT_URL_EC2": front.url}
    through = {f"{front.address}:{front.port}": 1}
    assert_found(discover(lab, node, **env, NO_PROXY="192.0.2.0/24,elsewhere.example"), node)
    assert proxy.tunnels == through
    assert_found(discover(lab, node, **env, NO_PROXY=except_for.format(address=front.address)), node)
    assert proxy.tunnels == through, "the second call went straight"
    assert front.calls == {"DescribeInstances": 2}


def test_no_proxy_takes_names(lab, node, proxy, ca, bundle, tmp_path):
    """A host, with or without a dot before it."""
    (tmp_path / "localhost").mkdir()
    tls = context(ca.issue("localhost"), tmp_path / "localhost")
    with Ec2Front(lab.ec2.url, tls=tls) as front:
        env = {"AWS_CA_BUNDLE": str(bundle), "HTTPS_PROXY": proxy.url}
        env["AWS_ENDPOINT_URL_EC2"] = f"https://localhost:{front.port}"
        for name in ("localhost", "elsewhere.example,.localhost"):
            assert_found(discover(lab, node, **env, NO_PROXY=name), node)
        assert not proxy.requests
        assert_found(discover(lab, node, **env, NO_PROXY="host"), node)
        assert proxy.tunnels == {f"localhost:{front.port}": 1}


def test_lower_case_wins(lab, node, front, proxy, bundle):
    """As with curl and the AWS CLI."""
    env = {"AWS_CA_BUNDLE": str(bundle), "AWS_ENDPOINT_URL_EC2": front.url, "https_proxy": proxy.url}
    assert_found(discover(lab, node, **env, HTTPS_PROXY="http://127.0.0.1:9"), node)
    assert_found(discover(lab, node, **env, no_proxy="elsewhere.example", NO_PROXY="*"), node)
    assert proxy.tunnels == {f"{front.address}:{front.port}": 2}


def test_a_plain_endpoint_is_reached_without_the_proxy(lab, node, proxy):
    """AWS_ENDPOINT_URL=http://… is something local, if anything."""
    assert_found(discover(lab, node, HTTPS_PROXY=proxy.url, HTTP_PROXY=proxy.url), node)
    assert not proxy.requests


def test_a_container_s_credentials_do_not_come_through_the_proxy(lab, node, proxy, proxied, ca, tmp_path):
    """The endpoint is the node's own agent, https or not."""
    session = lab.ec2.role_credentials()
    document = {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key,
        "Token": session.token,
        "Expiration": "2099-01-01T00:00:00Z",
    }
    (tmp_path / "agent").mkdir()
    tls = context(ca.issue(node.address), tmp_path / "agent")
    with HttpServer(node.address, 0, lambda request: Reply(200, json.dumps(document).encode()), tls) as agent:
        env = {**proxied, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/creds", "AWS_REGION": REGION}
        assert_found(discover(lab, node, **env), node)
    assert proxy.requests == {f"CONNECT {EC2}:443": 1}
    assert not node.imds.requests


def test_members_are_never_reached_through_the_proxy(lab, proxy, proxied, node):
    """Neither ours nor etcd's traffic between members: a cluster forms and grows, and the proxy has seen EC2's name alone."""
    lab.env.update(proxied, MUSTER_CLUSTER_SIZE="2")
    node.env.update(lab.env)
    other = lab.add_node()
    start(node, other)
    wait_formed(lab, node, other)
    assert set(proxy.requests) == {f"CONNECT {EC2}:443"}
    for one in (node, other):
        assert b"PROXY" not in Path(f"/proc/{etcd_pid(one)}/environ").read_bytes().upper()


SECRET = "hunter2%40here"


def test_a_proxy_that_wants_a_password_gets_it_and_nobody_else_does(lab, node, proxy, proxied):
    """http://user:password@host:port, with what a URL can't hold percent-encoded; no log line has it, at any level."""
    proxy.login = ("etcd", "hunter2@here")
    env = {**proxied, "HTTPS_PROXY": proxy.url_for("etcd", SECRET), "MUSTER_LOG": "trace"}
    done = discover(lab, node, **env)
    assert_found(done, node)
    assert "hunter2" not in done.stdout + done.stderr
    wrong = discover(lab, node, **{**env, "MUSTER_LOG": "info", "HTTPS_PROXY": proxy.url_for("etcd", "hunter2wrong")})
    line = complaint(wrong, UNAVAILABLE)
    assert f"proxy {proxy.url}: answers 407" in line and "check the user and the password in HTTPS_PROXY" in line
    assert "NO_PROXY" in line and "hunter2" not in line and wrong.stdout == ""
    line = complaint(discover(lab, node, **proxied), UNAVAILABLE)
    assert f"proxy {proxy.url}: answers 407" in line and "http://user:password@host:port" in line


PROXY_PORT = 3128
BAD_PROXIES = {
    "refuses": ["answers 403", f"allow {EC2}:443"],
    "finds nothing": ["answers 502", f"allow {EC2}:443"],
    "hangs up": ["closed without an answer"],
    "speaks something else": ["not the expected HTTP"],
    "is silent": ["no answer within 4000 ms"],
    "is gone": ["connection refused", "set HTTPS_PROXY right"],
}


def bad_proxy(case: str, address: str):
    replies = {"refuses": Reply(403), "finds nothing": Reply(502), "hangs up": None}
    if case in replies:
        return HttpServer(address, PROXY_PORT, lambda request: replies[case])
    if case == "is gone":
        return nullcontext()
    return occupied(address, PROXY_PORT, b"220 mail.example ESMTP\r\n" if case == "speaks something else" else None)


@pytest.mark.parametrize("case", BAD_PROXIES)
def test_a_proxy_that_does_not_do_its_work_is_named(lab, node, proxied, case):
    """One line: which proxy, what it did, and the way out; never an empty listing."""
    url = f"http://{node.address}:{PROXY_PORT}"
    with bad_proxy(case, node.address):
        done = discover(lab, node, **{**proxied, "HTTPS_PROXY": url})
    line = complaint(done, UNAVAILABLE)
    assert f"https://{EC2}/: unreachable: proxy {url}: " in line and f"or name {EC2} in NO_PROXY" in line
    assert all(words in line for words in BAD_PROXIES[case]), line
    assert done.stdout == ""


def test_what_fails_behind_a_proxy_names_it_too(lab, node, proxy, proxied, ca, tmp_path):
    """One that looks inside speaks with a certificate of its own: AWS_CA_BUNDLE is the way out there."""
    (tmp_path / "inside").mkdir()
    tls = context(Ca("the proxy's own").issue(EC2), tmp_path / "inside")
    with Ec2Front(lab.ec2.url, node.address, tls=tls) as inside:
        proxy.names[EC2] = (inside.address, inside.port)
        line = complaint(discover(lab, node, **proxied), UNAVAILABLE)
    assert "not signed by a CA" in line and "AWS_CA_BUNDLE" in line and f"through proxy {proxy.url}" in line


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://etcd:hunter2@proxy:3129", "only a proxy that is spoken to over plain http"),
        ("socks5h://etcd:hunter2@proxy:1080", "only a proxy that is spoken to over plain http"),
        ("proxy:3128", "is not a proxy URL"),
        ("http://proxy", "is not a proxy URL"),
        ("http://etcd:hunter2", "is not a proxy URL"),
    ],
)
def test_a_proxy_that_is_none_is_a_wrong_setting(lab, node, url, words):
    """Going on without the proxy would look like a firewall's fault. The value isn't shown: it may hold a password."""
    for variable in ("HTTPS_PROXY", "https_proxy"):
        done = command(lab, node, "run", **{variable: url})
        line = complaint(done, CONFIG)
        assert f"{variable}=…: {words}" in line and "http://host:port" in line
        assert "hunter2" not in done.stdout + done.stderr


# Parameter Store.

KEY = "-----BEGIN PRIVATE KEY-----\nnobody is to see this\n-----END PRIVATE KEY-----\n"
NAME = "/etcd/ca-key"
SSM = f"ssm.{REGION}.amazonaws.com"
ROLE_PATH = f"/latest/meta-data/iam/security-credentials/{ROLE}"


@pytest.fixture(scope="session")
def reader() -> Path:
    """The program's own code in a frame of a few lines, built in the profile that the unit tests are run in."""
    build = ["cargo", "build", "--locked", "--example", "parameter", "--message-format=json"]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = (json.loads(line) for line in done.stdout.splitlines())
    return Path(next(one["executable"] for one in built if one.get("target", {}).get("name") == "parameter"))


@pytest.fixture
def parameter(lab, node):
    """The parameter, as an administrator made it, and a node that may read it."""
    lab.ec2.client("ssm").put_parameter(Name=NAME, Value=KEY, Type="SecureString")
    lab.ec2.set_role_actions(*NODE_ACTIONS, "ssm:GetParameter")
    node.env["AWS_ENDPOINT_URL_SSM"] = node.front.url
    return NAME


def read(reader, node, name=NAME, **env):
    variables = {**node.environment(), "MUSTER_LOG": "info", **env}
    done = subprocess.run([str(reader), name], env=variables, capture_output=True, text=True, timeout=BOUND)
    assert "nobody is to see this" not in done.stdout + done.stderr
    return done


def assert_read(done) -> None:
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout.split() == ["Secret(…)", hashlib.sha256(KEY.encode()).hexdigest()]


def test_a_parameter_is_read_with_the_roles_credentials(reader, node, parameter):
    """What the instance may read it reads, signed and decrypted, and no log line at any level has it."""
    assert_read(read(reader, node, MUSTER_LOG="trace"))
    assert node.front.calls == {"GetParameter": 1} and node.imds.requests[ROLE_PATH] == 1


def test_a_parameter_is_read_at_its_public_endpoint_through_a_proxy(reader, node, parameter, lab, ca, bundle, tmp_path):
    """As in a subnet without a way out."""
    with Ec2Front(lab.ec2.url, node.address, tls=context(ca.issue(SSM), tmp_path)) as front:
        with ConnectProxy(names={SSM: (front.address, front.port)}) as proxy:
            env = {"AWS_ENDPOINT_URL_SSM": "", "AWS_CA_BUNDLE": str(bundle), "HTTPS_PROXY": proxy.url}
            assert_read(read(reader, node, **env))
            assert proxy.requests == {f"CONNECT {SSM}:443": 1}


def refusal(code: str, message: str = "") -> Reply:
    """As Systems Manager words it."""
    document = {"__type": code, "message": message}
    return Reply(400, json.dumps(document).encode(), content_type="application/x-amz-json-1.1")


def refused(code: str, message: str = "") -> Rule:
    return lambda call, proceed: refusal(code, message)


def test_a_denial_names_the_statement_that_is_missing(reader, node, parameter, lab):
    """Asked once, for no is no."""
    lab.ec2.set_role_actions(*NODE_ACTIONS)
    line = complaint(read(reader, node), DENIED)
    assert f"ssm:GetParameter of {NAME} in {REGION}: AccessDeniedException (400 Bad Request)" in line
    arn = f"arn:aws:ssm:{REGION}:*:parameter/etcd/ca-key"
    statement = {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": arn}
    assert json.loads(field(line, r"(\{.*\})")) == statement and "kms:Decrypt" in line
    assert node.front.calls == {"GetParameter": 1}


def test_a_wrong_secret_is_a_denial(reader, node, parameter, lab):
    """The signature is checked, so what passes above is a right one."""
    session = lab.ec2.role_credentials()
    env = {"AWS_ACCESS_KEY_ID": session.access_key_id, "AWS_SESSION_TOKEN": session.token}
    assert_read(read(reader, node, **env, AWS_SECRET_ACCESS_KEY=session.secret_access_key))
    line = complaint(read(reader, node, **env, AWS_SECRET_ACCESS_KEY="wrong"), DENIED)
    assert "InvalidSignatureException" in line and "check the access key" in line


def test_a_parameter_that_is_not_there_is_named_with_its_region(reader, node, parameter):
    """A typo, or another region: both are in the line."""
    line = complaint(read(reader, node, "/etcd/ca-kye"), UNAVAILABLE)
    assert f"there is no parameter /etcd/ca-kye in {REGION}" in line and "DOCKER_AWSREG" in line
    assert node.front.calls == {"GetParameter": 1}


def test_throttling_and_trouble_on_the_way_are_tried_again_and_not_for_ever(reader, node, parameter):
    """As with EC2: three attempts."""
    for trouble in (refused("ThrottlingException"), unavailable(), dropped()):
        node.front.calls.clear()
        node.front.add(trouble, calls=2)
        assert_read(read(reader, node))
        assert node.front.calls == {"GetParameter": 3}
    node.front.calls.clear()
    node.front.add(refused("ThrottlingException"))
    assert "ThrottlingException" in complaint(read(reader, node), UNAVAILABLE)
    assert node.front.calls == {"GetParameter": 3}


def test_a_session_that_ran_out_is_had_anew_once(reader, node, parameter):
    """The role's next session is at the metadata service already."""
    expired = refused("ExpiredTokenException", "The security token included in the request is expired")
    node.front.add(expired, calls=1)
    assert_read(read(reader, node))
    assert node.imds.requests[ROLE_PATH] == 2
    node.front.add(expired)
    assert "the session token has expired, renew it" in complaint(read(reader, node), DENIED)
    assert node.front.calls == {"GetParameter": 4}


def test_a_clock_that_is_off_is_put_right_by_awss_own(reader, node, parameter):
    """Signed again by the time of its Date header."""
    expired = refusal("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than …")
    node.front.add(skewed_clock(timedelta(hours=1), expired))
    assert_read(read(reader, node))
    assert node.front.calls == {"GetParameter": 2}


@pytest.mark.parametrize(
    "answer",
    [
        b'{"Parameter": "nobody is to see this"}',
        b'{"Parameter": {"Value": ["nobody is to see this"]}}',
        b'{"Parameter": {"Name": "/etcd/ca-key"}}',
        b"nobody is to see this",
        b"<html>a portal's page</html>",
        b"",
    ],
)
def test_an_answer_that_cannot_be_read_is_no_value_and_shows_none(reader, node, parameter, answer):
    """Neither a half value nor somebody else's page is a key."""
    node.front.add(lambda call, proceed: Reply(200, answer))
    assert f"{node.front.url}: the answer is not GetParameter's JSON (line " in complaint(read(reader, node), UNAVAILABLE)
