"""MUSTER_CLAIM and MUSTER_SNAPSHOTS in real stores. Three hosts found there or say why not; then all disks are lost, and nobody may found
again. One host stores snapshots there, proves them, and deletes those that are superseded.

Outside CI, for it fetches and needs root: hosts and store are in network namespaces. Two lines a store. Exit code 1 where one founded again,
ran without an established claim, or a snapshot is not what it was.

rclone and ministack are PyPI's; radosgw is a mon, an OSD and radosgw of the release that apt offers, unpacked, not installed; radosgw-trixie and
radosgw-sid are of those Debian series, each in a root of its own.
"""

from __future__ import annotations

from muster_tools import command
from muster_tools.lab import install

USUAL = ["rclone", "ministack"]


def main() -> int:
    parser = command.parser("stores", __doc__)
    parser.add_argument("stores", nargs="*", metavar="STORE", help=f"of {', '.join([*USUAL, 'radosgw', 'radosgw-trixie', 'radosgw-sid'])}; default: {' '.join(USUAL)}")
    command.add_binary(parser)
    options = parser.parse_args()
    install.go_on_in_the_venv()
    from muster_tools.stores import judge  # needs the venv

    return judge.judge_all(options.stores or USUAL, command.executable(options))
