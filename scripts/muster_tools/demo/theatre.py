"""Sets the lab up, has the story played, and clears everything away, however it ended."""

from __future__ import annotations

import argparse
import shutil
import traceback
from contextlib import suppress
from pathlib import Path

from muster_tools.demo import prepare
from muster_tools.demo.ending import Failed, Interrupted, Interrupts
from muster_tools.demo.progress import first_line, say
from muster_tools.demo.screen import open_screen
from muster_tools.demo.stage import Stage
from muster_tools.demo.story import DWELL_SECONDS, Story
from muster_tools.demo.tour import give_tour
from muster_tools.lab.node import Lab

LOGS = prepare.OUTPUT / "logs"  # of the last run that failed


def perform(binary: Path, options: argparse.Namespace, interrupts: Interrupts) -> None:
    settings = {"MUSTER_CLUSTER_SIZE": str(options.nodes), "MUSTER_REMOVE_AFTER": f"{DWELL_SECONDS}s"}
    try:
        with Lab(etcd=options.etcd, muster=binary, env=settings) as lab:
            # What ends it is not raised inside: a lab whose block raises keeps its directory, and ours is to go.
            ending, story = _play(lab, binary, options, interrupts)
    except (OSError, AssertionError) as error:
        raise Failed(f"the lab could not be set up or cleared away: {error}") from error
    if ending is not None:
        raise ending
    for line in story.times.lines(story.count):
        say(line)
    say("demo: passed")


def _play(
    lab: Lab, binary: Path, options: argparse.Namespace, interrupts: Interrupts
) -> tuple[Exception | None, Story]:
    """The story, and what ended it before its time."""
    stage = Stage()
    stage.title = f"etcd-muster: {options.nodes} nodes, etcd {options.etcd}"
    screen = open_screen(stage)
    story = Story(lab, stage, screen, options.nodes, options.rounds, interrupts)
    ending: Exception | None = None
    try:
        story.play_disaster() if options.disaster else story.play()
        if options.keep:
            screen.print("\n".join([*story.times.lines(story.count), "demo: passed"]))
            give_tour(story, screen, prepare.etcdctl(options.etcd), binary, lab.directory)
    except (Interrupted, BrokenPipeError) as stop:
        ending = stop
    except Failed as failure:
        ending = Failed(f"{failure}; logs: {_keep_logs(lab)}")
    except Exception as error:  # of the demo or the lab itself
        logs = _keep_logs(lab)
        (logs / "demo-traceback.txt").write_text(traceback.format_exc())
        ending = Failed(f"{type(error).__name__}: {first_line(str(error))}; logs: {logs}")
    finally:
        stage.close()
        screen.close(leave_frame=not isinstance(ending, Interrupted))
    return ending, story


def _keep_logs(lab: Lab) -> Path:
    """Copies of what the nodes and EC2 said; the disks are not worth their size."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    logs = {node.log: f"{node.directory.name}.log" for node in lab.nodes}
    logs[lab.directory / "moto.log"] = "moto.log"
    for log, name in logs.items():
        with suppress(FileNotFoundError):  # it failed before there was one
            shutil.copy(log, LOGS / name)
    return LOGS
