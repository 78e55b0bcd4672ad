"""What the tests make in an engine is gone after them: at the latest with the next run, should this one be killed."""

from __future__ import annotations

import os
import subprocess
import sys

import engine
import pytest
from engine import Engine, docker

pytestmark = pytest.mark.skipif(engine.missing() is not None, reason=f"nothing is run in containers: {engine.missing()}")

KINDS = (("ps", "--all"), ("volume", "ls"), ("network", "ls"), ("images", "--all"))


def make_one_of_each(made: Engine) -> None:
    image = made.build("-", stdin=b"FROM scratch\nLABEL of=tests\n")
    docker("network", "create", f"--label={made.label}", made.name)
    docker("volume", "create", f"--label={made.label}")
    docker("create", f"--label={made.label}", f"--network={made.name}", "--volume=/data", image, "/nothing")


def left_of(name: str) -> list[int]:
    filters = [f"label={engine.LABEL}={name}"] * 3 + [f"reference={name}"]
    return [len(docker(*kind, "--quiet", "--filter", filter_).split()) for kind, filter_ in zip(KINDS, filters)]


# Another run, as far as it gets before it is killed.
RUN = """
import time
from engine import Engine
from test_leftovers import make_one_of_each
made = Engine().__enter__()
make_one_of_each(made)
print(made.name, flush=True)
time.sleep(600)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else():
    with Engine() as ours:
        make_one_of_each(ours)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", RUN], env=env, stdout=subprocess.PIPE, text=True) as other:
            try:
                name = other.stdout.readline().strip()
                assert left_of(name) == [1, 1, 1, 1]
                engine.remove_what_dead_runs_left()
                assert left_of(name) == [1, 1, 1, 1], "its process lives"
            finally:
                other.kill()
        with Engine():
            assert left_of(name) == [0, 0, 0, 0]
        assert left_of(ours.name) == [1, 1, 1, 1]
    assert left_of(ours.name) == [0, 0, 0, 0]
    assert not list(engine.LOCKS.glob(f"{ours.name}*"))
