"""The meaning of the launcher's last frame. Pure."""

from __future__ import annotations

import errno
from typing import Final

from runner.execution.wire import Ended, EndKind
from runner.outcome import Killed, Limit, Outcome, ScriptFailed, Succeeded, TimedOut

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""A shell's exit codes for a command that does not exist, and for a command that cannot be executed."""


def outcome_of(ended: Ended) -> Outcome:
    """Return the outcome of a script whose end the launcher reported."""
    match ended.kind:
        case EndKind.EXITED:
            return ScriptFailed(ended.code) if ended.code else Succeeded()
        case EndKind.SIGNALED:
            return Killed(ended.code)
        case EndKind.TIMED_OUT:
            return TimedOut(Limit.JOB)
        case EndKind.STEP_TIMED_OUT:
            return TimedOut(Limit.STEP)
        case EndKind.START_FAILED:
            return ScriptFailed(NOT_FOUND if ended.errno == errno.ENOENT else NOT_EXECUTABLE)


def remarks_on_end(ended: Ended, script: bytes, received: int) -> list[str]:
    """Return sentences that explain a script that did not start, or a log that is incomplete."""
    remarks = []
    if ended.kind is EndKind.START_FAILED:
        remarks.append(_start_failure(ended, script))
    if received < ended.logged:
        why = "the job shortened it in the sandbox, or was ended before they came"
        remarks.append(f"{ended.logged - received} bytes of the log are missing: {why}.")
    if ended.removed:
        remarks.append(f"The job shortened its log in the sandbox by {ended.removed} bytes; some may be zeros here.")
    if ended.log_error:
        remarks.append(f"The log could not be written in the sandbox any more ({ended.log_error}).")
    return remarks


def remarks_on_log(dropped: int, limit: int, failure: str) -> list[str]:
    """Return sentences on a log that lacks a part of the output."""
    if failure:
        return [f"The log ends early: it could not be written ({failure}); {dropped} bytes were dropped."]
    return [f"The log is kept up to {limit} bytes; {dropped} bytes were dropped."] if dropped else []


def _start_failure(ended: Ended, script: bytes) -> str:
    line = script[:256].split(b"\n", 1)[0]
    if line.startswith(b"#!") and line.endswith(b"\r"):
        return "The script's first line ends with a carriage return. Save the script with Unix line endings (LF)."
    if line.startswith(b"#!"):
        shown = line.decode(errors="replace")
        return f"The script's first line ({shown}) names an interpreter that the sandbox cannot run: {ended.text}."
    return f"The script could not be started: {ended.text}."
