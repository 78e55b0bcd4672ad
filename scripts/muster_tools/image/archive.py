"""An image as one tar file that is both what `docker save` writes (docker load, podman load) and an OCI layout.

Nothing in it comes from the machine that writes it: entries in a fixed order, times and owners as given.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from muster_tools.image import contents
from muster_tools.image.contents import Entry
from muster_tools.image.project import Project
from muster_tools.image.release import Release

OCI = "application/vnd.oci.image"


def image(found: list[Entry], project: Project, release: Release, arch: str) -> tuple[bytes, str]:
    """The file, and the image's id: its config's digest, as `docker images` shows it."""
    files = tar(found, project.epoch)
    told = {
        **contents.platform(arch),
        "created": contents.created(project),
        "config": contents.settings(project, release),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(files)}"]},
        "history": [{"created": contents.created(project), "created_by": "scripts/image"}],
    }
    config = _json(told)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{OCI}.config.v1+json"),
            "layers": [_descriptor(files, f"{OCI}.layer.v1.tar")],
        }
    )
    name = f"{contents.NAME}:{project.version}"
    listed = {
        **_descriptor(manifest, f"{OCI}.manifest.v1+json"),
        "platform": contents.platform(arch),
        # In full: Docker's containerd store keeps this name as it is, and looks for the full one when asked for the short one.
        "annotations": {"io.containerd.image.name": f"docker.io/library/{name}", "org.opencontainers.image.ref.name": project.version},
    }
    docker = [{"Config": _blob(config), "RepoTags": [name], "Layers": [_blob(files)]}]
    parts = {_blob(content): content for content in (files, config, manifest)} | {
        "index.json": _json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [listed]}),
        "manifest.json": _json(docker),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }
    tree = [Entry(f"/{path}", contents.PUBLIC) for path in ("blobs", "blobs/sha256")]
    tree += [Entry(f"/{path}", contents.READABLE, content=content) for path, content in sorted(parts.items())]
    return tar(tree, project.epoch), f"sha256:{_sha256(config)}"


def tar(found: list[Entry], epoch: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for entry in found:
            header = tarfile.TarInfo(entry.path.removeprefix("/"))
            header.mode, header.uid, header.gid, header.mtime = entry.mode, entry.owner, entry.owner, epoch
            header.type = tarfile.DIRTYPE if entry.content is None else tarfile.REGTYPE
            header.size = len(entry.content or b"")
            archive.addfile(header, io.BytesIO(entry.content or b""))
    return written.getvalue()


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{_sha256(content)}"


def _descriptor(content: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{_sha256(content)}", "size": len(content)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
