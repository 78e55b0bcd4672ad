"""From options to an image: what scripts/image and scripts/bundle have in common."""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path

from muster_tools import command
from muster_tools.image import archive, contents, crates, licences, project, release, sbom
from muster_tools.image.contents import Entry
from muster_tools.image.crates import Package
from muster_tools.image.project import Project
from muster_tools.image.release import Release
from muster_tools.repository import ROOT

OUTPUT = ROOT / "target" / "image"


@dataclass(frozen=True)
class Inputs:
    arch: str
    about: Project
    etcd: Release
    binary: bytes
    crates: list[Package]
    licences: dict[str, bytes]

    @property
    def own_size(self) -> int:
        """What the image has beside etcd's files."""
        return len(self.binary) + sum(map(len, self.licences.values()))

    @property
    def entries(self) -> list[Entry]:
        return contents.entries(self.binary, self.etcd, self.licences)

    @property
    def name(self) -> str:
        return f"{contents.NAME}-{self.about.version}-{self.arch}"

    def image(self) -> tuple[bytes, str]:
        """The file, and the image's id."""
        return archive.image(self.entries, self.about, self.etcd, self.arch)

    def sbom(self, image_id: str) -> bytes:
        return sbom.sbom(self.binary, self.crates, self.about, self.etcd, self.arch, image_id)


def gather(options: argparse.Namespace) -> Inputs:
    """etcd first: to build takes longer than to find that there is none."""
    directory = options.output.parent if options.output else OUTPUT
    etcd = release.obtain(options.etcd, options.arch, options.sums, cache=directory / "downloads")
    binary = project.binary(options.arch, options.binary)
    linked = crates.linked(options.arch)
    return Inputs(options.arch, project.describe(options.source), etcd, binary, linked, licences.files(linked))


def parser(program: str, text: str, output: str) -> argparse.ArgumentParser:
    made = command.parser(program, text)
    made.add_argument("--etcd", metavar="DIR|TARBALL|VERSION", help=f"default: ETCD_DIR, else {release.DEFAULT_VERSION}")
    made.add_argument("--arch", choices=tuple(release.DEBIAN_NAMES), default=platform.machine(), help="default: %(default)s")
    made.add_argument("--output", type=Path, metavar="FILE", help=f"default: target/image/{output}")
    made.add_argument("--binary", type=Path, metavar="FILE", help="an etcd-muster that is built already; default: scripts/build")
    made.add_argument("--source", metavar="URL", help="where the code can be had, for the label; default: git's origin")
    made.add_argument("--sums", type=Path, metavar="FILE", default=release.SUMS, help="sha256 sums of the releases to fetch")
    return made
