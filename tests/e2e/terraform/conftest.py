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


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of terraform/ to run Terraform in."""
    return tools.sources(tmp_path_factory.mktemp("sources"))
