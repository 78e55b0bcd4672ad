"""The checker, checked: it must find what is wrong, and only that."""

import random

import pytest
from muster_tools.lab.linearizable import Operation, violation


def write(value, called, answered=None):
    return Operation(True, value, called, answered)


def read(value, called, answered):
    return Operation(False, value, called, answered)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(None, 0, 1)],
        [write("a", 0, 1), read("a", 2, 3)],
        [write("a", 0, 5), read(None, 1, 2), read("a", 3, 4)],
        [write("a", 0, 5), write("b", 1, 6), read("b", 7, 8), read("b", 9, 10)],
        [write("a", 0, 5), write("b", 1, 6), read("a", 7, 8)],
        # Unknown outcomes: took effect late, early, or never.
        [write("a", 0), write("b", 1, 2), read("b", 3, 4), read("a", 5, 6)],
        [write("a", 0), read("a", 1, 2), write("b", 3, 4), read("b", 5, 6)],
        [write("a", 0), write("b", 1, 2), read("b", 3, 4)],
    ],
)
def test_what_some_order_explains_is_accepted(history):
    assert violation(history) is None


@pytest.mark.parametrize(
    "history",
    [
        [write("a", 0, 1), read(None, 2, 3)],  # an acknowledged write is lost
        [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],  # a stale read
        [write("a", 0, 5), read("a", 1, 2), read(None, 3, 4)],  # seen, then unseen
        [write("a", 0), read("a", 1, 2), write("b", 3, 4), read("a", 5, 6)],  # an unknown write takes effect once
        [read("a", 0, 1), write("a", 2, 3)],  # read before it was written
        [read("x", 0, 1)],  # never written
    ],
)
def test_what_no_order_explains_is_found(history):
    assert violation(history) is not None


@pytest.mark.parametrize("seed", range(20))
def test_a_real_register_is_accepted_and_one_flipped_read_is_found(seed):
    """Five clients at a time on a register that takes effect at a moment of its own choice."""
    chance = random.Random(seed)
    operations, value, clock = [], None, 0.0
    for number in range(400):
        called, moment, answered = sorted(clock + chance.random() * 5 for _ in range(3))
        clock += 1
        operations.append((moment, called, answered, number if chance.random() < 0.5 else None))
    history = []
    for moment, called, answered, number in sorted(operations):
        if number is None:
            history.append(read(value, called, answered))
        else:
            value = str(number)
            lost = chance.random() < 0.02
            history.append(write(value, called, None if lost else answered))
    assert violation(history) is None
    last = max((one for one in history if one.answered), key=lambda one: one.answered).answered
    history.append(read("0" if value != "0" else "1", last + 100, last + 101))
    assert violation(history) is not None
