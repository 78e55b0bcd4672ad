"""What the tests of the image share: one that is built once, and an etcd release that is whole and static."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from archives import ETCD, SOURCE, Archive, run_script  # needs the path above
from muster_tools.image import project
from muster_tools.lab import install


@pytest.fixture(scope="session")
def etcd() -> Path:
    directory = install.etcd_binaries(ETCD)
    if not directory.is_dir():
        pytest.skip(f"etcd {ETCD} is not installed: scripts/install-lab")
    return directory


@pytest.fixture(scope="session")
def image(binary: Path, etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    output = tmp_path_factory.mktemp("image") / "image.tar"
    done = run_script("image", "--etcd", etcd, "--binary", binary, "--source", SOURCE, "--output", output)
    assert done.returncode == 0, done.stderr
    return Archive(output)


@pytest.fixture(scope="session")
def bundle(binary: Path, etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under the name that it has by itself."""
    output = tmp_path_factory.mktemp("bundle") / f"etcd-muster-{project.describe(SOURCE).version}-{platform.machine()}-bundle.tar.gz"
    done = run_script("bundle", "--etcd", etcd, "--binary", binary, "--source", SOURCE, "--output", output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xzf", bundle, "-C", directory], check=True)
    (folder,) = directory.iterdir()
    return folder
