"""Tests of terraform/ and scripts/run.sh; where Terraform or its provider is missing, one line says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tools
from user import Account

HERE = Path(__file__).parent
LONGEST = (
    "test_kept_volumes_give_a_destroyed_cluster_back",
    "test_the_four_commands_lead_to_a_healthy_cluster_and_destroy_leaves_nothing",
    "test_a_group_forms_is_refreshed_and_goes",
    "test_members_are_exchanged_and_leave_one_after_another",
    "test_no_variable_takes_two_single_machines_at_once",
    "test_no_variable_takes_two_of_a_group_at_once",
    "test_a_volume_outlives_every_word_about_its_end",
    "test_a_member_stores_snapshots_with_the_rights_of_the_page_in_a_guarded_bucket_that_stays",
    "test_an_apply_that_is_interrupted_is_taken_away",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = tools.missing()
    if why is not None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=why))
    longest_first(items)


def longest_first(items: list[pytest.Item]) -> None:
    """The applies take most of the time, waiting: each worker, who is given a part of the list, begins with one."""
    if not all(HERE in item.path.parents for item in items):
        return
    long = [item for name in LONGEST for item in items if item.name == name]
    rest = [item for item in items if item not in long]
    dealt: list[pytest.Item] = []
    for workers in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 0, -1):
        size = (len(long) + len(rest)) // workers
        begin = -(-len(long) // workers)
        dealt += [*long[:begin], *rest[: size - begin]]
        long, rest = long[begin:], rest[max(0, size - begin) :]
    items[:] = dealt


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of terraform/ to run Terraform in."""
    return tools.sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def account(lab, tmp_path: Path, binary: Path):
    made: list[Account] = []

    def make(**variables) -> Account:
        made.append(Account(lab, tmp_path, binary, **variables))
        return made[-1]

    yield make
    for one in made:
        one.stop()
