"""Certificates of the lab's own making: CAs, and what they issue, good or bad in each way a test may want."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH

KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}

BEGIN = timedelta(hours=-1)  # a clock that is a little behind is no test's subject
LIFE = timedelta(days=365)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, and the intermediate certificates that belong with it, its issuer first."""

    certificate: x509.Certificate
    key: Any
    chain: tuple[x509.Certificate, ...] = ()

    def cert_pem(self) -> bytes:
        """The certificate, then its chain: the order that TLS asks for."""
        return pem(self.certificate, *self.chain)

    def cert_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, traditional: bool = False) -> bytes:
        """PKCS #8; traditional: PKCS #1 for RSA, SEC 1 for elliptic curves, as older tools write them."""
        kinds = serialization.PrivateFormat
        kind = kinds.TraditionalOpenSSL if traditional else kinds.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())

    def write(self, cert: Path, key: Path) -> None:
        """Both as PEM, each in one rename: who reads them now sees old ones or new ones, and nothing half written."""
        replace_file(key, self.key_pem())
        replace_file(cert, self.cert_pem())


class Ca:
    """Issues certificates: `Ca("lab").issue("127.0.0.1", "localhost")`.

    With `issuer` it is an intermediate one. With `is_ca=False` its own certificate says that it is none.
    """

    def __init__(
        self,
        name: str = "lab CA",
        key: str = "P-256",
        begin: timedelta = BEGIN,
        end: timedelta = LIFE,
        issuer: Ca | None = None,
        is_ca: bool = True,
    ):
        made = KEYS[key]()
        by = issuer.pair if issuer is not None else None
        certificate = _certificate(name, made.public_key(), by, made, (begin, end), _ca_extensions(is_ca))
        above = issuer.chain if issuer is not None else ()
        self.pair = Pair(certificate, made, above)
        # What its leaves bring along; nothing from a root, which the other side has already.
        self.chain = (certificate, *above) if issuer is not None else ()

    def cert_pem(self) -> bytes:
        return pem(self.pair.certificate)

    def key_pem(self, traditional: bool = False) -> bytes:
        return self.pair.key_pem(traditional)

    def issue(
        self,
        *names: str,
        common_name: str = "",
        usages: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT),
        key: str = "P-256",
        begin: timedelta = BEGIN,
        end: timedelta = LIFE,
    ) -> Pair:
        """A leaf for these addresses and DNS names, valid from now + `begin` to now + `end`."""
        made = KEYS[key]()
        extensions = _leaf_extensions(names, usages, is_named=bool(common_name))
        certificate = _certificate(common_name, made.public_key(), self.pair, self.pair.key, (begin, end), extensions)
        return Pair(certificate, made, self.chain)


def self_signed(*names: str, key: str = "P-521", begin: timedelta = BEGIN, end: timedelta = LIFE) -> Pair:
    """As etcd makes them for itself: no CA, for servers only, its own issuer."""
    made = KEYS[key]()
    extensions = _leaf_extensions(names, (SERVER,))
    return Pair(_certificate("etcd", made.public_key(), None, made, (begin, end), extensions), made)


def pem(*certificates: x509.Certificate) -> bytes:
    """These certificates in this order: a chain, or a bundle."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def san(certificate: x509.Certificate) -> set[str]:
    """The addresses and DNS names that it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name) for kind in (x509.DNSName, x509.IPAddress) for name in names.get_values_for_type(kind)}


def usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Whole at once: the old content is there until the new one is."""
    beside = path.with_name(f".{path.name}.new")
    beside.touch(mode)
    beside.write_bytes(content)
    beside.replace(path)


def _certificate(
    name: str,
    public_key: Any,
    issuer: Pair | None,
    signer: Any,
    validity: tuple[timedelta, timedelta],
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """Without an issuer, its own."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    issuer_name = _name(name) if issuer is None else issuer.certificate.subject
    signer = signer if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + validity[0])
        .not_valid_after(now + validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, digest)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _ca_extensions(is_ca: bool) -> list[tuple[x509.ExtensionType, bool]]:
    return [
        (x509.BasicConstraints(ca=is_ca, path_length=None), True),
        (_key_usage(signs_certificates=is_ca), True),
    ]


def _leaf_extensions(
    names: tuple[str, ...], wanted: tuple[x509.ObjectIdentifier, ...], is_named: bool = True
) -> list[tuple[x509.ExtensionType, bool]]:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
    ]
    if wanted:
        extensions.append((x509.ExtendedKeyUsage(wanted), False))
    if names:
        # Critical where nothing else names it (RFC 5280, 4.2.1.6).
        extensions.append((x509.SubjectAlternativeName([_general_name(name) for name in names]), not is_named))
    return extensions


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
