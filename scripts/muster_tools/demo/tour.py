"""--keep: what to try while the cluster runs, with this lab's own paths and addresses."""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import sys
from pathlib import Path

from muster_tools.demo.ending import Failed
from muster_tools.demo.screen import Live, Plain
from muster_tools.demo.stage import Actor
from muster_tools.demo.story import KEY, Story

LOOK_SECONDS = 0.1  # how soon Ctrl-C and Enter are heard


def give_tour(story: Story, screen: Live | Plain, etcdctl: Path, binary: Path, directory: Path) -> None:
    """Stays until a signal; Enter plays another replacement. What breaks now was broken by the user, who may look."""
    keyboard = sys.stdin.isatty() and isinstance(screen, Live)

    def show() -> None:
        lines = suggestions(story.actors, etcdctl, binary, directory)
        screen.print("\n".join(["", "Try, in another terminal:", *lines]))

    show()
    _invite(screen, keyboard)
    while True:
        if _enter_pressed(keyboard):
            try:
                story.replace(story.write_and_read())
                show()
            except Failed as failure:
                screen.note(str(failure), good=False)
            _invite(screen, keyboard)
        story.check_behind_the_scenes()


def _invite(screen: Live | Plain, keyboard: bool) -> None:
    enter = "Enter terminates the next instance and launches another, " if keyboard else ""
    screen.act(f"The cluster runs. {enter}Ctrl-C ends everything and cleans up.")


def suggestions(actors: list[Actor], etcdctl: Path, binary: Path, directory: Path) -> list[str]:
    """Each a comment and its commands, to be pasted as they are."""
    ask = f"ETCDCTL_API=3 {shlex.quote(str(etcdctl))}"
    one, gateway = actors[-1], _client_url(actors[-1])
    everywhere = ",".join(_client_url(actor) for actor in actors)
    settings = _settings_file(one, directory)
    run = f". {shlex.quote(str(settings))}; exec {shlex.quote(str(binary))}"
    key = json.dumps({"key": base64.b64encode(KEY.encode()).decode()})
    return [
        "  # the cluster, as etcd's own client shows it",
        f"  {ask} --endpoints={gateway} member list -w table",
        f"  {ask} --endpoints={everywhere} endpoint status -w table",
        f"  {ask} --endpoints={gateway} get {KEY}",
        f"  # the JSON gateway of {one.instance}; keys and values are base64",
        f"  curl -s --noproxy '*' {gateway}/v3/kv/range -d '{key}'",
        f"  curl -s --noproxy '*' {gateway}/health",
        f"  # etcd-muster, as on {one.instance}",
        *(f"  sh -c {shlex.quote(f'{run} {command}')}" for command in ("members", "status", "health", "plan", "discover")),
        f"  # kill the etcd of {one.instance}: its supervisor starts it again",
        f"  {_kill_etcd(one)}",
    ]


def _client_url(actor: Actor) -> str:
    return f"http://{actor.node.address}:{actor.node.etcd.client_port}"


def _settings_file(actor: Actor, directory: Path) -> Path:
    """The variables that this instance's etcd-muster has, for a shell to read."""
    file = directory / f"{actor.instance}.env"
    settings = {name: value for name, value in actor.node.environment().items() if name != "PATH"}
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()))
    return file


def _kill_etcd(actor: Actor) -> str:
    """Its etcd is the supervisor's child, whichever life it is in."""
    return f"pkill -KILL -P {actor.node.process.pid}"


def _enter_pressed(keyboard: bool) -> bool:
    """Waits a moment for it."""
    sources = [sys.stdin] if keyboard else []
    ready, _, _ = select.select(sources, [], [], LOOK_SECONDS)
    return bool(ready) and bool(os.read(sys.stdin.fileno(), 4096))
