"""Tests of terraform/ and scripts/run.sh; where Terraform or its provider is missing, one line says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import tools

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = tools.missing()
    if why is not None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=why))
    spread_the_long_ones(items)


def spread_the_long_ones(items: list[pytest.Item]) -> None:
    """The two applies take most of the time, waiting: each of two workers, who get half of the list each, begins with one."""
    long = [item for item in items if item.path.name == "test_apply.py"]
    rest = [item for item in items if item not in long]
    if len(long) == 2 and all(HERE in item.path.parents for item in items):
        half = len(rest) // 2
        items[:] = [long[0], *rest[:half], long[1], *rest[half:]]


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of terraform/ to run Terraform in."""
    return tools.sources(tmp_path_factory.mktemp("sources"))
