"""Spans and gaps, as the figures of stops, replacements and rolling changes are made of them."""

from muster_tools.lab.moments import covered, longest_gap


def test_what_lasts_at_the_same_time_counts_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_a_gap_counts_when_it_ends_after_the_moment():
    acknowledged = [6.0, 0.0, 1.0, 5.0, 3.0]  # in the order in which threads say so
    assert longest_gap(acknowledged) == 2
    assert longest_gap(acknowledged, since=5.5) == 1
    assert longest_gap([1.0]) == 0
