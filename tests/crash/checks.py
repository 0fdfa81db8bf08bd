"""One job that shows every effect of a crash: its script, its expected result, and what must not be left."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from sandbox.state import State
from tests.crash.lab import Lab
from tests.crash.matrix import LogPromise, Promise
from tests.crash.starts import PORT
from tests.e2e.conftest import DEADLINE, until_only_these_are_left
from tests.waiting import until

HALF, ALL = 6, 12
"""MiB that the script writes before it is let go, and in all. A runner that stops at the first two takes no more than
a window of SSH's, two more, so that each half is in part in the sandbox alone."""

SCRIPT: Final = f"""#!/usr/bin/env python3
import hashlib, socket, sys, time
while True:
    try:
        gate = socket.create_connection(("127.0.0.1", {PORT}))
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
for number in range({ALL}):
    if number == {HALF}:
        gate.recv(1)
    sys.stdout.buffer.write(hashlib.sha256(b"%d" % number).digest() * 32768)
    sys.stdout.buffer.flush()
sys.exit(7)
"""
"""Says that it started, writes a part, waits until it is let go, and writes the rest."""
OUTPUT: Final = b"".join(hashlib.sha256(b"%d" % number).digest() * 32768 for number in range(ALL))


def outcome_of(lab: Lab) -> dict[str, Any]:
    """How the job ended, wherever it ran."""

    until("the job is finished", lab.finished, DEADLINE)
    outcome: dict[str, Any] = lab.runner.show(lab.job)["outcome"]
    return outcome


def written(lab: Lab) -> tuple[object, ...] | None:
    """The outcome on disk, and when it was written; one that was written again is not equal."""
    rows = _stored(
        lab,
        "SELECT at, outcome, output, closing FROM job JOIN event ON event.job = job.number "
        "WHERE id = ? AND event.state = 'settled'",
    )
    assert len(rows) <= 1
    return rows[0] if rows else None


def _stored(lab: Lab, query: str) -> list[tuple[object, ...]]:
    """What the runner's database has of the job."""
    if not lab.job:
        return []
    database = sqlite3.connect(lab.runner.state / "runner.db")
    try:
        return database.execute(query, (lab.job,)).fetchall()
    finally:
        database.close()


def _log(lab: Lab) -> Path:
    return lab.runner.state / "logs" / lab.job


def flushed(lab: Lab) -> int:
    """How many bytes of the log are on disk."""
    return _log(lab).stat().st_size if lab.job and _log(lab).exists() else 0


def check(lab: Lab, promise: Promise, outcome: dict[str, Any], kept: int) -> None:
    """The outcome, the starts and the log are as promised; `kept` bytes of the log were there before it happened."""
    assert outcome["outcome"] == promise.outcome, outcome
    assert outcome.get("code") == (7 if promise.outcome == "script_failed" else None)
    assert lab.starts.count == promise.starts
    log = lab.runner.api.get(f"/v1/jobs/{lab.job}/log").content
    [(size, told)] = _stored(lab, "SELECT output, closing FROM job WHERE id = ?")
    assert isinstance(size, int)
    assert len(log) >= kept
    output, closing = log[:size], log[size:].decode()
    assert closing == told
    assert closing.endswith(f"runner: {outcome['message']}\n")
    _check_output(promise.log, output, closing)


def _check_output(promise: LogPromise, output: bytes, closing: str) -> None:
    match promise:
        case LogPromise.WHOLE:
            assert len(output) == len(OUTPUT)
            assert hashlib.sha256(output).digest() == hashlib.sha256(OUTPUT).digest()
        case LogPromise.BEGINNING:
            assert OUTPUT.startswith(output)
        case LogPromise.COUNTED:
            assert OUTPUT.startswith(output)
            [missing] = re.findall(r"runner: The log ends early: .*; (\d+) bytes were dropped\.", closing)
            assert len(output) + int(missing) == len(OUTPUT)
        case LogPromise.NONE:
            assert output == b""


def check_nothing_is_left(lab: Lab) -> None:
    """One sandbox is there, ready and not one that was given up; and of the job its log and its outcome."""
    sandbox = lab.keeper.only
    assert (sandbox.state, sandbox.attempt) == (State.READY, None)
    listing = lab.keeper.client.listing()
    assert sandbox.name not in {gone.name for gone in listing.condemned}
    until_only_these_are_left(lab.engine, listing.installation, [sandbox.name])
    left = "SELECT state, marker, sealed FROM job LEFT JOIN content ON job = number WHERE id = ?"
    assert _stored(lab, left) == [("finished", None, None)]
    assert [path.name for path in (lab.runner.state / "logs").iterdir()] == [lab.job]
    files = {"artifacts", "key", "lock", "logs", "runner.db", "runner.db-shm", "runner.db-wal", "token", "uploads"}
    assert {path.name for path in lab.runner.state.iterdir()} <= files
