"""Real etcds serve and take the lab's certificates: what fails in a test of the product is then not the lab's."""

from __future__ import annotations

import ssl

import pytest
from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.node import Lab, static_list_arguments
from muster_tools.lab.security import AUTO, FILES, MINTED, PLAIN, SIDES, Security

CA_FILES = (("CERT", "crt"), ("KEY", "key"))


@pytest.mark.parametrize(("client", "peer"), [(FILES, FILES), (AUTO, PLAIN), (PLAIN, AUTO)])
def test_plain_etcds_in_every_mode_of_their_own(client, peer):
    security = Security(client, peer)
    with Lab() as lab:
        lab.security = security
        nodes = [lab.add_node(launch=False) for _ in range(3)]
        for node in nodes:
            node.start_plain_etcd(static_list_arguments(node, nodes))
        lab.wait(lambda: all(node.etcd.health() for node in nodes), 20, "three healthy etcds")
        one, other, _ = (node.etcd for node in nodes)
        one.put("key", "value")
        assert other.get("key") == "value"
        assert {url for member in one.peer_members() for url in member.peer_urls} == {node.peer_url for node in nodes}
        assert {url for member in one.members() for url in member.client_urls} == {node.client_url for node in nodes}
        stranger = EtcdClient(
            one.address,
            client_tls=security.context("client", certified=False),
            peer_tls=security.context("peer", certified=False),
        )
        for side, ask in (("client", stranger.members), ("peer", stranger.peer_version)):
            if security.modes[side] == FILES:
                with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
                    ask()
            else:
                ask()
        plain = EtcdClient(one.address)
        for side, ask in (("client", plain.members), ("peer", plain.peer_version)):
            if security.modes[side] != PLAIN:
                with pytest.raises(NOT_YET):
                    ask()


def test_what_a_node_is_given():
    """Nothing for plain; a switch for automatic; the CA and the schema for minted; files in ED_SSL for own ones."""
    with Lab() as lab:
        bare = lab.add_node(launch=False).environment()
        given = {}
        for mode in (PLAIN, FILES, AUTO, MINTED):
            lab.security = Security(client=mode, peer=mode)
            node = lab.add_node(launch=False)
            tls = {name: value for name, value in node.environment().items() if name not in bare}
            given[mode] = tls, sorted(path.name for path in node.ssl.iterdir())
        minted = {"CLNT_SCHEMA": "https", "PEER_SCHEMA": "https"}
        minted.update({f"MUSTER_CA_{kind}": str(node.directory / f"ca.{end}") for kind, end in CA_FILES})
        assert given == {
            PLAIN: ({}, []),
            FILES: ({}, sorted(f"{side}{rest}" for side in SIDES for rest in (".crt", ".key", "_ca.crt"))),
            AUTO: ({"ETCD_AUTO_TLS": "true", "ETCD_PEER_AUTO_TLS": "true"}, []),
            MINTED: (minted, []),
        }
        assert node.peer_url == f"https://{node.address}:2380" and node.client_url == f"https://{node.address}:2379"
