"""Prometheus beside the lab: what nodes and etcds serve, as series; rules judged by promtool; a server that scrapes them.

`scripts/install-lab --with-prometheus` unpacks Debian's.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from muster_tools.lab import install
from muster_tools.lab.node import Node
from muster_tools.lab.process import Process
from muster_tools.lab.security import PLAIN, own_ca, own_files

PORT = 2382  # where a node serves its pages in these tests
ANSWER_SECONDS = 5
START_SECONDS = 60
JUDGE_SECONDS = 60
MISSING = "{} is not installed: scripts/install-lab --with-prometheus"

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
ESCAPE = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass
class Page:
    """What one target served at one moment."""

    at: float
    kinds: dict[str, str] = field(default_factory=dict)
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, at: float) -> Page:
        page = cls(at)
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                page.kinds[name] = kind
            elif found := SAMPLE.fullmatch(line):
                unescaped = lambda value: re.sub(r'\\[\\"n]', lambda escape: ESCAPE[escape[0]], value)
                labels = tuple(sorted((key, unescaped(value)) for key, value in LABEL.findall(found[2] or "")))
                page.samples[(found[1], labels)] = float(found[3])
        return page

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, tuple(sorted(labels.items()))))

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for found, labels in self.samples if found == name]


@dataclass
class Target:
    """One instance that Prometheus scrapes, and what it served, the latest last."""

    job: str
    instance: str
    pages: list[Page]

    def series(self, names: set[str], minutes: int) -> list[dict[str, str]]:
        """In promtool's notation: what was served, as if it went on for so long.

        Gauges stay as they are; counters rise in each minute as they did between the first page and the last; points in time are told from the last
        page on, for promtool's clock begins at 0.
        """
        first, last = self.pages[0], self.pages[-1]
        found = []
        for (name, labels), value in last.samples.items():
            if name not in names:
                continue
            if name.endswith("_timestamp_seconds") or name.endswith("_time_seconds"):
                value -= last.at
            rise = value - first.samples.get((name, labels), 0) if last.kinds.get(name) == "counter" else 0
            shown = ",".join(f"{key}={json.dumps(text)}" for key, text in [*labels, ("job", self.job), ("instance", self.instance)])
            found.append({"series": f"{name}{{{shown}}}", "values": f"{value!r}+{rise!r}x{minutes}"})
        return found


def listen(*nodes: Node) -> None:
    """They serve their pages over TCP from their next start on."""
    for node in nodes:
        node.env["MUSTER_STATUS_LISTEN"] = f"{node.address}:{PORT}"


def muster_page(node: Node) -> Page:
    connection = http.client.HTTPConnection(node.address, PORT, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return Page.parse(connection.getresponse().read().decode(), time.time())
    finally:
        connection.close()


def etcd_page(node: Node) -> Page:
    _, body = node.etcd.request("GET", "/metrics", node.etcd.client_port)
    return Page.parse(body.decode(), time.time())


def program(name: str) -> str:
    """Prometheus' program of that name.

    Raises FileNotFoundError, with what to do, where it is not installed.
    """
    found = install.prometheus(name)
    if found is None:
        raise FileNotFoundError(MISSING.format(name))
    return found


def promtool(*arguments: str | Path) -> str:
    """What it says; raises AssertionError with that if it objects."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=JUDGE_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def judge(folder: Path, rules: Path, targets: Iterable[Target], names: set[str], minutes: int, wanted: list[dict]) -> None:
    """Has promtool evaluate the rules over these targets, gone on for so long, and compare with the wanted alerts."""
    series = [one for target in targets for one in target.series(names, minutes)]
    test = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": wanted}]}
    file = folder / "rules-test.yaml"
    file.write_text(json.dumps(test, indent=1))  # every JSON is YAML
    promtool("test", "rules", file)


class Server:
    """A Prometheus that scrapes nodes and their etcds each second, as one job; they are called node-1, node-2, …"""

    def __init__(self, folder: Path, address: str, job: str, nodes: list[Node]):
        self._folder, self._listen, self._process = folder, f"{address}:9090", None
        groups = []
        for number, node in enumerate(nodes, 1):
            groups += [
                {"targets": [f"{node.address}:{PORT}"], "labels": {"instance": f"node-{number}:{PORT}"}},
                {
                    "targets": [f"{node.address}:{node.etcd.client_port}"],
                    "labels": {"instance": f"node-{number}:{node.etcd.client_port}", "__scheme__": node.security.scheme("client")},
                },
            ]
        scrape = {"job_name": job, "static_configs": groups}
        if nodes[0].security.modes["client"] != PLAIN:
            cert, key = own_files(nodes[0].directory, "client")
            scrape["tls_config"] = {"ca_file": str(own_ca(nodes[0].directory, "client")), "cert_file": str(cert), "key_file": str(key)}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yaml").write_text(json.dumps(config, indent=1))

    def __enter__(self) -> Server:
        options = {"config.file": "prometheus.yaml", "storage.tsdb.path": "tsdb", "web.listen-address": self._listen, "log.level": "warn"}
        command = [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        self._process = Process(command, {"PATH": os.environ["PATH"]}, self._folder, self._folder / "prometheus.log")
        try:
            self._wait_ready()
        except BaseException:
            self._process.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.exit_code() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://{self._listen}/-/ready", timeout=ANSWER_SECONDS):
                    return
            except OSError:  # an HTTPError is one, too
                time.sleep(0.1)
        raise AssertionError(f"Prometheus is not ready:\n{(self._folder / 'prometheus.log').read_text()}")

    def query(self, expression: str) -> list[dict]:
        """{"metric": labels, "value": [time, text]} each."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, begin: float, end: float) -> list[dict]:
        """{"metric": labels, "values": [[time, text], …]} each, a second apart."""
        return self._ask("query_range", query=expression, start=begin, end=end, step="1s")

    def _ask(self, what: str, **parameters: object) -> list[dict]:
        url = f"http://{self._listen}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from None
