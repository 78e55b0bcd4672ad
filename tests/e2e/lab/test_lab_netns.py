"""Namespaces are cut, bent and healed as told, and leave no trace on the machine.

A hub is a whole process, so each test below runs as one: this file as a script, with the test's name.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import pytest
from muster_tools.lab import netns
from muster_tools.lab.delay_proxy import DelayProxy
from muster_tools.lab.netns import Hub

PORT = 2380
PATIENCE = 0.3  # seconds for what is never to come; on this network an answer takes well below one ms
PATIENT = 5.0  # for what is to come, on a busy machine
SLOW = 0.4
BOUND = 30


@pytest.fixture(scope="module", autouse=True)
def _namespaces():
    trouble = netns.why_not()
    if trouble:
        pytest.skip(trouble)


def in_a_hub(test):
    def run():
        done = subprocess.run([sys.executable, __file__, test.__name__], capture_output=True, text=True, timeout=BOUND)
        assert done.returncode == 0, done.stderr

    run.__name__, run.inside = test.__name__, test
    return run


# What happens inside.


def on(host, work):
    """The outcome of this work in that host's namespace."""
    outcome = []

    def enter_and_work():
        host.enter_thread()
        try:
            outcome.append(work())
        except OSError as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    return outcome[0]


def echo(host):
    """A listener on that host that sends back whatever comes."""
    listener = on(host, lambda: socket.create_server((host.address, PORT)))

    def answer(connection):
        with connection:
            while piece := connection.recv(100):
                connection.sendall(piece)

    def accept():
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def ask(host, other, patience=PATIENT):
    """One exchange with the other's echo; "timeout" and "ConnectionRefusedError" are outcomes too."""

    def exchange():
        try:
            with closing(socket.create_connection((other.address, PORT), patience)) as connection:
                connection.sendall(b"hello")
                return connection.recv(100).decode()
        except socket.timeout:
            return "timeout"

    return on(host, exchange)


def joined(one, other):
    return ask(one, other) == ask(other, one) == "hello"


def cut(one, other):
    return ask(one, other, PATIENCE) == ask(other, one, PATIENCE) == "timeout"


@contextmanager
def hosts(count):
    hub = Hub().enter()
    with ExitStack() as stack:
        made = [stack.enter_context(hub.host(f"{hub.network}.{11 + place}")) for place in range(count)]
        for host in made:
            echo(host)
        yield made


# The tests.


@in_a_hub
def test_a_partition_cuts_both_ways_and_heals():
    with hosts(3) as (one, other, third):
        assert joined(one, other)
        heal = [one.deaf_to(other, third), other.deaf_to(one), third.deaf_to(one)]
        assert cut(one, other) and cut(third, one) and joined(other, third)
        for undo in heal:
            undo()
        assert joined(one, other) and joined(third, one)


@in_a_hub
def test_one_deaf_side_is_enough_to_keep_tcp_from_both():
    with hosts(2) as (one, other):
        received = on(other, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        received.bind((other.address, 9))
        received.settimeout(PATIENCE)
        heal = one.deaf_to(other)
        assert cut(one, other)
        sender = on(one, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.sendto(b"still heard", (other.address, 9))
        assert received.recv(100) == b"still heard"
        heal()
        assert joined(one, other)


@in_a_hub
def test_overlapping_faults_heal_one_by_one():
    with hosts(2) as (one, other):
        first, second = one.deaf_to(other), one.deaf_to(other)
        first()
        assert cut(one, other)
        second()
        assert joined(one, other)


@in_a_hub
def test_a_refusing_firewall_answers_and_a_dark_host_does_not():
    with hosts(2) as (one, other):
        heal = other.refusing(one)
        assert ask(one, other) == "ConnectionRefusedError"
        heal()
        heal = other.dark()
        assert cut(one, other)
        assert ask(other, other) == "hello"  # its own loopback
        heal()
        assert joined(one, other)


@in_a_hub
def test_a_service_is_cut_off_and_others_are_not():
    with hosts(2) as (one, other):
        heal = one.without(other.address, PORT)
        assert (ask(one, other, PATIENCE), ask(other, one)) == ("timeout", "hello")
        heal()
        heal = one.without(other.address, PORT + 1)
        assert ask(one, other) == "hello"
        heal()


@in_a_hub
def test_so_many_packets_are_lost():
    with hosts(2) as (one, other):
        receiver, sender = (on(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for host in (one, other))
        receiver.bind((one.address, 9))
        receiver.setblocking(False)
        heal = one.losing(0.3, other)
        arrived = 0
        for _ in range(1000):
            sender.sendto(b"x", (one.address, 9))
            try:
                arrived += len(receiver.recv(10))  # a veth delivers within the send
            except BlockingIOError:
                pass
        heal()
        assert 600 < arrived < 800  # seven standard deviations


@in_a_hub
def test_a_delay_delays_and_ends():
    with hosts(2) as (one, other), DelayProxy(one, PORT) as proxy:
        heal = proxy.delay(SLOW)
        times = []
        for _ in range(6):
            begun = time.monotonic()
            assert ask(one, other) == "hello"
            times.append(time.monotonic() - begun)
        assert max(times) > SLOW  # three pieces each, to connect, there, and back: one in six takes less
        assert ask(other, one) == "hello"  # only what one sends
        heal()
        assert ask(one, other, PATIENT) == "hello"


@in_a_hub
def test_what_is_delayed_arrives_though_its_sender_gave_up():
    with hosts(2) as (one, other), DelayProxy(one, PORT + 1) as proxy:
        listener = on(other, lambda: socket.create_server((other.address, PORT + 1)))
        heal = proxy.delay(SLOW)

        def send_and_leave():
            with closing(socket.create_connection((other.address, PORT + 1), PATIENT)) as connection:
                connection.sendall(b"late")

        on(one, send_and_leave)
        listener.settimeout(PATIENT)
        connection, caller = listener.accept()
        connection.settimeout(PATIENT)
        assert connection.recv(100) == b"late" and caller[0] == one.address
        heal()


@in_a_hub
def test_a_delayed_connection_to_nobody_is_closed_and_not_refused():
    with hosts(2) as (one, other), DelayProxy(one, PORT + 1) as proxy:
        heal = proxy.delay(0.01)

        def call():
            with closing(socket.create_connection((other.address, PORT + 1), BOUND)) as connection:
                return connection.recv(1)

        assert on(one, call) == b""
        heal()
        assert on(one, call) == "ConnectionRefusedError"


@in_a_hub
def test_a_process_runs_in_its_host_and_keeps_its_pid():
    with hosts(1) as (one,):
        command = [*one.enter, sys.executable, "-c", "import os, socket; print(os.getpid(), socket.if_nameindex())"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            pid, _, links = child.stdout.read().partition(" ")
        assert int(pid) == child.pid
        assert "lo" in links and "eth0" in links and "hub" not in links


@in_a_hub
def test_names_resolve_and_are_forgotten():
    hub = Hub().enter()
    hub.name("ip-10-77-0-11.internal", "10.77.0.11")
    assert socket.gethostbyname("ip-10-77-0-11.internal") == "10.77.0.11"
    hub.forget_names()
    assert "internal" not in Path("/etc/hosts").read_text()


@in_a_hub
def test_an_address_can_be_given_again():
    hub = Hub().enter()
    for _ in range(3):
        with hub.host(f"{hub.network}.11") as host:
            echo(host)
            with closing(socket.create_connection((host.address, PORT), PATIENT)):
                pass


def test_the_machine_is_left_as_it_was():
    def machine():
        links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
        return links, Path("/etc/hosts").read_bytes(), sorted(os.listdir(netns.NAMESPACES))

    before = machine()
    test_a_partition_cuts_both_ways_and_heals()
    assert machine() == before


if __name__ == "__main__":
    globals()[sys.argv[1]].inside()
