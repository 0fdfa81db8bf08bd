"""One job that tells everything about a crash: what it runs, what must come of it, and what must not be left."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from sandbox.state import State
from tests.crash.lab import Lab
from tests.crash.matrix import LogPromise, Promise
from tests.crash.starts import PORT
from tests.e2e.conftest import DEADLINE, left_of, until

#: MiB that the script writes before it is let go, and in all.
HALF, ALL = 24, 52

#: Says that it started, writes a part, waits until it is let go, and writes the rest.
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
OUTPUT: Final = b"".join(hashlib.sha256(b"%d" % number).digest() * 32768 for number in range(ALL))


def outcome_of(lab: Lab) -> dict[str, Any]:
    """How the job ended, wherever it ran."""

    def finished() -> bool:
        lab.watch()
        return lab.runner.finished(lab.job)

    until("the job is finished", finished, DEADLINE)
    outcome: dict[str, Any] = lab.runner.show(lab.job)["outcome"]
    return outcome


def written(lab: Lab) -> tuple[int, int, bytes] | None:
    """The outcome on disk; another file, or one that was written again, is not equal."""
    file = _folder(lab) / "outcome.json"
    if not file.exists():
        return None
    facts = file.stat()
    return facts.st_ino, facts.st_mtime_ns, file.read_bytes()


def _folder(lab: Lab) -> Path:
    return lab.runner.state / "jobs" / lab.job


def flushed(lab: Lab) -> int:
    """How many bytes of the log are on disk."""
    return (_folder(lab) / "log").stat().st_size if lab.job else 0


def check(lab: Lab, promise: Promise, outcome: dict[str, Any], kept: int) -> None:
    """The outcome, the starts and the log are as promised; `kept` bytes of the log were there before it happened."""
    assert outcome["outcome"] == promise.outcome, outcome
    assert outcome.get("code") == (7 if promise.outcome == "script_failed" else None)
    assert lab.starts.count == promise.starts
    log = lab.runner.api.get(f"/v1/jobs/{lab.job}/log").content
    result = json.loads((_folder(lab) / "outcome.json").read_bytes())
    assert len(log) >= kept
    output, closing = log[: result["output"]], log[result["output"] :].decode()
    assert closing == result["closing"]
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
    things = [name.removeprefix("/") for name in left_of(lab.engine, listing.installation)]
    assert things == [sandbox.name] * 3  # its container, network and volume
    assert sorted(path.name for path in _folder(lab).iterdir()) == ["log", "outcome.json"]
    assert sorted(path.name for path in (lab.runner.state / "jobs").iterdir()) == [lab.job]
    assert {path.name for path in lab.runner.state.iterdir()} <= {"jobs", "leases.json", "lock", "token"}
