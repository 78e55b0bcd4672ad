"""The proxy tunnels for who may, and the servers behind it speak TLS: checked with the standard library's client."""

import base64
import http.client
import ssl

import pytest
from botocore.exceptions import ClientError
from muster_tools.lab.connect_proxy import ConnectProxy
from muster_tools.lab.http_server import HttpServer, Reply
from muster_tools.lab.pki import Ca

NAME = "ec2.example"


@pytest.fixture
def ca():
    return Ca()


@pytest.fixture
def server(ca, tmp_path):
    cert, key = tmp_path / "server.crt", tmp_path / "server.key"
    ca.issue(NAME).write(cert, key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with HttpServer("127.0.0.1", 0, lambda request: Reply(200, request.target.encode()), tls) as server:
        yield server


def get(proxy, ca, headers=None):
    trust = ssl.create_default_context(cadata=ca.cert_pem().decode())
    connection = http.client.HTTPSConnection("127.0.0.1", int(proxy.url.rpartition(":")[2]), timeout=5, context=trust)
    connection.set_tunnel(NAME, 443, headers)
    try:
        connection.request("GET", "/hello")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_it_tunnels_by_its_own_names_and_counts(server, ca):
    with ConnectProxy(names={NAME: (server.address, server.port)}) as proxy:
        assert get(proxy, ca) == b"/hello" and get(proxy, ca) == b"/hello"
        assert proxy.tunnels == {f"{NAME}:443": 2} and proxy.requests == {f"CONNECT {NAME}:443": 2}


def test_it_wants_its_login(server, ca):
    with ConnectProxy(names={NAME: (server.address, server.port)}, login=("etcd", "hunter2")) as proxy:
        for headers in (None, {"Proxy-Authorization": "Basic " + base64.b64encode(b"etcd:wrong").decode()}):
            with pytest.raises(OSError, match="407"):
                get(proxy, ca, headers)
        assert not proxy.tunnels
        right = {"Proxy-Authorization": "Basic " + base64.b64encode(b"etcd:hunter2").decode()}
        assert get(proxy, ca, right) == b"/hello"


def test_what_is_not_there_is_a_502(server, ca):
    with HttpServer("127.0.0.1", 0, lambda request: None) as gone:
        nobody = (gone.address, gone.port)
    with ConnectProxy(names={NAME: nobody}) as proxy, pytest.raises(OSError, match="502"):
        get(proxy, ca)


def test_json_services_refuse_in_json_as_awss_do(ec2):
    """The right is missing in the role, which is asked in its own protocol."""
    with pytest.raises(ClientError) as refused:
        ec2.client("ssm", ec2.role_credentials()).get_parameter(Name="/x", WithDecryption=True)
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
