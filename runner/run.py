"""`runner run`: runs one script here and now, with its output on stdout and its exit code as ours."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from runner import outcome as outcomes
from runner.errors import LogError
from runner.execution.attempt import run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.lease import LeaseSource
from runner.execution.log import LiveCopy, Log
from runner.execution.marker import Marker
from runner.execution.options import Note, Settings
from runner.job import Job
from runner.logs import Action
from runner.outcome import Outcome
from runner.spool import spool

READ_DEADLINE = 3600.0
"""Seconds that a slow reader of our stdout has for the rest of the log after the script's end."""
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "a closed terminal"}


async def run_script(leases: LeaseSource, job: Job, settings: Settings, *, as_json: bool) -> Outcome:
    """Run a job, its log live on stdout (with `as_json` on stderr; stdout then gets the outcome as one object)."""
    cancellation, started = Cancellation(), list[Marker]()
    loop = asyncio.get_running_loop()
    for number, by in _SIGNALS.items():
        loop.add_signal_handler(number, _cancel, cancellation, by, started)
    with ExitStack() as folder:
        log = _new_log(folder)
        copy = LiveCopy(log, (sys.stderr if as_json else sys.stdout).fileno())
        last: list[Note] = []

        def tell(note: Note) -> None:
            (last.append if note.action is Action.ENDED else _tell)(note)

        async def mark(marker: Marker) -> None:
            started.append(marker)

        outcome = await run_attempt(leases, job, log, cancellation, settings=settings, notes=tell, on_start=mark)
        log.close(outcomes.sentence(outcome))
        await copy.finish(READ_DEADLINE)
        for note in last:  # below its output, say how the job ended
            _tell(note)
        if as_json:
            print(json.dumps({**outcomes.to_json(outcome), "log_bytes": log.output, "log_dropped": log.dropped}))
    return outcome


async def run_last(leases: LeaseSource, job: Job, settings: Settings, *, as_json: bool) -> Outcome:
    """Do `run_script` as the last action of this process.

    Afterwards, signals are ignored: a loop that is being closed cannot take one, and would show a traceback.
    """
    try:
        return await run_script(leases, job, settings, as_json=as_json)
    finally:
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _new_log(folder: ExitStack) -> Log:
    try:
        return Log(folder.enter_context(spool()) / "log")
    except OSError as error:
        raise LogError(f"There is no place for the log: {error.strerror}. Set TMPDIR to a folder with room.") from error


def _cancel(cancellation: Cancellation, by: str, started: Sequence[Marker]) -> None:
    if cancellation.cause is None:
        _say(f"cancelled by {by}" + ("; ending what the script started" if started else ""))
    cancellation.request(by)


def _tell(note: Note) -> None:
    _say(note.text)


def _say(text: str) -> None:
    """Write a line at once: another thread may write the script's own output to the same place."""
    sys.stderr.write(f"runner: {text}\n")
    sys.stderr.flush()
