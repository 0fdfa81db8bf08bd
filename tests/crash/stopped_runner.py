"""`runner serve` unchanged, except that it stops itself (SIGSTOP) when a job comes to the point that a test named.

It also follows a clock that the test sets, and notices a silent sandbox sooner. The first argument is the folder of the
test: the file `stop-at` in it holds the point, and is renamed to `stopped-at` once the point is reached.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from runner import serve
from runner.entry import main as runner
from runner.execution.log import Log
from runner.execution.session import Session
from runner.keeper_leases import KeeperLeases
from runner.service.record import Record
from runner.service.records import Records
from runner.service.service import SETTINGS
from tests.crash import clock
from tests.crash.matrix import Point

_P = ParamSpec("_P")
_T = TypeVar("_T")

STOP_AT, STOPPED_AT, CLOCK = "stop-at", "stopped-at", "clock"
FIRST_BYTES = 2 * 1024 * 1024
"""Bytes of output on disk at the point `running`."""


def main() -> None:
    """Be `runner`, with everything arranged."""
    folder = Path(sys.argv.pop(1))
    clock.follow(folder / CLOCK)
    _notice_silence_soon()
    _stop_at_points(folder)
    runner()


def _notice_silence_soon() -> None:
    vars(serve)["SETTINGS"] = replace(SETTINGS, keepalive_interval=1.0, keepalive_count=2, open_deadline=5.0)


def _stop_at_points(folder: Path) -> None:
    def stop(point: Point) -> None:
        if _read(folder / STOP_AT) == point:
            (folder / STOP_AT).rename(folder / STOPPED_AT)
            os.kill(os.getpid(), signal.SIGSTOP)

    def after(act: Callable[_P, Awaitable[_T]], point: Point) -> Callable[_P, Awaitable[_T]]:
        @wraps(act)
        async def acted(*arguments: _P.args, **options: _P.kwargs) -> _T:
            result = await act(*arguments, **options)
            stop(point)
            return result

        return acted

    append = Log.append

    def appended(log: Log, *pieces: bytes | memoryview) -> None:
        append(log, *pieces)
        if log.output >= FIRST_BYTES:
            stop(Point.RUNNING)

    for owner, name, replacement in (
        (Records, "add", after(Records.add, Point.ACCEPT)),
        (Records, "claim", _stopping_around(Records.claim, stop)),
        (KeeperLeases, "lend", after(KeeperLeases.lend, Point.LEASE)),
        (Record, "mark", after(Record.mark, Point.MARKER)),
        (Session, "launch", after(Session.launch, Point.START)),
        (Log, "append", appended),
        (Record, "settle", after(Record.settle, Point.RESULT)),
    ):
        setattr(owner, name, replacement)


def _stopping_around(
    claim: Callable[[Records, int], Awaitable[Record | None]], stop: Callable[[Point], None]
) -> Callable[[Records, int], Awaitable[Record | None]]:
    """Before a job that waits is claimed, and after."""

    async def claimed(records: Records, per_key: int) -> Record | None:
        if records.waiting:
            stop(Point.QUEUED)
        record = await claim(records, per_key)
        if record:
            stop(Point.CLAIMED)
        return record

    return claimed


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
