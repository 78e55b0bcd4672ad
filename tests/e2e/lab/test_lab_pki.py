"""The lab's certificates are what they claim to be, to a TLS library that is not ours."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, suppress
from datetime import timedelta

import pytest
from cryptography import x509
from muster_tools.lab import pki
from muster_tools.lab.pki import CLIENT, KEYS, SERVER, Ca, Pair
from muster_tools.lab.security import blind_context, trusting_context

ADDRESS = "127.0.3.11"
NAMES = (ADDRESS, "db.internal")
PAST = {"begin": timedelta(days=-2), "end": timedelta(days=-1)}
FUTURE = {"begin": timedelta(days=1), "end": timedelta(days=2)}


def server_context(folder, chain: bytes, pair: Pair, clients: Ca | None = None) -> ssl.SSLContext:
    cert, key = folder / "server.crt", folder / "server.key"
    cert.write_bytes(chain)
    key.write_bytes(pair.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.cert_pem().decode())
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = ADDRESS) -> x509.Certificate:
    """The certificate that was served, once both sides were content."""
    with socket.create_server((ADDRESS, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with suppress(OSError), closing(server.wrap_socket(connection, server_side=True)) as secured:
                secured.sendall(b"welcome")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), 5) as connection:
                with client.wrap_socket(connection, server_hostname=name) as secured:
                    if not secured.recv(7):
                        raise ssl.SSLError("no welcome")  # in TLS 1.3 a server's refusal comes after the handshake
                    return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True))
        finally:
            thread.join()


@pytest.mark.parametrize("key", KEYS)
def test_a_leaf_of_each_key_type_verifies(tmp_path, key):
    ca = Ca(key=key)
    leaf = ca.issue(*NAMES, key=key)
    client = trusting_context(ca, ca.issue(key=key))
    served = handshake(server_context(tmp_path, leaf.cert_pem(), leaf, ca), client)
    assert served == leaf.certificate and pki.san(served) == set(NAMES) and pki.usages(served) == {SERVER, CLIENT}
    handshake(server_context(tmp_path, leaf.cert_pem(), leaf), client, "db.internal")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (PAST, "certificate has expired"),
        (FUTURE, "certificate is not yet valid"),
        ({"usages": (CLIENT,)}, "unsuitable certificate purpose"),
    ],
)
def test_a_bad_leaf_is_refused(tmp_path, wanted, words):
    ca = Ca()
    leaf = ca.issue(*NAMES, **wanted)
    with pytest.raises(ssl.SSLCertVerificationError, match=words):
        handshake(server_context(tmp_path, leaf.cert_pem(), leaf), trusting_context(ca))


def test_another_ca_or_another_name_is_refused(tmp_path):
    ca = Ca()
    leaf = ca.issue(*NAMES)
    server = server_context(tmp_path, leaf.cert_pem(), leaf)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(server, trusting_context(ca), "127.0.3.12")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, trusting_context(Ca()))


def test_a_client_needs_the_usage_and_the_ca(tmp_path):
    ca = Ca()
    leaf = ca.issue(*NAMES)
    server = server_context(tmp_path, leaf.cert_pem(), leaf, clients=ca)
    for pair in (None, Ca().issue(), ca.issue(usages=(SERVER,)), ca.issue(**PAST)):
        with pytest.raises(ssl.SSLError):
            handshake(server, trusting_context(ca, pair))
    handshake(server, trusting_context(ca, ca.issue(usages=(CLIENT,))))


def test_a_chain_of_intermediates_verifies_in_its_order_only(tmp_path):
    root = Ca("root")
    lower = Ca("lower", issuer=Ca("upper", issuer=root))
    leaf = lower.issue(*NAMES)
    assert [one.subject.rfc4514_string() for one in leaf.chain] == ["CN=lower", "CN=upper"]
    handshake(server_context(tmp_path, leaf.cert_pem(), leaf), trusting_context(root))
    # The key fits the first certificate of a file, or the file is refused.
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        server_context(tmp_path, pki.pem(*leaf.chain, leaf.certificate), leaf)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(tmp_path, pki.pem(leaf.certificate), leaf), trusting_context(root))


def test_what_is_no_ca_vouches_for_nobody(tmp_path):
    no_ca = Ca(is_ca=False)
    leaf = no_ca.issue(*NAMES)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(tmp_path, leaf.cert_pem(), leaf), trusting_context(no_ca))


def test_a_self_signed_one_is_its_own_and_only_the_blind_take_it(tmp_path):
    leaf = pki.self_signed(ADDRESS)
    assert leaf.certificate.issuer == leaf.certificate.subject and pki.usages(leaf.certificate) == {SERVER}
    server = server_context(tmp_path, leaf.cert_pem(), leaf)
    handshake(server, blind_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, trusting_context(Ca()))


@pytest.mark.parametrize(("key", "begins"), [("P-256", b"EC PRIVATE KEY"), ("RSA", b"RSA PRIVATE KEY")])
def test_keys_in_the_older_spelling(key, begins):
    ca = Ca(key=key)
    assert begins in ca.key_pem(traditional=True) and b"BEGIN PRIVATE KEY" in ca.key_pem()


def test_files_are_replaced_whole_and_private(tmp_path):
    cert, key = tmp_path / "a.crt", tmp_path / "a.key"
    ca = Ca()
    for _ in range(2):
        pair = ca.issue()
        pair.write(cert, key)
        assert (cert.read_bytes(), key.read_bytes()) == (pair.cert_pem(), pair.key_pem())
    assert key.stat().st_mode & 0o777 == 0o600 and len(list(tmp_path.iterdir())) == 2
