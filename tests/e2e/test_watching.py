"""docs/alerts.yaml, judged by promtool over what real supervisors and etcds serve; docs/dashboard.json, asked of a Prometheus that scraped them."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from fleet import BOUND, launch, put_etcd, start, stop, wait_formed
from muster_tools.lab import install, pki, prometheus
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.ec2_faults import hidden, refused, unauthorized
from muster_tools.lab.prometheus import Page, Target, etcd_page, judge, listen, muster_page
from muster_tools.lab.security import FILES, Security, own_files
from muster_tools.repository import DOCS, ROOT

ALERTS = DOCS / "alerts.yaml"
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
METRIC = re.compile(r"\b(?:etcd|process|grpc)_[a-z0-9_]+")
BUCKET = "watched"
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")
CLAIM = f"s3://{BUCKET}/claim"
JOB = "blue"
MINUTE, HOUR = 1, 60
LATER = 20 * MINUTE  # everything that waits for ten minutes or fifteen is due

BOARD = json.loads((DOCS / "dashboard.json").read_text())
WIDE = 24  # columns of Grafana's grid
KINDS = {"stat", "table", "state-timeline", "timeseries"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

needs_promtool = pytest.mark.skipif(install.prometheus("promtool") is None, reason=prometheus.MISSING.format("promtool"))


def metrics_in(text: str) -> set[str]:
    return set(METRIC.findall(text))


NAMES = set().union(*(metrics_in(rule["expr"]) for rule in RULES.values()))


def duration(seconds: float) -> str:
    """Prometheus' humanizeDuration, from a second on."""
    if abs(seconds) < 60:
        return f"{seconds:.4g}s"
    minutes, rest = divmod(int(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    first = next(place for place, (count, _) in enumerate(parts) if count)
    return ("-" if seconds < 0 else "") + " ".join(f"{count}{unit}" for count, unit in parts[first:])


def rendered(template: str, labels: dict[str, str], value: float) -> str:
    known = {"$value": f"{value:g}", "$value | humanizeDuration": duration(value)}
    known |= {f"$labels.{name}": text for name, text in labels.items()}
    return re.sub(r"\{\{ (.*?) \}\}", lambda field: known[field[1]], template)


def alerts_at(minutes: int, **due: list[tuple[dict[str, str], float]]) -> list[dict]:
    """What promtool is to find then: these alerts, with these labels and values, in the rules' own words, and no other."""
    assert set(due) <= set(RULES), due
    wanted = []
    for name, rule in RULES.items():
        alerts = [
            {
                "exp_labels": {"job": JOB, **labels, **rule["labels"]},
                "exp_annotations": {key: rendered(text, {"job": JOB, **labels}, value) for key, text in rule["annotations"].items()},
            }
            for labels, value in due.get(name, [])
        ]
        wanted.append({"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": alerts})
    return wanted


def supervisor(node, *pages: Page) -> Target:
    return Target(JOB, f"{node.address}:{prometheus.PORT}", list(pages) or [muster_page(node)])


def etcd(node) -> Target:
    return Target(JOB, f"{node.address}:{node.etcd.client_port}", [etcd_page(node)])


def at(node, **labels: str) -> dict[str, str]:
    return {"instance": f"{node.address}:{prometheus.PORT}", **labels}


def wait_page(lab, node, wanted, what: str) -> Page:
    """Its page, once it is as wanted."""

    def found() -> Page | None:
        page = muster_page(node)
        return page if wanted(page) else None

    return lab.wait(found, BOUND, f"a page of {node.address}: {what}")


def wait_step(lab, node, step: str, reason: str) -> Page:
    return wait_page(lab, node, lambda page: page.value("etcd_muster_step", step=step, reason=reason), f"{step} {reason}")


def is_whole(voters: int):
    """Ready, and the members were counted since."""
    return lambda page: page.value("etcd_muster_ready") and page.value("etcd_muster_members", state="voter") == voters


@pytest.fixture
def bucket(lab):
    """For the claim."""
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    lab.env["MUSTER_CLAIM"] = CLAIM
    return s3


def unwritable(prefix: str):
    """No object below that path can be written."""
    denied = refused(403, "AccessDenied", "Access Denied")
    return lambda call, proceed: denied(call, proceed) if call.request.method == "PUT" and call.request.target.startswith(prefix) else proceed()


# The file itself.


@needs_promtool
def test_promtool_accepts_the_rules():
    assert f"{len(RULES)} rules found" in prometheus.promtool("check", "rules", ALERTS)


def test_every_alert_says_what_is_wrong_where_and_what_to_read():
    for name, rule in RULES.items():
        told = rule["annotations"]
        assert set(told) == {"summary", "description", "docs"}, name
        assert "$labels.job" in told["summary"] and rule["labels"]["severity"] in ("critical", "warning"), name
        page, _, heading = told["docs"].partition(", ")
        assert re.search(rf"^#+ {re.escape(heading)}$", (ROOT / page).read_text(), re.MULTILINE), told["docs"]
        assert f"{name}=" in Path(__file__).read_text(), f"no test here has {name} fire"


# A run, and what follows if it goes on like that.


@needs_promtool
def test_a_healthy_cluster_raises_nothing_until_its_snapshots_are_old(lab, bucket, tmp_path):
    """Three members with TLS, a claim and snapshots: nobody is woken. Left as it is for hours, the snapshots are old."""
    place = tmp_path / "share"
    place.mkdir()
    lab.security = Security(client=FILES, peer=FILES)
    nodes = launch(lab, 3, size=3, MUSTER_SNAPSHOTS=f"file:{place}", MUSTER_SNAPSHOT_EVERY="1h")
    listen(*nodes)
    start(*nodes)
    wait_formed(lab, *nodes)
    for node in nodes:
        wait_page(lab, node, is_whole(3), "whole")
        wait_page(lab, node, lambda page: page.value("etcd_muster_claim", state="established"), "the claim read")
    verified = "etcd_muster_snapshot_last_verified_timestamp_seconds"
    lab.wait(lambda: any(verified in muster_page(node).names() for node in nodes), BOUND, "a verified snapshot")
    targets = [target for node in nodes for target in (supervisor(node), etcd(node))]
    ages = [page.at - page.value(verified, place=f"file:{place}") for target in targets for page in target.pages if verified in page.names()]
    # To the second: promtool's clock has whole minutes, and the newest look is at its begin.
    old = 4 * HOUR * 60 + min(ages)
    due = {"EtcdMusterSnapshotOld": [({"place": f"file:{place}"}, old)]}
    judge(tmp_path, ALERTS, targets, NAMES, 5 * HOUR, [*alerts_at(LATER), *alerts_at(2 * HOUR), *alerts_at(4 * HOUR, **due)])


@needs_promtool
def test_a_node_that_waits_alone_holds_and_its_claim_is_absent(lab, bucket, tmp_path):
    (node,) = launch(lab, 1, size=3)
    listen(node)
    start(node)
    page = wait_page(lab, node, lambda page: page.value("etcd_muster_claim", state="absent"), "the claim read")
    (step,) = page.labels("etcd_muster_step")
    assert step["step"] == "hold" and step["reason"], step
    due = dict(
        EtcdMusterHold=[(at(node, **step), 1)],
        EtcdMusterNotReady=[(at(node), 0)],
        EtcdMusterTooFewMembers=[({}, 3)],
        EtcdMusterClaim=[(at(node, state="absent"), 1)],
    )
    judge(tmp_path, ALERTS, [supervisor(node, page)], NAMES, HOUR, [*alerts_at(9 * MINUTE), *alerts_at(LATER, **due)])


@needs_promtool
def test_a_spare_waits_without_an_alert(lab, tmp_path):
    (member,) = launch(lab, 1, size=1)
    listen(member)
    start(member)
    wait_page(lab, member, is_whole(1), "whole")
    spare = lab.add_node()
    listen(spare)
    start(spare)
    wait_step(lab, spare, "hold", "spare")
    judge(tmp_path, ALERTS, [supervisor(member), supervisor(spare)], NAMES, HOUR, alerts_at(LATER))


@needs_promtool
def test_data_of_another_cluster_is_a_halt_and_two_clusters(lab, tmp_path):
    stray, other = launch(lab, 2, size=1)
    listen(stray, other)
    for node, hides in ((stray, other), (other, stray)):
        node.front.add(hidden(hides.instance.id))
    start(stray, other)
    wait_formed(lab, stray), wait_formed(lab, other)
    stop(stray)
    lab.heal_ec2()
    start(stray)
    wait_step(lab, stray, "halt", "foreign_data")
    wait_page(lab, other, is_whole(1), "whole")
    halt = [(at(stray, step="halt", reason="foreign_data"), 1)]
    due = dict(EtcdMusterHalt=halt, EtcdMusterNotReady=[(at(stray), 0)], EtcdMusterTwoClusters=[({}, 2)])
    wanted = [*alerts_at(0, EtcdMusterHalt=halt), *alerts_at(LATER, **due)]
    judge(tmp_path, ALERTS, [supervisor(stray), supervisor(other)], NAMES, HOUR, wanted)


@needs_promtool
def test_a_lost_host_is_a_member_too_few_and_an_upgrade_that_stands_still_is_named(lab, tmp_path):
    """Of three members one is of another release, and one host is gone with its page: nobody but its absence tells."""
    nodes = launch(lab, 3, size=3)
    put_etcd(nodes[0], "3.5.35")
    put_etcd(nodes[1], "3.5.33")
    put_etcd(nodes[2], "3.5.35")
    listen(*nodes)
    start(*nodes)
    wait_formed(lab, *nodes)
    lost = nodes.pop()
    lost.power_off()
    for node in nodes:
        wait_page(lab, node, is_whole(3), "whole")
    targets = [target for node in nodes for target in (supervisor(node), etcd(node))]
    # Of another release of ours there is none here: one page says that it is of one.
    page = targets[0].pages[0]
    (ours,) = page.labels("etcd_muster_build_info")
    page.samples[("etcd_muster_build_info", (("version", f"{ours['version']}-next"),))] = page.samples.pop(
        ("etcd_muster_build_info", (("version", ours["version"]),))
    )
    few = dict(EtcdMusterTooFewMembers=[({}, 1)])
    mixed = dict(EtcdMusterMixedReleases=[({}, 2)], EtcdMusterMixedEtcdReleases=[({}, 2)])
    judge(tmp_path, ALERTS, targets, NAMES, 26 * HOUR, [*alerts_at(LATER, **few), *alerts_at(25 * HOUR, **few, **mixed)])


@needs_promtool
def test_refused_calls_to_ec2_are_told_from_a_few_that_fail(lab, tmp_path):
    (node,) = launch(lab, 1, size=1)
    listen(node)
    lab.fault_ec2(unauthorized())
    start(node)
    errors = lambda page: page.value("etcd_muster_api_errors_total", service="ec2")
    first = wait_page(lab, node, lambda page: errors(page) >= 1, "an error")
    last = wait_page(lab, node, lambda page: errors(page) >= errors(first) + 2, "more errors")
    due = dict(
        EtcdMusterAwsFails=[(at(node, service="ec2"), 30 * (errors(last) - errors(first)))],
        EtcdMusterHold=[(at(node, step="hold", reason="roster_unknown"), 1)],
        EtcdMusterNotReady=[(at(node), 0)],
        EtcdMusterTooFewMembers=[({}, 1)],
    )
    judge(tmp_path, ALERTS, [supervisor(node, first, last)], NAMES, 2 * HOUR, alerts_at(HOUR, **due))
    # The same errors among many more calls are no alert.
    calls = ("etcd_muster_api_calls_total", (("service", "ec2"),))
    last.samples[calls] += 2 * (errors(last) - errors(first))
    del due["EtcdMusterAwsFails"]
    judge(tmp_path, ALERTS, [supervisor(node, first, last)], NAMES, 2 * HOUR, alerts_at(HOUR, **due))


@needs_promtool
def test_a_claim_that_cant_be_read_is_unknown(lab, bucket, tmp_path):
    lab.ec2.set_role_actions(*NODE_ACTIONS)
    (node,) = launch(lab, 1, size=1)
    listen(node)
    start(node)
    page = wait_step(lab, node, "hold", "claim_unknown")
    due = dict(
        EtcdMusterClaim=[(at(node, state="unknown"), 1)],
        EtcdMusterHold=[(at(node, step="hold", reason="claim_unknown"), 1)],
        EtcdMusterNotReady=[(at(node), 0)],
        EtcdMusterTooFewMembers=[({}, 1)],
    )
    judge(tmp_path, ALERTS, [supervisor(node, page)], NAMES, HOUR, alerts_at(LATER, **due))


@needs_promtool
def test_certificates_that_end_soon_and_snapshots_that_fail(lab, bucket, tmp_path):
    """And every metric that the rules and the board name is served by some supervisor or etcd: this one has all that there is."""
    good, refusing = tmp_path / "good", f"s3://{BUCKET}/backups"
    good.mkdir()
    lab.security = Security(client=FILES, peer=FILES)
    # A CA that outlives its leaf by ten days.
    old = pki.Ca("client CA", end=timedelta(days=20))
    lab.security._cas["client"] = old
    lab.security._contexts["client"] = lab.security.context("client")
    places = f"file:{good},{refusing}"
    (node,) = launch(lab, 1, size=1, MUSTER_SNAPSHOTS=places, MUSTER_SNAPSHOT_EVERY="1s")
    cert, key = own_files(node.directory, "client")
    old.issue(node.address, "127.0.0.1", end=timedelta(days=10)).write(cert, key)
    node.front.add(unwritable(f"/{BUCKET}/backups/"))
    listen(node)
    start(node)
    failures = lambda page: sum(value for (name, _), value in page.samples.items() if name == "etcd_muster_snapshot_failures_total")
    verified = "etcd_muster_snapshot_last_verified_timestamp_seconds"
    first = wait_page(lab, node, lambda page: not failures(page), "no failure yet")
    last = wait_page(lab, node, lambda page: failures(page) and verified in page.names() and is_whole(1)(page), "a failure")
    (reason,) = {labels["reason"] for labels in last.labels("etcd_muster_snapshot_failures_total")}
    asked = NAMES.union(*(metrics_in(expression) for _, expression in expressions()))
    lacking = asked - last.names() - etcd_page(node).names()
    assert not lacking, f"nobody serves {lacking}"
    failing, elsewhere = {"place": refusing}, {"place": f"file:{good}"}
    stored = last.value(verified, **elsewhere) - last.at
    ends = lambda kind: last.value(f"etcd_muster_{kind}_expiry_timestamp_seconds", side="client") - last.at
    hours = 7 * HOUR
    seconds = hours * 60
    due = dict(
        EtcdMusterCertificateExpires=[(at(node, side="client"), ends("certificate") - seconds)],
        EtcdMusterCaExpires=[(at(node, side="client"), ends("ca") - seconds)],
        EtcdMusterSnapshotFails=[({**failing, "reason": reason}, 1)],
        EtcdMusterSnapshotNever=[(failing, 1)],
        EtcdMusterSnapshotOld=[(elsewhere, seconds - stored)],
    )
    judge(tmp_path, ALERTS, [supervisor(node, first, last)], NAMES, 8 * HOUR, alerts_at(hours, **due))


# The board.


def expressions() -> list[tuple[str, str]]:
    """Title and expression of everything that the board asks."""
    return [(panel["title"], target["expr"].replace("$job", JOB)) for panel in BOARD["panels"] for target in panel["targets"]]


def test_the_board_is_one_that_grafana_reads():
    """What its schema demands of such panels; each has its own place, and asks the source and the cluster that are chosen."""
    assert BOARD["title"] and BOARD["uid"] and BOARD["schemaVersion"] >= 36  # from there on a data source is an object
    assert {variable["name"]: variable["type"] for variable in BOARD["templating"]["list"]} == {"datasource": "datasource", "job": "query"}
    cells, ids = set(), set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert panel["type"] in KINDS and panel["title"] and panel["description"].endswith("."), panel["title"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert own and not own & cells and place["x"] + place["w"] <= WIDE, panel["title"]
        cells |= own
        assert panel["id"] not in ids and panel["datasource"] == SOURCE and panel["targets"], panel["title"]
        ids.add(panel["id"])
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == SOURCE, panel["title"]
            chosen = re.findall(METRIC.pattern + r"(\{[^}]*\})?", target["expr"])
            assert chosen and all('job="$job"' in labels for labels in chosen), target["expr"]


def test_the_picture_is_of_this_board():
    picture = (DOCS / "dashboard.svg").read_text()
    lacking = [panel["title"] for panel in BOARD["panels"] if f">{panel['title']}<" not in picture]
    assert not lacking, f"scripts/board --write draws it anew: {lacking}"


@pytest.mark.skipif(install.prometheus("prometheus") is None, reason=prometheus.MISSING.format("prometheus"))
def test_every_panel_of_the_board_shows_something(lab, bucket, tmp_path):
    """A real Prometheus that scraped a real cluster, with a spare, a place that works and one that refuses."""
    good = tmp_path / "good"
    good.mkdir()
    lab.security = Security(client=FILES, peer=FILES)
    nodes = launch(lab, 3, size=3, MUSTER_SNAPSHOTS=f"file:{good},s3://{BUCKET}/backups", MUSTER_SNAPSHOT_EVERY="1s")
    listen(*nodes)
    for node in nodes:
        node.front.add(unwritable(f"/{BUCKET}/backups/"))
    start(*nodes)
    wait_formed(lab, *nodes)
    spare = lab.add_node()
    listen(spare)
    start(spare)
    wait_step(lab, spare, "hold", "spare")
    with prometheus.Server(tmp_path, nodes[0].address, JOB, [*nodes, spare]) as server:
        for title, expression in expressions():

            def numbers() -> list[float]:
                return [number for one in server.query(expression) if math.isfinite(number := float(one["value"][1]))]

            assert lab.wait(numbers, BOUND, f"{title}: {expression}")
        shown = lambda title: [float(one["value"][1]) for name, asked in expressions() if name == title for one in server.query(asked)]
        truth = {"Healthy members": [3], "Wanted members": [3], "See a leader": [3], "Quorum": [3, 2]}
        truth |= {"Holds and halts": [0], "Holds by kind": [1], "Clusters seen": [1], "Releases": [1, 1]}
        lab.wait(lambda: all(shown(title) == numbers for title, numbers in truth.items()), BOUND, f"a board that shows {truth}")
