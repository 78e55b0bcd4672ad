"""Joining beside a host that says nothing: it costs one probe, not one at each step, and is still noticed when it answers."""

from __future__ import annotations

import time
from contextlib import ExitStack

from fleet import BOUND, form, mark, member_ids, occupied, said, start, wait_formed, wait_looks, wait_said
from muster_tools.lab.etcd import CLIENT_PORT, PEER_PORT

# The default of the probe, and a dwell time that is longer than one probe and shorter than three.
DARK = {"MUSTER_PROBE_TIMEOUT": "3s", "MUSTER_REMOVE_AFTER": "5s"}


def mute(address: str) -> ExitStack:
    """Takes connections on both ports and says nothing, as an address behind a firewall that drops: a probe waits to its end."""
    ports = ExitStack()
    for port in (CLIENT_PORT, PEER_PORT):
        ports.enter_context(occupied(address, port))
    return ports


def seconds_to_join(lab, *others) -> float:
    """From a new node's start to its vote."""
    joiner = lab.add_node()
    began = time.monotonic()
    start(joiner)
    wait_said(lab, joiner, "is healthy and votes")
    took = time.monotonic() - began
    wait_formed(lab, joiner, *others)
    return took


def test_a_dark_host_holds_up_a_join_no_longer_than_a_dead_one(lab):
    """Each look waited for it anew: before the removal, before the joining, before the start. The control refuses at once."""
    first, second, third = form(lab, 3, size=3, **DARK)
    lab.terminate(third)
    control = seconds_to_join(lab, first, second)
    heir = lab.nodes[-1]
    lab.terminate(second)
    with mute(second.address):
        dark = seconds_to_join(lab, first, heir)
    print(f"from start to voter: beside a dead host {control:.1f} s, beside a dark one {dark:.1f} s")
    assert dark < 1.5 * control


def test_who_answers_again_before_the_dwell_time_is_over_is_no_dead_member(lab):
    """Silence that is remembered from look to look must end with the first answer, whatever EC2 says of the instance."""
    nodes = form(lab, 3, size=3, **{**DARK, "MUSTER_REMOVE_AFTER": "40s"})
    before = member_ids(nodes[0])
    back = nodes[2]
    back.power_off()
    lab.ec2.terminate(back.instance.id)
    joiner = lab.add_node()
    with mute(back.address):
        start(joiner)
        wait_said(lab, joiner, "hold: ", "is kept until it has not answered for MUSTER_REMOVE_AFTER")
        wait_looks(lab, joiner)
    start(back)
    wait_said(lab, joiner, "hold: spare", since=mark(joiner))
    wait_looks(lab, joiner)
    assert member_ids(nodes[0]) == before and not said(joiner, "remove member")
    lab.wait(back.etcd.health, BOUND, "health of the one that is back")
