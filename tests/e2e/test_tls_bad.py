"""Wrong certificates, and members that don't speak alike: named, waited for, and never taken for "no cluster"."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
from certificates import fleets_of_one
from fleet import (
    BOUND,
    command,
    complaint,
    form,
    launch,
    lines,
    mark,
    member_ids,
    rank,
    said,
    start,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab import pki
from muster_tools.lab.ec2_faults import impaired
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.pki import CLIENT, SERVER, Ca
from muster_tools.lab.security import AUTO, AUTOMATIC, FILES, MINTED, PLAIN, SCHEMA, SIDES, Security, own_ca, own_files

CONFIG = 78
PAST = {"begin": timedelta(days=-3), "end": timedelta(days=-1)}
NOT_YET_VALID = ["not valid before", "not yet valid", "valid from"]
UNFIT = ["match", "belong", "fit"]
FUTURE = {"begin": timedelta(days=1), "end": timedelta(days=3)}


def no_etcd_ran(*nodes: Node) -> bool:
    return not any(node.etcd_pids() or said(node, "etcd runs as process") for node in nodes)


def hold_over(lab: Lab, wrong: dict[str, tuple[Node, Path, list[str]]]) -> None:
    """Each names its file and what is wrong with it, once, and goes on waiting; all that don't are named together."""
    reasons = {what: wait_said(lab, node, "hold: ", str(path)) for what, (node, path, _) in wrong.items()}
    rounds = [0]

    def waited_on() -> bool:
        rounds[0] += 1
        return rounds[0] > 25  # some pauses between two looks

    lab.wait(waited_on, BOUND, "nodes that wait")
    faults = {}
    for what, (node, path, words) in wrong.items():
        told = [line for line in lines(node) if "hold: " in line and str(path) in line]
        if told != [reasons[what]] or not any(word in reasons[what] for word in words):
            faults[what] = told
        if not no_etcd_ran(node) or not node.runs():
            faults[what] = node.log_tail()
    assert not faults


def mend(lab: Lab, *nodes: Node) -> None:
    """Right files for all of them, and nothing else."""
    for node in nodes:
        node.secure(node.security)
    for node in nodes:
        wait_formed(lab, node)
        assert node.process.exit_code() is None


# One node's files.


def issue(*names: str, **wanted: Any) -> Callable[[Node, str], Path]:
    """A certificate from the right CA, otherwise as said here."""

    def spoil(node: Node, side: str) -> Path:
        cert, key = own_files(node.directory, side)
        node.security.ca(side).issue(*(names or (node.address, "127.0.0.1")), **wanted).write(cert, key)
        return cert

    return spoil


def by_another_ca(node: Node, side: str) -> Path:
    cert, key = own_files(node.directory, side)
    Ca("another CA").issue(node.address, "127.0.0.1").write(cert, key)
    return cert


def anothers_key(node: Node, side: str) -> Path:
    cert, key = own_files(node.directory, side)
    key.write_bytes(node.security.issue(side, node.address).key_pem())
    return key


def cert_and_key_swapped(node: Node, side: str) -> Path:
    cert, key = own_files(node.directory, side)
    between = cert.rename(node.ssl / "between")
    key.rename(cert)
    between.rename(key)
    return cert


def cert_as_der(node: Node, side: str) -> Path:
    (cert, key), pair = own_files(node.directory, side), node.security.issue(side, node.address)
    cert.write_bytes(pair.cert_der())
    key.write_bytes(pair.key_pem())
    return cert


def emptied(which: int) -> Callable[[Node, str], Path]:
    def spoil(node: Node, side: str) -> Path:
        path = (*own_files(node.directory, side), own_ca(node.directory, side))[which]
        path.write_bytes(b"")
        return path

    return spoil


def directory_in_place_of(which: int) -> Callable[[Node, str], Path]:
    """What root can't read either."""

    def spoil(node: Node, side: str) -> Path:
        path = (*own_files(node.directory, side), own_ca(node.directory, side))[which]
        path.unlink()
        path.mkdir()
        return path

    return spoil


def chain_in_the_wrong_order(node: Node, side: str) -> Path:
    cert, key = own_files(node.directory, side)
    pair = Ca("intermediate CA", issuer=node.security.ca(side)).issue(node.address, "127.0.0.1")
    cert.write_bytes(pki.pem(*pair.chain, pair.certificate))
    key.write_bytes(pair.key_pem())
    return cert


def chain_without_its_intermediate(node: Node, side: str) -> Path:
    cert, key = own_files(node.directory, side)
    pair = Ca("intermediate CA", issuer=node.security.ca(side)).issue(node.address, "127.0.0.1")
    cert.write_bytes(pki.pem(pair.certificate))
    key.write_bytes(pair.key_pem())
    return cert


def ca_that_is_none(node: Node, side: str) -> Path:
    path = own_ca(node.directory, side)
    path.write_text("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
    return path


BAD_FILES = {
    "by another CA": (by_another_ca, ["issuer", "CA", "signed"]),
    "expired": (issue(**PAST), ["expired"]),
    "not yet valid": (issue(**FUTURE), NOT_YET_VALID),
    "for another address": (issue("10.1.2.3", "db.internal"), ["address", "name", "SAN"]),
    "another's key": (anothers_key, UNFIT),
    "cert and key swapped": (cert_and_key_swapped, ["certificate"]),
    "DER": (cert_as_der, ["PEM"]),
    "empty certificate": (emptied(0), ["empty", "no certificate", "PEM"]),
    "empty key": (emptied(1), ["empty", "no private key", "no key", "PEM"]),
    "empty CA": (emptied(2), ["empty", "no certificate", "PEM"]),
    "unreadable certificate": (directory_in_place_of(0), ["directory", "regular file"]),
    "unreadable key": (directory_in_place_of(1), ["directory", "regular file"]),
    "unreadable CA": (directory_in_place_of(2), ["directory", "regular file"]),
    "chain in the wrong order": (chain_in_the_wrong_order, ["order", "match", "first", "fit"]),
    "chain without its intermediate": (chain_without_its_intermediate, ["issuer", "CA", "chain", "signed"]),
    "not for clients": (issue(usages=(SERVER,)), ["client"]),
    "not for servers": (issue(usages=(CLIENT,)), ["server"]),
    "a CA that is none": (ca_that_is_none, ["certificate"]),
}


@pytest.mark.parametrize("side", SIDES)
def test_a_bad_file_is_named_and_taken_up_once_it_is_mended(lab, side):
    """One line says which file and why; no etcd fails over it again and again; no restart once it is right."""
    lab.security = Security(**{side: FILES})
    nodes = dict(zip(BAD_FILES, fleets_of_one(lab, len(BAD_FILES))))
    wrong = {what: (nodes[what], spoil(nodes[what], side), words) for what, (spoil, words) in BAD_FILES.items()}
    start(*nodes.values())
    hold_over(lab, wrong)
    for _, path, _ in wrong.values():
        if path.is_dir():
            path.rmdir()
    mend(lab, *nodes.values())


def test_a_usage_that_is_missing_matters_only_where_clients_are_asked_for_it(lab):
    """A server certificate from a public CA is for servers only, and that is enough for encryption."""
    lab.security = Security(client=FILES)
    (node,) = fleets_of_one(lab, 1)
    issue(usages=(SERVER,))(node, "client")
    own_ca(node.directory, "client").unlink()
    start(node)
    wait_formed(lab, node)


def test_a_file_that_goes_bad_while_etcd_runs_is_held_over_at_the_next_start(lab):
    """etcd runs on with what it has; and a supervisor that restarts says what is wrong before etcd does."""
    lab.security = Security(client=FILES)
    (node,) = fleets_of_one(lab, 1)
    start(node)
    wait_formed(lab, node)
    assert node.kill() is None and node.wait_exit(BOUND) == -9
    cert = issue(**PAST)(node, "client")
    start(node)
    wait_said(lab, node, "hold: ", str(cert), "expired")
    assert not node.etcd_pids()
    node.secure(node.security)
    wait_formed(lab, node)


# The CA that mints.


def with_key(ca: Ca, key: bytes | None = None) -> tuple[Ca, bytes]:
    return ca, ca.key_pem() if key is None else key


# The CA and its key, the file that is to be named, and words of the reason.
BAD_MINTING = {
    "expired": (with_key(Ca(**PAST)), "ca.crt", ["expired"]),
    "not yet valid": (with_key(Ca(**FUTURE)), "ca.crt", NOT_YET_VALID),
    "not a CA": (with_key(Ca(is_ca=False)), "ca.crt", ["CA", "sign"]),
    "key of another CA": (with_key(Ca(), Ca().key_pem()), "ca.key", UNFIT),
    "empty key": (with_key(Ca(), b""), "ca.key", ["empty", "no private key", "no key", "PEM"]),
}


def test_a_ca_that_cannot_sign_is_named_and_taken_up_once_it_is_mended(lab):
    """A leaf that nobody believes would be worse than none."""
    lab.security = Security(MINTED, MINTED)
    nodes = dict(zip(BAD_MINTING, fleets_of_one(lab, len(BAD_MINTING))))
    for what, node in nodes.items():
        ca, key = BAD_MINTING[what][0]
        (node.directory / "ca.crt").write_bytes(ca.cert_pem())
        (node.directory / "ca.key").write_bytes(key)
    start(*nodes.values())
    wrong = {what: (nodes[what], nodes[what].directory / file, words) for what, (_, file, words) in BAD_MINTING.items()}
    hold_over(lab, wrong)
    assert not [path for node in nodes.values() for path in node.data.rglob("leaf.crt")]
    mend(lab, *nodes.values())


# Settings that contradict each other.


@pytest.mark.parametrize("side", SIDES)
def test_a_scheme_that_contradicts_the_rest_is_refused(lab, side):
    """Nobody guesses which of two answers was meant: plain beside certificates, or TLS without any."""
    schema, auto = SCHEMA[side], AUTOMATIC[side]
    node = lab.add_node(launch=False)
    line = complaint(command(lab, node, "run", **{schema: "https"}), CONFIG)
    assert f"{schema}=https" in line
    line = complaint(command(lab, node, "run", **{schema: "http", auto: "true"}), CONFIG)
    assert f"{schema}=http" in line and f"{auto}=true" in line
    node.secure(Security(**{side: FILES}))
    line = complaint(command(lab, node, "run", **{schema: "http"}), CONFIG)
    assert f"{schema}=http" in line and str(own_files(node.directory, side)[0]) in line
    pair = own_files(node.directory, side)
    prefix = "ETCD" if side == "client" else "ETCD_PEER"
    for path in pair:
        path.rename(node.directory / path.name)
    own_ca(node.directory, side).unlink()
    named = {f"{prefix}_CERT_FILE": str(node.directory / pair[0].name)}
    named[f"{prefix}_KEY_FILE"] = str(node.directory / pair[1].name)
    line = complaint(command(lab, node, "run", **named, **{schema: "http"}), CONFIG)
    assert f"{schema}=http" in line and f"{prefix}_CERT_FILE" in line
    assert no_etcd_ran(node)


# Members that don't speak alike.


def wait_mismatch(lab: Lab, node: Node, *others: Node) -> str:
    """It holds because of one of these, and the words say that it is about TLS."""

    def told() -> str | None:
        about = [said(node, "hold: ", other.instance.id, word) for other in others for word in TLS_WORDS]
        return next((line for line in about if line), None)

    return lab.wait(told, BOUND, f"a hold of {node.address} that speaks of TLS")


TLS_WORDS = ("TLS", "certificate", "https")


# The one that differs, and how the others speak.
UNLIKE = {
    "another CA": (FILES, FILES),
    "plain among TLS": (PLAIN, FILES),
    "TLS among plain": (FILES, PLAIN),
    "automatic among own files": (AUTO, FILES),
    "another minting CA": (MINTED, MINTED),
}


@pytest.mark.parametrize("what", ["another CA", "plain among TLS", "TLS among plain"])
def test_of_three_that_do_not_speak_alike_none_founds(lab, what):
    """One was given the wrong certificates: neither it nor the others may conclude that there is nobody."""
    unlike, alike = UNLIKE[what]
    lab.security = Security(alike, alike)
    # A busy machine must not make a silent one of who speaks otherwise.
    odd, *others = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="1s", MUSTER_PROBE_TIMEOUT="5s")
    rank(lab, odd, *others)
    odd.secure(Security(unlike, unlike))
    start(odd)
    wait_said(lab, odd, "hold: ")
    start(*others)
    wait_mismatch(lab, odd, *others)
    for other in others:
        wait_mismatch(lab, other, odd)
    wait_looks(lab, odd, *others, more=4)  # beyond the grace time
    assert no_etcd_ran(odd, *others)
    odd.power_off()
    odd.secure(lab.security)
    start(odd)
    wait_formed(lab, odd, *others)


@pytest.mark.parametrize("what", UNLIKE)
def test_who_cannot_speak_with_a_living_cluster_never_founds_beside_it(lab, what):
    """The older of two may found alone when the other is down; one that it can't talk to isn't down."""
    unlike, alike = UNLIKE[what]
    lab.security = Security(alike, alike)
    odd, living = launch(lab, 2, size=2, MUSTER_BOOTSTRAP_GRACE="1s", MUSTER_PROBE_TIMEOUT="5s")
    rank(lab, odd, living)
    living.env["MUSTER_BOOTSTRAP_ALONE"] = "yes"
    start(living)
    cluster = wait_formed(lab, living)
    before = member_ids(living)
    odd.secure(Security(unlike, unlike))
    start(odd)
    # Nor is it dead because EC2 is in doubt about it: that counts for the silent only.
    odd.front.add(impaired(living.instance.id))
    assert "MUSTER_BOOTSTRAP_ALONE" not in wait_mismatch(lab, odd, living)
    wait_looks(lab, odd, more=4)  # beyond the grace time
    assert no_etcd_ran(odd) and member_ids(living) == before
    odd.power_off()
    odd.secure(lab.security)
    odd.front.clear()
    rank(lab, odd, living)
    start(odd)
    assert wait_formed(lab, odd, living) == cluster


@pytest.mark.core
@pytest.mark.parametrize(("unlike", "alike"), [(PLAIN, FILES), (FILES, PLAIN), (AUTO, FILES)])
def test_two_lost_disks_and_another_way_to_speak_never_make_a_second_cluster(lab, unlike, alike):
    """Redeployed without its certificates: a majority of fresh nodes, and a survivor with all that was ever written."""
    lab.security = Security(alike, alike)
    *wiped, survivor = form(lab, 3, size=3, MUSTER_PROBE_TIMEOUT="5s")
    anew = Security(unlike, unlike)
    for node in wiped:
        node.power_off()
        node.wipe()
        node.secure(anew)
    since = mark(wiped[0])
    start(*wiped)
    for node in wiped:
        wait_mismatch(lab, node, survivor)
    wait_looks(lab, *wiped, more=8)  # beyond the grace time
    assert not any(node.etcd_pids() for node in wiped)
    assert not any(said(wiped[0], step, since=since) for step in ("propose: ", "chosen: ", "start new: "))
