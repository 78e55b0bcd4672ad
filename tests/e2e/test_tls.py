"""TLS to clients and members: every way to have it, for each port by itself, beyond the life of a certificate."""

from __future__ import annotations

import itertools
import re
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from certificates import (
    demands,
    etcdctl,
    fleets_of_one,
    loaded,
    served,
    turns_strangers_away,
    without_certificate,
)
from fleet import (
    BOUND,
    command,
    etcd_pid,
    form,
    launch,
    lines,
    mark,
    member_ids,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_said,
)
from muster_tools.lab import pki
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.etcd import NOT_YET, EtcdClient, EtcdError
from muster_tools.lab.pki import CLIENT, SERVER, Ca
from muster_tools.lab.security import AUTO, FILES, MINTED, MODES, PLAIN, SIDES, Security, own_ca, own_files

UNHEALTHY = 1
STATUS_PORT = 2382
LEAF = "muster/tls/leaf.crt"
LEAF_KEY = "muster/tls/leaf.key"
SOON = "6s"  # files are looked at once a minute, or when a leaf is due for renewal: then after 4 s

# Both sides alike; with each version of etcd.
ALIKE = [pytest.param(mode, marks=pytest.mark.core) for mode in (FILES, AUTO, MINTED)]


def ok(done):
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


# Every way to have it.


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        pytest.param(client, peer, marks=pytest.mark.core if client == peer != PLAIN else ())
        for client, peer in itertools.product(MODES, repeat=2)
    ],
)
def test_three_nodes_form_a_cluster_in_every_mode(lab, client, peer):
    """Whatever an operator chooses for either port: it works as a whole, and for nobody who shouldn't get in."""
    lab.security = Security(client, peer)
    nodes = form(lab, 3, size=3)
    nodes[0].etcd.put("key", "value")
    assert nodes[2].etcd.get("key") == "value"
    assert {url for member in nodes[1].etcd.members() for url in member.client_urls} == {n.client_url for n in nodes}
    turns_strangers_away(nodes[1])
    assert "healthy" in ok(command(lab, nodes[1], "health"))
    assert etcdctl(lab, nodes[1], "get", "key", "--print-value-only") == "value\n"


@pytest.mark.release
@pytest.mark.parametrize("mode", ALIKE)
def test_members_restart_die_and_are_replaced(lab, mode):
    """The everyday life of a cluster is the same under TLS."""
    lab.security = Security(mode, mode)
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    assert stop(nodes[1]) == 0
    start(nodes[1])
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before
    nodes[0].etcd.put("key", "value")
    lab.terminate(nodes.pop())
    joiner = lab.add_node()
    start(joiner)
    wait_formed(lab, *nodes, joiner)
    assert joiner.etcd.get("key") == "value"
    for node in (*nodes, joiner):
        node.power_off()
    start(*nodes, joiner)
    wait_formed(lab, *nodes, joiner)


@pytest.mark.parametrize("mode", [FILES, AUTO, MINTED])
def test_the_roll_call_is_guarded_as_etcd_is(lab, mode):
    """The peer port is the supervisor's before it is etcd's: no hour of the day when it speaks to anybody."""
    lab.security = Security(PLAIN, mode)
    (node,) = launch(lab, 1, size=3)
    start(node)
    wait_said(lab, node, "hold: ")
    shown = lab.wait(lambda: served(node, "peer"), BOUND, "a roll call over TLS")
    assert node.etcd.request("GET", "/members", node.etcd.peer_port)[0] in (404, 503)
    with pytest.raises(NOT_YET):
        EtcdClient(node.address).peer_version()
    stranger = without_certificate(node)
    if demands(node, "peer"):
        with pytest.raises(OSError):
            stranger.request("GET", "/members", stranger.peer_port)
    else:
        # etcd would take up whatever lay in its fixtures.
        assert not list(node.data.rglob("fixtures")) and shown.subject == shown.issuer


# Own files.


def test_files_may_have_names_of_their_own(lab):
    """Certificates come from elsewhere, named by somebody else."""
    lab.security = Security(FILES, FILES)
    (node,) = launch(lab, 1, size=1)
    for side in SIDES:
        paths = (*own_files(node.directory, side), own_ca(node.directory, side))
        for name, path in zip(("CERT_FILE", "KEY_FILE", "TRUSTED_CA_FILE"), paths):
            path.rename(node.ssl / f"our-{path.name}")
            node.env[f"{side.upper()}_{name}"] = f"our-{path.name}"
    start(node)
    wait_formed(lab, node)
    turns_strangers_away(node)


def test_etcds_own_variables_come_first_then_automatic_then_files(lab):
    """Three answers to one question: the most explicit one counts, and none is mixed with another."""
    lab.security = Security(FILES, FILES)
    named, automatic = fleets_of_one(lab, 2)
    pair, elsewhere = named.security.issue("client", named.address), named.directory / "elsewhere"
    elsewhere.mkdir()
    pair.write(elsewhere / "cert", elsewhere / "key")
    named.env.update(ETCD_CERT_FILE=str(elsewhere / "cert"), ETCD_KEY_FILE=str(elsewhere / "key"))
    named.env.update(ETCD_TRUSTED_CA_FILE=str(own_ca(named.directory, "client")), ETCD_CLIENT_CERT_AUTH="true")
    named.env.update(ETCD_AUTO_TLS="true")
    automatic.secure(Security(AUTO, FILES))
    named.security.issue("client", automatic.address).write(*own_files(automatic.directory, "client"))
    start(named, automatic)
    lab.wait(lambda: named.etcd.health() and automatic.etcd.health(), BOUND, "two clusters of one")
    assert served(named, "client") == pair.certificate
    turns_strangers_away(named)
    assert served(automatic, "client") == loaded(automatic.data / "fixtures/client/cert.pem")


@pytest.mark.parametrize("how", ["no CA", "ETCD_CLIENT_CERT_AUTH=false"])
def test_clients_need_no_certificate_unless_one_is_asked_for(lab, how):
    """Encryption alone is a choice, too: the server is verified, the clients are not."""
    lab.security = Security(FILES, FILES)
    (node,) = launch(lab, 1, size=1)
    if how == "no CA":
        own_ca(node.directory, "client").unlink()
    else:
        node.env["ETCD_CLIENT_CERT_AUTH"] = "false"
    start(node)
    wait_formed(lab, node)
    without_certificate(node).put("key", "value")
    assert node.etcd.get("key") == "value"
    assert "healthy" in ok(command(lab, node, "health"))
    assert etcdctl(lab, node, "get", "key", "--print-value-only") == "value\n"
    wait_said(lab, node, "is healthy and votes")
    with pytest.raises(NOT_YET):
        EtcdClient(node.address).put("key", "plain")


def metric(node, name: str, **labels: str) -> float | None:
    """None while it isn't there."""
    _, body = EtcdClient(node.address).request("GET", "/metrics", STATUS_PORT)
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(rf"^{re.escape(f'{name}{{{told}}}')} (\S+)$", body.decode(), re.M)
    return float(found[1]) if found else None


def expiry(node, side: str) -> float | None:
    return metric(node, "etcd_muster_certificate_expiry_timestamp_seconds", side=side)


def test_a_certificate_that_ends_soon_is_told_of_a_month_ahead(lab):
    """The most common outage of all is a date: it is in the log and in the metrics while there is time."""
    lab.security = Security(FILES, MINTED)
    (node,) = launch(lab, 1, size=1, MUSTER_CERT_VALIDITY=SOON)
    node.env["MUSTER_STATUS_LISTEN"] = f"{node.address}:{STATUS_PORT}"
    cert, key = own_files(node.directory, "client")
    soon = node.security.ca("client").issue(node.address, "127.0.0.1", end=timedelta(days=29, hours=12))
    soon.write(cert, key)
    start(node)
    wait_formed(lab, node)
    line = wait_said(lab, node, str(cert), "expire")
    assert any(" WARN " in whole and line in whole for whole in node.log_text().splitlines())
    assert not said(node, LEAF, "expire")  # that one isn't his to renew
    assert len([one for one in lines(node) if str(cert) in one and "expire" in one]) == 1
    ends = lab.wait(lambda: expiry(node, "client"), BOUND, "the metric")
    assert ends == soon.certificate.not_valid_after_utc.timestamp()
    assert expiry(node, "peer") >= datetime.now(timezone.utc).timestamp()
    # A new one is taken up by etcd at once, and by the figures a little later.
    longer = node.security.issue("client", node.address)
    longer.write(cert, key)
    assert served(node, "client") == longer.certificate
    ends = longer.certificate.not_valid_after_utc.timestamp()
    lab.wait(lambda: expiry(node, "client") == ends, BOUND, "the new date")


def test_a_replaced_ca_is_noticed_and_needs_a_rolling_restart(lab):
    """etcd reads its CAs once: who rotates one must know that half of the fleet still trusts the old one only."""
    lab.security = Security(FILES, MINTED)
    (node,) = launch(lab, 1, size=1, MUSTER_CERT_VALIDITY=SOON)
    start(node)
    wait_formed(lab, node)
    wait_said(lab, node, "is healthy and votes")
    pid, ca = etcd_pid(node), own_ca(node.directory, "client")
    pki.replace_file(ca, node.security.ca("client").cert_pem() + Ca("new client CA").cert_pem())
    wait_said(lab, node, str(ca), "rolling restart")
    assert etcd_pid(node) == pid and node.etcd.health()
    assert not said(node, str(node.directory / "ca.crt"), "rolling restart")


# Minted.


def test_a_minted_certificate_is_for_this_node_and_its_key_for_nobody_else(lab):
    """A CA's user need not know any address beforehand; and what lies on the disk is a leaf's key only."""
    lab.security = Security(MINTED, MINTED)
    (node,) = form(lab, 1, size=1, MUSTER_EXTRA_SANS="etcd.example.com, 10.9.8.7", MUSTER_CERT_VALIDITY="12h")
    leaf = loaded(node.data / LEAF)
    extra = {"etcd.example.com", "10.9.8.7"}
    assert pki.san(leaf) == {node.address, node.instance.private_dns, "localhost", "127.0.0.1", "::1", *extra}
    assert pki.usages(leaf) == {SERVER, CLIENT}
    assert timedelta(hours=12) <= leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(hours=13)
    ends = leaf.not_valid_after_utc - datetime.now(timezone.utc)
    assert timedelta(hours=11) < ends <= timedelta(hours=12)
    assert served(node, "client") == served(node, "peer") == leaf
    assert (node.data / LEAF_KEY).stat().st_mode & 0o777 == 0o600
    assert [path for path in node.data.rglob("*") if path.name.endswith((".key", ".pem"))] == [node.data / LEAF_KEY]
    assert served(node, "client", name="etcd.example.com") == leaf


@pytest.mark.core
def test_a_minted_certificate_is_renewed_while_clients_go_on(lab):
    """Ninety days later, at night: nobody notices. etcd isn't restarted, and no client sees an error."""
    lab.security = Security(MINTED, MINTED)
    nodes = form(lab, 3, size=3, MUSTER_CERT_VALIDITY="12s")
    pids = [etcd_pid(node) for node in nodes]
    first = [loaded(node.data / LEAF) for node in nodes]
    over, trouble, written = threading.Event(), [], 0

    def put_on_and_on() -> None:
        nonlocal written
        while not over.is_set():
            try:
                nodes[written % 3].etcd.put("count", str(written))  # each a connection of its own
                written += 1
            except NOT_YET as error:
                trouble.append(error)

    terms = lambda: {node.etcd.status()["raftTerm"] for node in nodes}
    before_all = terms()
    client = threading.Thread(target=put_on_and_on)
    client.start()
    try:
        for node, before in zip(nodes, first):
            for side in SIDES:
                lab.wait(
                    lambda: served(node, side).serial_number != before.serial_number, BOUND, f"a new {side} certificate"
                )
    finally:
        over.set()
        client.join()
    # An election of a busy machine, which is no renewal's doing, may refuse a write or let it wait; it breaks no connection.
    excused = (EtcdError, TimeoutError) if terms() != before_all else ()
    assert not [error for error in trouble if not isinstance(error, excused)] and written > 20
    assert [etcd_pid(node) for node in nodes] == pids
    for node, before in zip(nodes, first):
        renewed = loaded(node.data / LEAF)
        assert renewed.not_valid_before_utc < before.not_valid_after_utc < renewed.not_valid_after_utc
        assert renewed.public_key() == before.public_key() and pki.san(renewed) == pki.san(before)


@pytest.mark.parametrize("wanted", ["", "etcd.example.com"])
def test_a_restart_without_the_cas_key_goes_on_with_a_valid_leaf(lab, wanted):
    """The key's store is down when the machine reboots: what is valid for weeks is no reason to stay away.

    Not even where one more name is wanted in it.
    """
    lab.security = Security(MINTED, MINTED)
    (node,) = form(lab, 1, size=1)
    leaf = loaded(node.data / LEAF)
    assert stop(node) == 0
    key = node.directory / "ca.key"
    key.unlink()
    node.env["MUSTER_EXTRA_SANS"] = wanted
    since = mark(node)
    start(node)
    wait_formed(lab, node)
    wait_said(lab, node, str(key), since=since)
    assert served(node, "client") == loaded(node.data / LEAF) == leaf


def test_no_leaf_of_a_new_ca_is_made_under_an_etcd_that_trusts_the_old_one(lab):
    """Somebody exchanges the CA's files: etcd has read the old one, and would be cut off by a leaf of the new."""
    lab.security = Security(MINTED, MINTED)
    (node,) = form(lab, 1, size=1, MUSTER_CERT_VALIDITY="20s")
    pid, issuer, new = etcd_pid(node), loaded(node.data / LEAF).issuer, Ca("new CA")
    pki.replace_file(node.directory / "ca.crt", new.cert_pem())
    pki.replace_file(node.directory / "ca.key", new.key_pem())
    wait_said(lab, node, str(node.directory / "ca.crt"), "rolling restart")
    assert loaded(node.data / LEAF).issuer == issuer and etcd_pid(node) == pid
    assert stop(node) == 0
    start(node)
    lab.wait(lambda: loaded(node.data / LEAF).issuer != issuer, BOUND, "a leaf of the new CA, from the next start on")


def test_without_the_cas_key_and_a_leaf_it_holds_until_the_key_is_there(lab):
    """Nothing to serve the port with: it waits, and says for which file."""
    lab.security = Security(MINTED, MINTED)
    (node,) = launch(lab, 1, size=1)
    key = node.directory / "ca.key"
    away = key.rename(node.directory / "away")
    start(node)
    wait_said(lab, node, "hold: ", str(key))
    assert not node.etcd_pids()
    away.rename(key)
    wait_formed(lab, node)


def test_a_ca_key_in_parameter_store_is_nowhere_on_disk(lab):
    """The key that can make any member stays where access to it is granted and logged."""
    lab.security = Security(MINTED, MINTED, ca_key="ssm:/etcd/ca-key")
    ca_key = lab.security.ca("peer").key_pem()
    lab.ec2.client("ssm").put_parameter(Name="/etcd/ca-key", Value=ca_key.decode(), Type="SecureString")
    (node,) = launch(lab, 1, size=1)
    start(node)
    refused = wait_said(lab, node, "hold: ", "ssm:GetParameter")
    assert "/etcd/ca-key" in refused and not node.etcd_pids()
    lab.ec2.set_role_actions(*NODE_ACTIONS, "ssm:GetParameter")
    wait_formed(lab, node)
    turns_strangers_away(node)
    secrets = [line for line in ca_key.splitlines() if b"-----" not in line]
    held = [path for path in node.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert node.data / LEAF_KEY in held and node.log in held
    for path in held:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    for what in ("environ", "cmdline"):
        told = Path(f"/proc/{etcd_pid(node)}/{what}").read_bytes()
        assert b"ca-key" not in told and not any(secret in told for secret in secrets)


# Automatic.


def test_automatic_certificates_are_etcds_own_and_it_is_said_what_they_are_not(lab):
    """Encrypted, and nobody is who he says he is: the log says so once."""
    lab.security = Security(AUTO, AUTO)
    nodes = form(lab, 3, size=3)
    shown = {served(node, side).serial_number for node in nodes for side in SIDES}
    assert len(shown) == 6
    for node in nodes:
        for side in SIDES:
            assert served(node, side) == loaded(node.data / f"fixtures/{side}/cert.pem")
        spoken = [line for line in lines(node) if "can't be verified" in line or "unauthenticated" in line]
        assert len(spoken) == 1, spoken


def test_an_automatic_certificate_that_has_expired_is_moved_aside_and_made_anew(lab):
    """etcd never renews its own, and uses them for ever: after a year every client would be turned away."""
    lab.security = Security(AUTO, AUTO)
    (node,) = form(lab, 1, size=1)
    assert stop(node) == 0
    old = {}
    for side in SIDES:
        folder = node.data / "fixtures" / side
        pair = pki.self_signed(node.address, begin=timedelta(days=-366), end=timedelta(days=-1))
        pair.write(folder / "cert.pem", folder / "key.pem")
        old[side] = tree(folder)
    start(node)
    wait_formed(lab, node)
    now = datetime.now(timezone.utc)
    kept = set(tree(node.data).values())
    for side in SIDES:
        assert loaded(node.data / f"fixtures/{side}/cert.pem").not_valid_after_utc > now
        assert served(node, side).not_valid_after_utc > now
        assert set(old[side].values()) <= kept, "it was deleted"
    assert said(node, "fixtures", "expired")


# health


@pytest.fixture
def guarded(lab):
    """Three members with own files, and a machine that has none of them."""
    lab.security = Security(FILES, FILES)
    nodes = form(lab, 3, size=3)
    lab.security = Security()
    return nodes, lab.add_node(launch=False)


def test_health_takes_what_it_needs_on_the_command_line(lab, guarded):
    """A load balancer's check runs on a machine that is no member."""
    nodes, outsider = guarded
    ca, (cert, key) = own_ca(nodes[0].directory, "client"), own_files(nodes[0].directory, "client")
    asked = [word for node in nodes[:2] for word in ("--endpoint", node.client_url)]
    trusted, known = ["--cacert", str(ca)], ["--cert", str(cert), "--key", str(key)]
    shown = ok(command(lab, outsider, "health", *asked, *trusted, *known))
    assert all(node.client_url in shown for node in nodes[:2]) and nodes[2].client_url not in shown
    ok(command(lab, outsider, "health", *asked, "--insecure", *known))
    report = ok(command(lab, outsider, "health", *asked, *trusted, *known, "--json"))
    assert all(node.client_url in report for node in nodes[:2])
    strange = outsider.directory / "strange.crt"
    strange.write_bytes(Ca().cert_pem())
    for arguments in (
        [*asked],
        [*asked, *known],  # nobody vouches for the server
        [*asked, *trusted],  # nor for us
        [*asked, "--insecure"],
        [*asked, "--cacert", str(strange), *known],
        ["--endpoint", nodes[0].client_url.replace("https", "http"), *trusted, *known],
    ):
        done = command(lab, outsider, "health", *arguments)
        assert done.returncode == UNHEALTHY, (arguments, done.stdout, done.stderr)
    missing = command(lab, outsider, "health", *asked, "--cacert", "/nonexistent/ca.crt", *known)
    assert missing.returncode != 0 and "/nonexistent/ca.crt" in missing.stdout + missing.stderr


def test_health_of_a_cluster_is_that_of_every_member(lab, guarded):
    """Own member by default; the whole on request, one by one."""
    nodes, outsider = guarded
    shown = ok(command(lab, nodes[0], "health", "--cluster"))
    assert all(node.client_url in shown for node in nodes)
    nodes[2].power_off()
    lab.wait(lambda: nodes[0].etcd.health(), BOUND, "two of three")
    ok(command(lab, nodes[0], "health"))
    done = command(lab, nodes[0], "health", "--cluster")
    assert done.returncode == UNHEALTHY and nodes[2].client_url in done.stdout + done.stderr
    done = command(lab, nodes[0], "health", "--endpoint", nodes[1].client_url, "--endpoint", nodes[2].client_url)
    assert done.returncode == UNHEALTHY
    ok(command(lab, nodes[0], "health", "--endpoint", nodes[1].client_url))
    done = command(lab, nodes[2], "health", "--json")
    assert done.returncode == UNHEALTHY and '"healthy":false' in done.stdout.replace(" ", "")
