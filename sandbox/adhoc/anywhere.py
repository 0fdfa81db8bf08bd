"""The commands that look a name up everywhere: first among the user's own sandboxes, then among the keeper's."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox.adhoc import borrow, options, terminal
from sandbox.adhoc.life import written
from sandbox.adhoc.options import AnyName, AsJson, Keeper
from sandbox.adhoc.record import Record
from sandbox.adhoc.store import default_folder
from sandbox.errors import NoSuchSandbox
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient

if TYPE_CHECKING:
    from sandbox.adhoc.machine import Machines

app = typer.Typer()

_SHELL = "exec bash --login"


@app.command()
def ls(keeper: Keeper = None, as_json: AsJson = False) -> None:
    """List your own sandboxes and, where a keeper answers, its sandboxes and those it threw away lately.

    Your own are those of this user on this engine (DOCKER_HOST).
    """
    client = options.keeper_of(keeper)
    listing = client.listing() if client else None
    own = _own()
    if keeper is None and (why := options.closed_keeper()):
        print(f"sandbox: {why} Its sandboxes are not listed.", file=sys.stderr)
    if as_json:
        kept = listing.model_dump(mode="json") if listing else {}
        print(json.dumps({**kept, "adhoc": own}, indent=2))
        return
    for one in own:
        print(f"{one['name']:28} {one['state']:10} {one['address'] or '-':15}  {one['over']}")
    if not own and not (listing and listing.sandboxes):
        engine = os.environ.get("DOCKER_HOST") or "this host's Docker Engine"
        print("No sandboxes." if listing else f"No sandboxes of yours on {engine}.")
    if listing:
        _print_kept(listing)


@app.command()
def inspect(name: AnyName, keeper: Keeper = None, as_json: AsJson = False) -> None:
    """Look at a sandbox and say what was found. Changes nothing.

    A sandbox of the keeper is searched from outside for what jobs left in it. If the sandbox is gone, this says why.
    """
    if record := _own_record(name):
        [found] = [one for one in _own() if one["name"] == record.name]
        print(json.dumps(found, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in found.items()))
        return
    findings = _keeper(keeper, name).inspect(name)
    if as_json:
        print(findings.model_dump_json(indent=2))
        return
    sandbox = findings.sandbox
    print(f"{sandbox.name}: {sandbox.state}, profile {sandbox.profile}, {sandbox.jobs} jobs")
    if sandbox.fault:
        print(f"  thrown away ({sandbox.fault}): {sandbox.reason}")
    if findings.verdict:
        print(f"  verdict: {findings.verdict}")
    for finding in findings.findings:
        print(f"  {finding.verdict} ({finding.kind}): {finding.sentence}")


@app.command()
def hold(
    name: AnyName,
    hours: Annotated[float, typer.Option("--for", min=0.01, max=168, help="Hours.")] = 1.0,
    keeper: Keeper = None,
) -> None:
    """Keep a sandbox for the given time from now, whether or not anybody is connected.

    Your own sandbox ends then. A sandbox of the keeper is not lent, cleaned or recreated meanwhile, and takes up a
    place; if a job runs in it, the hold begins at the job's end.
    """
    if record := _own_record(name):
        machines = options.machines()
        if record.access is not None:
            machines.check_running(record)
        until = {"ends": time.time() + hours * 3600, "idle": None}
        machines.store.change(record, lambda now: now.model_copy(update=until))
        print(f"{name} is held for {hours:g} h. Get in: sandbox shell {name}")
        return
    _keeper(keeper, name).hold(name, hours * 3600)
    print(f"{name} is held for {hours:g} h once no job runs in it. Look: sandbox shell {name}")


@app.command()
def release(name: AnyName, keeper: Keeper = None) -> None:
    """Throw a held sandbox away. If it is the keeper's, a new one takes its place."""
    if record := _own_record(name):
        options.machines().remove(record)
        return
    _keeper(keeper, name).release(name)


@app.command(context_settings={"allow_interspersed_args": False})
def shell(
    name: AnyName = options.DEFAULT_NAME,
    command: Annotated[list[str] | None, typer.Argument(help="A command instead of a shell.")] = None,
    keeper: Keeper = None,
) -> None:
    """Open a shell in a sandbox of your own, or in a held one of the keeper."""
    words = command or []
    words = words[1:] if words[:1] == ["--"] else words  # as in `run`; the parser drops `--` only before a name
    transport = options.machines().open(name)[1] if _own_record(name) else borrow.enter(_keeper(keeper, name), name)
    with terminal.ended_by_signals(), closing(transport):
        code = terminal.attach(transport, " ".join(words) or _SHELL)
    raise typer.Exit(code)


# -- inside -----------------------------------------------------------------------------------------------------------


def _own() -> list[dict[str, str | float | bool | None]]:
    machines = _machines()
    if machines is None:
        return []
    records = machines.store.records()
    running = (
        {found.name: found.running for found in machines.engine.owned(machines.store.installation)} if records else {}
    )
    return [_told(machines, record, running.get(str(record.sandbox))) for record in records]


def _told(machines: Machines, record: Record, running: bool | None) -> dict[str, str | float | bool | None]:
    """Return the facts about one of the user's sandboxes, without its keys."""
    state = "creating" if record.access is None else {True: "running", False: "stopped", None: "gone"}[running]
    return {
        "name": record.name,
        "state": state,
        "address": record.access.address if record.access else None,
        "sandbox": str(record.sandbox),
        "image": record.profile.image,
        "runtime": record.profile.runtime,
        "docker": record.docker,
        "walls": record.unwalled is None,
        "made": record.made,
        "ends": record.ends,
        "idle": record.idle,
        "last_used": machines.store.last_used(record),
        "over": _over(record, machines.store.last_used(record)),
    }


def _over(record: Record, last_used: float) -> str:
    now = time.time()
    ttl = f"ends in {written(max(0.0, record.ends - now))}"
    if record.idle is None:
        return ttl
    return f"{ttl}, or in {written(max(0.0, last_used + record.idle - now))} unless somebody connects"


def _own_record(name: str) -> Record | None:
    machines = _machines()
    try:
        return machines.store.get(name) if machines else None
    except NoSuchSandbox:
        return None


def _machines() -> Machines | None:
    """Return the user's own sandboxes; None without a folder of them. Makes none: a container may be read-only."""
    there = os.path.isdir(default_folder())  # noqa: PTH112 - `Path.is_dir` raises where this user may not look
    return options.machines() if there else None


def _keeper(keeper: Path | None, name: str) -> KeeperClient:
    """Return the keeper, which may know this name. Raises `NoSuchSandbox` when there is no keeper."""
    client = options.keeper_of(keeper)
    if client is None:
        why = options.closed_keeper() or "There is no keeper either."
        raise NoSuchSandbox(
            f"There is no sandbox {name} of yours. {why} `sandbox ls` lists; `sandbox up {name}` makes."
        )
    return client


def _print_kept(listing: protocol.Listing) -> None:
    for sandbox in listing.sandboxes:
        whose = f"trust key {sandbox.trust_key}, {sandbox.jobs} jobs" if sandbox.trust_key else "fresh"
        print(f"{sandbox.name:28} {sandbox.state:10} {sandbox.seconds_in_state:8.1f}s  {sandbox.profile}  {whose}")
    if listing.trouble:
        print(f"host {listing.host}: {listing.trouble}")
    if listing.counts:
        print("thrown away so far: " + ", ".join(f"{count} {fault}" for fault, count in sorted(listing.counts.items())))
    for sandbox in listing.condemned[:5]:
        print(f"{sandbox.name:28} thrown away ({sandbox.fault}): {sandbox.reason}")
