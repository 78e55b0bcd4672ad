"""How a fleet speaks to its clients and to itself: plain, or TLS in one of three ways, for each port by itself."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from muster_tools.lab.pki import Ca, Pair, replace_file

PLAIN = "plain"
FILES = "files"  # own files in ED_SSL
AUTO = "auto"  # etcd's own self-signed certificates
MINTED = "minted"  # the supervisor issues them, with a CA's key
MODES = (PLAIN, FILES, AUTO, MINTED)

SIDES = ("client", "peer")
LOOPBACK = "127.0.0.1"  # also where connections within 127.0.0.0/8 come from, whatever they go to
SCHEMA = {"client": "CLNT_SCHEMA", "peer": "PEER_SCHEMA"}
AUTOMATIC = {"client": "ETCD_AUTO_TLS", "peer": "ETCD_PEER_AUTO_TLS"}


class Security:
    """`Security(client=FILES, peer=AUTO)`; what isn't named is plain.

    Own files of each side come from a CA of its own; both sides' minted certificates from a third, whose key is in a
    file of each node, or where `ca_key` says.
    """

    def __init__(self, client: str = PLAIN, peer: str = PLAIN, ca_key: str | None = None):
        self.modes = {"client": client, "peer": peer}
        self.mints = MINTED in (client, peer)
        self._ca_key = ca_key
        minting = Ca("minting CA") if self.mints else None
        own = {side: Ca(f"{side} CA") for side in SIDES if self.modes[side] == FILES}
        self._cas = {side: minting if self.modes[side] == MINTED else own.get(side) for side in SIDES}
        self._contexts = {side: self.context(side) for side in SIDES}

    def ca(self, side: str) -> Ca:
        """Who vouches for this side's certificates, where anybody does."""
        ca = self._cas[side]
        assert ca is not None, f"the {side} side is {self.modes[side]}: there is no CA"
        return ca

    def scheme(self, side: str) -> str:
        return "http" if self.modes[side] == PLAIN else "https"

    # To talk to it.

    def client(self, side: str) -> ssl.SSLContext | None:
        """What a client that may do everything uses; None where TLS isn't spoken."""
        return self._contexts[side]

    def context(self, side: str, certified: bool = True) -> ssl.SSLContext | None:
        """A new one; `certified` with a client certificate, where a CA asks for one."""
        if self.modes[side] == PLAIN:
            return None
        if self.modes[side] == AUTO:
            return blind_context()
        ca = self.ca(side)
        # Without addresses it may come from anywhere; with a CommonName etcd's JSON gateway would refuse it under
        # authentication, since it can't act as that user.
        return trusting_context(ca, ca.issue() if certified else None)

    # To set up a node.

    def environment(self, node_directory: Path) -> dict[str, str]:
        variables = {}
        for side, mode in self.modes.items():
            if mode == AUTO:
                variables[AUTOMATIC[side]] = "true"
            elif mode == MINTED:
                variables[SCHEMA[side]] = "https"
        if self.mints:
            variables["MUSTER_CA_CERT"] = str(node_directory / "ca.crt")
            variables["MUSTER_CA_KEY"] = self._ca_key or str(node_directory / "ca.key")
        return variables

    def equip(self, node_directory: Path, *names: str) -> None:
        """The files that `environment` counts on, and none that would mean another mode.

        Own certificates are for these addresses and names.
        """
        for side, mode in self.modes.items():
            own = (*own_files(node_directory, side), own_ca(node_directory, side))
            if mode == FILES:
                self.issue(side, *names).write(*own[:2])
                replace_file(own[2], self.ca(side).cert_pem())
            else:
                for path in own:
                    path.unlink(missing_ok=True)
            if mode == MINTED:
                replace_file(node_directory / "ca.crt", self.ca(side).cert_pem())
                if self._ca_key is None:
                    replace_file(node_directory / "ca.key", self.ca(side).key_pem())

    def issue(self, side: str, *names: str) -> Pair:
        """A member's certificate; a member is a client of the others, and on one machine all come from loopback."""
        return self.ca(side).issue(*names, LOOPBACK, common_name="member")

    def etcd_flags(self, node_directory: Path) -> list[str]:
        """The same for an etcd without a supervisor: its own files, or automatic ones."""
        flags = []
        for side, prefix in (("client", ""), ("peer", "peer-")):
            if self.modes[side] == AUTO:
                flags.append(f"--{prefix}auto-tls")
            elif self.modes[side] == FILES:
                cert, key = own_files(node_directory, side)
                ca = own_ca(node_directory, side)
                flags += [f"--{prefix}cert-file={cert}", f"--{prefix}key-file={key}"]
                flags += [f"--{prefix}trusted-ca-file={ca}", f"--{prefix}client-cert-auth"]
            elif self.modes[side] == MINTED:
                raise ValueError("etcd alone mints nothing")
        return flags


def own_files(node_directory: Path, side: str) -> tuple[Path, Path]:
    """Where a side's own certificate and key lie."""
    return node_directory / "ssl" / f"{side}.crt", node_directory / "ssl" / f"{side}.key"


def own_ca(node_directory: Path, side: str) -> Path:
    return node_directory / "ssl" / f"{side}_ca.crt"


def trusting_context(ca: Ca, pair: Pair | None = None) -> ssl.SSLContext:
    """Servers are verified against this CA, and the pair is shown to those that ask for one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.cert_pem().decode())
    _show(context, pair)
    return context


def blind_context(pair: Pair | None = None) -> ssl.SSLContext:
    """Any server will do: automatic certificates are vouched for by nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _show(context, pair)
    return context


def _show(context: ssl.SSLContext, pair: Pair | None) -> None:
    if pair is None:
        return
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads a key from a file only
        cert, key = Path(folder, "crt"), Path(folder, "key")
        pair.write(cert, key)
        context.load_cert_chain(cert, key)
