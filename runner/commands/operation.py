"""The service itself: status, drain, resume, stop."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from runner.commands.jobs import AsJson, client, tell_all, when

app = typer.Typer()


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what the service does, how many jobs have a slot and how many wait, and why none starts."""
    with client() as service:
        _tell(service.status(), as_json=as_json)


@app.command()
def drain(
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing runs any more.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 24 * 3600.0,
    as_json: AsJson = False,
) -> None:
    """Start no more jobs, also after a restart, until `runner resume`.

    Running jobs go on; new jobs are taken and wait. With --wait, Ctrl-C leaves the service draining.
    """
    with client() as service:
        view = service.drain()
        _tell(service.wait_until_idle(timeout) if wait else view, as_json=as_json)


@app.command()
def resume(as_json: AsJson = False) -> None:
    """Start waiting jobs again, after `runner drain`."""
    with client() as service:
        _tell(service.resume(), as_json=as_json)


@app.command()
def sandboxes(as_json: AsJson = False) -> None:
    """List the sandboxes that jobs may be given, and which job has one."""
    with client() as service:
        known = service.sandboxes()
    head = ["SANDBOX", "PROFILE", "STATE", "SECONDS", "TRUST KEY", "JOB", "REASON"]
    tell_all(known, head, _sandbox, as_json=as_json)


def _sandbox(one: dict[str, Any]) -> list[str]:
    since = "" if one["seconds_in_state"] is None else f"{one['seconds_in_state']:.1f}"
    told = [one["name"], one["profile"], one["state"], since, one["trust_key"], one["job"], one["reason"]]
    return [word or "" for word in told]


@app.command()
def webhooks(as_json: AsJson = False) -> None:
    """List the webhook messages that their receivers have not accepted."""
    with client() as service:
        messages = service.webhooks()
    tell_all(messages, ["JOB", "RECEIVER", "TRIES", "AGAIN", "PROBLEM"], _message, as_json=as_json)


def _message(one: dict[str, Any]) -> list[str]:
    again = when(one["due"]) if one["due"] else "never"
    return [one["job"], one["receiver"], str(one["tries"]), again, one["problem"]]


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="End what runs: its outcome is `runner_stopped`.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the service when no job runs any more. Waiting jobs are kept for its next start."""
    with client() as service:
        _tell(service.stop(force=force), as_json=as_json)


def _tell(view: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(view))
        return
    gitlab = f", {view['gitlab_running']} jobs of GitLab run" if view["gitlab_running"] else ""
    drained = f" by {view['drained_by']} since {when(view['drained_since'])}" if view["drained_by"] else ""
    counts = f"{view['running']} of {view['slots']} slots are taken{gitlab}, {view['waiting']} jobs wait"
    print(f"runner {view['version']} is {view['mode']}{drained}: {counts}")
    if view["disk"] != "well":
        free = view["disk_free"] // 1024**2
        print(f"disk-{view['disk']}: {free} MiB are free on the disk of the state folder. Make room there.")
    elif view["held"] and view["mode"] == "working":  # else the first line has it
        print(f"Nothing starts: {view['held']}")
