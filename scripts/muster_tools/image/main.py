"""The container image, as one file for `docker load` and `podman load`, with its SBOM beside it.

Nothing but etcd, etcdctl, etcdutl, etcd-muster and licences is in it. etcd comes from a directory, a release's tarball, or upstream,
verified by the sums kept in scripts/muster_tools/image. The same inputs give the same file, bit for bit: times are
SOURCE_DATE_EPOCH's, else the last commit's. Needs no container engine and nothing but Python's standard library.
ETCD_DIR is the default of --etcd; ETCD_DOWNLOAD_URL names a mirror of upstream's releases.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from muster_tools.image import contents, making
from muster_tools.image.making import Inputs
from muster_tools.image.refusal import Refused, say, told
from muster_tools.repository import ROOT

PROGRAM = "scripts/image"


def main() -> int:
    parser = making.parser("image", __doc__, "etcd-muster-VERSION-ARCH.tar")
    parser.add_argument("--load", action="store_true", help="hand it to docker, or podman where there is no docker")
    parser.add_argument("--context", type=Path, metavar="DIR", help="instead: a context for Dockerfile.scratch")
    options = parser.parse_args()
    return told(PROGRAM, lambda: make(options))


def make(options: argparse.Namespace) -> None:
    inputs = making.gather(options)
    if options.context:
        prepare_context(options.context, inputs)
        return
    output = options.output or making.OUTPUT / f"{inputs.name}.tar"
    image, id_ = inputs.image()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(image)
    listing = output.with_name(output.name.removesuffix(".tar") + ".cdx.json")
    listing.write_bytes(inputs.sbom(id_))
    own = inputs.own_size
    say(PROGRAM, f"{output}: {contents.NAME}:{inputs.about.version} for {inputs.arch}, {id_}")
    say(PROGRAM, f"etcd {inputs.etcd.version}'s files and {own} bytes ({own / 2**20:.2f} MiB); SBOM: {listing}")
    if options.load:
        load(output)


def prepare_context(directory: Path, inputs: Inputs) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise Refused(f"{directory} is not empty; what lies in it would get into the image")
    contents.write_context(directory, inputs.entries)
    arguments = " ".join(contents.build_arguments(inputs.about, inputs.etcd))
    dockerfile = ROOT / "Dockerfile.scratch"
    print(f"docker build -f {dockerfile} {arguments} -t {contents.NAME}:{inputs.about.version} {directory}")


def load(image: Path) -> None:
    engine = shutil.which("docker") or shutil.which("podman")
    if engine is None:
        raise Refused("neither docker nor podman is here to load it")
    if subprocess.run([engine, "load", "--quiet", "--input", str(image)], stdout=sys.stderr).returncode != 0:
        raise Refused(f"{engine} load failed, for the reason above")
