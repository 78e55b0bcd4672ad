"""scripts/bundle: one file, carried to a host without internet, unpacked, verified and run there."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess

import pytest
from archives import ETCD, REPOSITORY, SOURCE, Archive, run_script

UNITS = REPOSITORY / "scripts" / "units"


def test_the_same_inputs_give_the_same_bundle(bundle, binary, etcd, tmp_path):
    again = tmp_path / "again.tar.gz"
    done = run_script("bundle", "--etcd", etcd, "--binary", binary, "--source", SOURCE, "--output", again, TZ="Asia/Tokyo")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(bundle.read_bytes()).digest()


def test_all_of_it_is_listed_and_the_image_in_it_is_the_image(unpacked, image):
    (name,) = [path.stem for path in unpacked.glob("*.tar")]
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    programs = {f"bin/{program}" for program in ("etcd", "etcdctl", "etcdutl", "etcd-muster")}
    units = {f"units/{path.name}" for path in UNITS.iterdir()}
    assert files == programs | units | {"INSTALL", "LICENSE", "THIRD-PARTY-LICENSES", "SHA256SUMS", f"{name}.tar", f"{name}.cdx.json"}
    listed = {line.split()[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    assert listed == files - {"SHA256SUMS"}
    assert Archive(unpacked / f"{name}.tar").entries() == image.entries()
    assert (unpacked / f"{name}.cdx.json").read_text() == image.path.with_suffix(".cdx.json").read_text()
    assert "@" not in (unpacked / "INSTALL").read_text()


def page_commands() -> list[list[str]]:
    """Of each block of commands in docs/offline.md, without the comments; for this machine."""
    text = (REPOSITORY / "docs/offline.md").read_text().replace("x86_64", platform.machine())
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("    ")]
    return [[line.partition("  #")[0].strip() for line in block] for block in blocks]


def test_page_and_install_tell_the_same_steps(unpacked):
    """Word for word, in that order. INSTALL's own are carried out by test_units.py."""
    _, (_, *told) = page_commands()
    lines = (line.strip() for line in (unpacked / "INSTALL").read_text().replace("ENGINE", "docker").splitlines())
    steps = [line.partition("  #")[0].strip() for line in lines]
    assert [line for line in steps if line in told] == told


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_without_a_network_it_is_verified_and_runs(bundle, tmp_path):
    """Nothing but the file, an empty directory, and no interface that is up. The page's words, then those of the programs."""
    _, (unpack, verify, *_) = page_commands()
    (tmp_path / bundle.name).symlink_to(bundle)
    commands = f"""
        set -e
        {unpack}
        {verify} >&2
        bin/etcd-muster --version; bin/etcd --version; bin/etcdctl version; bin/etcdutl version
        bin/etcd-muster discover || echo exit $?
    """
    alone = ["unshare", "--net", "env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", commands]
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("etcd-muster ") and lines[1] == f"etcd Version: {ETCD}"
    assert f"etcdctl version: {ETCD}" in lines and f"etcdutl version: {ETCD}" in lines
    assert lines[-1].startswith("exit "), "it says that nobody is there to be asked, and does not hang"
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with (folder / "bin/etcdctl").open("ab") as program:
        program.write(b"\0")
    torn = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert torn.returncode != 0 and "bin/etcdctl: FAILED" in torn.stdout
