"""All that a host without internet needs, in one file: the image, the bare programs, systemd units, checksums, an SBOM.

A .tar.gz with one directory; INSTALL in it says the rest. The options are those of scripts/image, and so is the promise: the
same inputs give the same file (with the same zlib).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

from muster_tools.image import archive, contents, making
from muster_tools.image.contents import Entry
from muster_tools.image.making import Inputs
from muster_tools.image.refusal import say, told
from muster_tools.repository import SCRIPTS

PROGRAM = "scripts/bundle"
UNITS = SCRIPTS / "units"
COMPRESSION = 4  # 6 takes more than twice as long, for 4 % less
INSTALL = Path(__file__).with_name("INSTALL")


def main() -> int:
    options = making.parser("bundle", __doc__, "etcd-muster-VERSION-ARCH-bundle.tar.gz").parse_args()
    return told(PROGRAM, lambda: make(options))


def make(options: argparse.Namespace) -> None:
    inputs = making.gather(options)
    output = options.output or making.OUTPUT / f"{inputs.name}-bundle.tar.gz"
    packed = archive.tar(entries(inputs), inputs.about.epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file, gzip.GzipFile("", "wb", COMPRESSION, file, inputs.about.epoch) as squeezed:
        squeezed.write(packed)
    say(PROGRAM, f"{output}: {output.stat().st_size / 2**20:.1f} MiB; tar -xzf it on the host, and read INSTALL")


def entries(inputs: Inputs) -> list[Entry]:
    """Everything below one directory."""
    files = {entry.path.removeprefix("/etcd/"): entry for entry in inputs.entries if entry.content is not None}
    image, id_ = inputs.image()
    plain = {f"units/{path.name}": path.read_bytes() for path in UNITS.iterdir()}
    plain |= {f"{inputs.name}.tar": image, f"{inputs.name}.cdx.json": inputs.sbom(id_), "INSTALL": install(inputs)}
    files |= {path: Entry(path, contents.READABLE, content=content) for path, content in plain.items()}
    sums = "".join(f"{hashlib.sha256(entry.content).hexdigest()}  {path}\n" for path, entry in sorted(files.items()))
    files["SHA256SUMS"] = Entry("", contents.READABLE, content=sums.encode())
    directories = [inputs.name, f"{inputs.name}/bin", f"{inputs.name}/units"]
    found = [Entry(path, contents.PUBLIC) for path in directories]
    return found + [Entry(f"{inputs.name}/{path}", entry.mode, content=entry.content) for path, entry in sorted(files.items())]


def install(inputs: Inputs) -> bytes:
    text = INSTALL.read_text().replace("@NAME@", inputs.name).replace("@VERSION@", inputs.about.version)
    return text.replace("@ETCD@", inputs.etcd.version).encode()
