"""A cluster with authentication on, and what its supervisors are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import form
from muster_tools.lab.etcd import EtcdError
from muster_tools.lab.node import Lab, Node

PASSWORD = "correct-horse-battery-staple"
USER, PASSWORD_FILE = "MUSTER_ETCD_USER", "MUSTER_ETCD_PASSWORD_FILE"


def form_guarded(lab: Lab, count: int = 3, size: int = 3, **env: str) -> list[Node]:
    """A cluster that lets nobody do anything without a token, and whose supervisors know how to get one."""
    lab.env.update(credentials(lab.directory / "password"))
    nodes = form(lab, count, size, **env)
    for path, body in (
        ("user/add", {"name": "root", "password": PASSWORD}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("enable", {}),
    ):
        nodes[0].etcd.post(f"/v3/auth/{path}", body)
    with pytest.raises(EtcdError, match="user name is empty"):
        nodes[-1].etcd.put("key", "stranger's")
    lab.log_in("root", PASSWORD)
    return nodes


def credentials(file: Path, password: str = PASSWORD) -> dict[str, str]:
    file.touch(0o600)
    file.write_text(f"{password}\n")
    return {USER: "root", PASSWORD_FILE: str(file)}
