"""Jobs of the service: submit, list, show, follow, cancel."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from runner.commands import progress
from runner.commands.packing import packed
from runner.errors import BadJobError, ClientError, InputError

if TYPE_CHECKING:
    from runner.api.models import JobRequest
    from runner.client import Client

app = typer.Typer()

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or its beginning.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
_INTERRUPTED: Final = 130
"""The exit code that a shell has for Ctrl-C."""
_UNSAID: Final = 0.3
_AGAIN: Final = 5.0
"""Seconds that a job may wait for its start before the command says so, and between two looks at the reason."""


@app.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The job, as YAML or JSON; - for standard input.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow its log, and exit with its exit code.")] = False,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass our variable NAME on as a secret.")
    ] = None,
    upload: Annotated[
        Path | None, typer.Option(help="Send this folder (or tar archive) along, as the job's source.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job to the service, and print its id.

    With --wait, Ctrl-C leaves the job running.
    """
    request = _parse(file).model_dump(exclude_unset=True, by_alias=True)
    if upload and request.get("source"):
        raise BadJobError("The job has a source already, which --upload would replace. Leave one of the two out.")
    if secret:
        request["secrets"] = {**request.get("secrets", {}), **_from_environment(secret)}
    shown = progress.somebody_looks(as_json=as_json)
    with client() as service:
        if upload:
            with packed(upload, shown=shown) as archive, progress.reading(archive, "uploading", shown=shown) as source:
                request["source"] = {"kind": "upload", "id": service.upload(source)}
        job = service.submit(request, uuid.uuid4().hex)
        if not wait:
            print(json.dumps(job) if as_json else job["id"])
            return
        try:
            print(f"runner: job {job['id']}", file=sys.stderr)
            _tell_waiting(service, job["id"], shown=shown)
            _follow(service, job["id"], as_json=as_json)
        except KeyboardInterrupt:
            print(f"runner: The job goes on: runner logs -f {job['id']}", file=sys.stderr)
            raise


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The job file; - for standard input.")],
    as_json: AsJson = False,
) -> None:
    """Say whether a job file holds a job that can be run; if not, what is wrong, by line and field."""
    try:
        _parse(file)
    except BadJobError as error:
        if as_json:
            print(json.dumps({"valid": False, "problem": str(error)}))
        raise
    print(json.dumps({"valid": True, "problem": None}) if as_json else "The file holds a job that can be run.")


@app.command("ls")
def list_jobs(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="How many.")] = 20,
    state: Annotated[str | None, typer.Option(help="Only those that are queued, running, finished, …")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    with client() as service:
        jobs = service.jobs(limit, state)
    tell_all(jobs, ["JOB", "STATE", "OUTCOME", "TRUST KEY", "SUBMITTED"], _row, as_json=as_json)


@app.command()
def show(job: JobId, as_json: AsJson = False) -> None:
    """Show the facts about a job."""
    from runner.client import WAITING  # noqa: PLC0415 - `runner run` does not pay for it

    with client() as service:
        view = service.show(service.whole_id(job))
        held = not as_json and view["state"] in WAITING and _why_waiting(service)
    if as_json:
        print(json.dumps(view))
        return
    print(f"{view['id']}: {view['state']}, trust key {view['trust_key']}, submitted {when(view['submitted'])}")
    for line in _times(view):
        print(line)
    if view["retries"]:
        print(f"started again {view['retries']} times: its sandbox was lost, or none could be made")
    if held:
        print(f"it waits: {held}")
    if view["steps"]:
        table(["STEP", "STATE", "EXIT CODE", "SECONDS"], map(_step, view["steps"]))
    if outcome := view["outcome"]:
        print(f"{outcome['outcome']} (exit code {outcome['exit_code']}): {outcome['message']}")


@app.command()
def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow it to its end; exit with the job's code.")
    ] = False,
    offset: Annotated[int, typer.Option(min=0, help="From this byte on.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout: a line for each piece, and with -f one for the outcome.")
    ] = False,
) -> None:
    """Print a job's log, byte by byte: its colours are kept."""
    with client() as service:
        job = service.whole_id(job)
        if follow:
            _tell_waiting(service, job, shown=progress.somebody_looks(as_json=as_json))
        pieces = service.follow(job, offset) if follow else service.log(job, offset)
        _copy(_lines(pieces, offset) if as_json else pieces, sys.stdout)
        if follow:
            outcome = service.show(job)["outcome"]
            if as_json:
                print(json.dumps({"outcome": outcome}))
            raise typer.Exit(int(outcome["exit_code"]))


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """Ask for a job's end. The processes that it started are ended too."""
    with client() as service:
        view = service.cancel(service.whole_id(job))
    print(json.dumps(view) if as_json else f"{view['id']}: {_asked(view['outcome'])}")


def _asked(outcome: dict[str, Any] | None) -> str:
    """Return what became of the request to end a job."""
    if outcome is None:
        return "its end was asked for"
    if outcome["outcome"] == "cancelled":
        return "it is cancelled"
    return f"it had ended before: {outcome['outcome']} (exit code {outcome['exit_code']})"


@contextmanager
def client() -> Iterator[Client]:
    """Yield a client of the service that is found from here."""
    from runner.client import connect  # noqa: PLC0415 - `runner run` does not pay for it

    service = connect()
    try:
        yield service
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        service.close()


def _follow(service: Client, job: str, *, as_json: bool) -> None:
    """Copy a log to its end, and exit with the job's exit code."""
    _copy(service.follow(job, 0), sys.stderr if as_json else sys.stdout)
    view = service.show(job)
    if as_json:
        print(json.dumps(view))
    raise typer.Exit(int(view["outcome"]["exit_code"]))


def _tell_waiting(service: Client, job: str, *, shown: bool) -> None:
    """Say while a job has no sandbox that it waits, and why, so that nobody takes its silence for the script's."""
    if shown and not service.wait_for_start(job, _UNSAID):
        with progress.waiting("the job waits", shown=shown) as say:
            while True:
                with contextlib.suppress(ClientError):
                    say(f"the job waits: {_why_waiting(service)}")
                if service.wait_for_start(job, _AGAIN):
                    return


def _why_waiting(service: Client) -> str:
    return service.status()["held"] or "others are before it, or no sandbox is free."


def _lines(pieces: Iterable[bytes], offset: int) -> Iterator[bytes]:
    """Yield a log as JSON, one line for each piece: its text, and the byte offset after it."""
    from runner.api.logs import Text  # noqa: PLC0415 - only here

    log = Text(offset)

    def line(text: str) -> bytes:
        return json.dumps({"offset": log.offset, "text": text}).encode() + b"\n"

    for piece in pieces:
        if text := log.more(piece):
            yield line(text)
    if rest := log.rest():
        yield line(rest)


def _copy(pieces: Iterable[bytes], to: TextIO) -> None:
    target = to.buffer
    try:
        for piece in pieces:
            target.write(piece)
            target.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())  # else Python complains when it exits
        raise typer.Exit(1) from None


def _parse(name: str) -> JobRequest:
    from runner import job_document  # noqa: PLC0415 - as above

    if name == "-":
        return job_document.parse(sys.stdin.buffer.read(job_document.MAX_FILE + 1), "standard input")
    try:
        with Path(name).open("rb") as file:
            return job_document.parse(file.read(job_document.MAX_FILE + 1), name)
    except OSError as error:
        raise InputError(f"The job file {name} cannot be read: {error.strerror}.") from error


def _from_environment(names: list[str]) -> dict[str, str]:
    for name in names:
        if name not in os.environ:
            raise BadJobError(f"--secret {name}: there is no variable of that name here.")
    return {name: os.environ[name] for name in names}


def _row(job: dict[str, Any]) -> list[str]:
    outcome = job["outcome"]["outcome"] if job["outcome"] else ""
    return [job["id"], job["state"], outcome, job["trust_key"], when(job["submitted"])]


def _times(view: dict[str, Any]) -> Iterator[str]:
    """Yield when and where a job started, and when it ended, as far as it has."""
    if view["started"]:
        yield f"started {when(view['started'])} in {view['sandbox']}, profile {view['profile']}"
    if view["ended"]:
        took = f", after {view['ended'] - view['started']:.1f} s" if view["started"] else ""
        yield f"ended {when(view['ended'])}{took}"


def _step(step: dict[str, Any]) -> list[str]:
    state = step["state"] + (", which is allowed" if step["allowed"] else "")
    code = str(step["exit_code"]) if step["state"] == "failed" else ""
    return [step["name"], state, code, f"{step['seconds']:.1f}" if step["seconds"] else ""]


def when(seconds: float) -> str:
    """Return a time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def tell_all(found: list[dict[str, Any]], head: list[str], row: Callable[[Any], list[str]], *, as_json: bool) -> None:
    """Print a list: for a program as JSON, for a person in columns."""
    if as_json:
        print(json.dumps(found))
    else:
        table(head, map(row, found))


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print lines in columns."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
