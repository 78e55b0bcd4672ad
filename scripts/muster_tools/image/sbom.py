"""What is in the image: CycloneDX 1.5 as JSON."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import Any

from muster_tools.image import contents
from muster_tools.image.crates import Package
from muster_tools.image.project import Project
from muster_tools.image.release import DEBIAN_NAMES, Release
from muster_tools.repository import ROOT

Component = dict[str, Any]


def sbom(binary: bytes, crates: list[Package], project: Project, release: Release, arch: str, image_id: str) -> bytes:
    """Of the image with that id."""
    sums = _checksums()
    parts = [_etcd(release, arch), _supervisor(binary, project), *(_crate(package, sums) for package in crates)]
    subject = {
        "type": "container",
        "bom-ref": "image",
        "name": contents.NAME,
        "version": project.version,
        "hashes": _hashes(image_id.partition(":")[2]),
        "properties": [{"name": "architecture", "value": arch}],
    }
    told = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, image_id)}",
        "metadata": {"timestamp": contents.created(project), "component": subject},
        "components": parts,
    }
    return json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"


def _etcd(release: Release, arch: str) -> Component:
    programs = [
        {"type": "file", "bom-ref": f"/etcd/bin/{name}", "name": f"/etcd/bin/{name}", "hashes": _hashes(_sha256(content))}
        for name, content in sorted(release.programs.items())
    ]
    file = f"etcd-v{release.version}-linux-{DEBIAN_NAMES[arch]}.tar.gz"
    came_in = {"hashes": _hashes(release.tarball_sha256)} if release.tarball_sha256 else {}
    return {
        "type": "application",
        "bom-ref": "etcd",
        "name": "etcd",
        "version": release.version,
        "purl": f"pkg:github/etcd-io/etcd@v{release.version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "properties": [{"name": "release", "value": file}] if came_in else [],
        "components": programs,
        **came_in,
    }


def _supervisor(binary: bytes, project: Project) -> Component:
    return {
        "type": "application",
        "bom-ref": contents.NAME,
        "name": contents.NAME,
        "version": project.version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": _hashes(_sha256(binary)),
        "properties": [{"name": "commit", "value": project.revision}],
    }


def _crate(package: Package, sums: dict[tuple[str, str], str]) -> Component:
    name, version = package["name"], package["version"]
    url = f"pkg:cargo/{name}@{version}"
    licence = (package["license"] or "NOASSERTION").replace("/", " OR ")  # crates.io's old spelling
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
        "licenses": [{"expression": licence}],
        "hashes": _hashes(sums[name, version]),
    }


def _checksums() -> dict[tuple[str, str], str]:
    """Cargo.lock's, by name and version: the sha256 of what the registry holds."""
    pattern = re.compile(r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]{64})"')
    return {(name, version): sum_ for name, version, sum_ in pattern.findall((ROOT / "Cargo.lock").read_text())}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
