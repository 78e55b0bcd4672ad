"""The lab's tests of itself: what the end-to-end tests then take for granted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from muster_tools.lab.ec2 import Ec2  # needs the path above


@pytest.fixture(scope="session")
def ec2():
    with Ec2("127.0") as cloud:
        yield cloud
