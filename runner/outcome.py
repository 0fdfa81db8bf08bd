"""How an attempt ended: a closed set of values, and one table that turns each into the forms for people and machines.

The line between *failed* and *broken* is whether user code ran to an end of its own. A script that fails is a
successful run of the runner; a sandbox that vanishes is never the script's failure and never its success.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

MAX_TEXT: Final = 2000
"""Longest text an outcome carries, in characters. Reasons may quote a hostile sandbox."""


class Limit(StrEnum):
    """Which time limit ran out."""

    JOB = "job"
    """The limit of the script, or of all steps together, from its start."""
    STEP = "step"
    """The limit of one step, from its start."""
    QUEUE = "queue"
    SETUP = "setup"


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The script ended with exit code 0."""


@dataclass(frozen=True, slots=True)
class ScriptFailed:
    """The script ended by itself with a non-zero exit code (1 to 255)."""

    code: int


@dataclass(frozen=True, slots=True)
class Killed:
    """A signal that the runner did not send ended the script (1 to 64)."""

    signal: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The script ran into a time limit and was ended, or the job ran into one before the start."""

    which: Limit


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A user or client cancelled the job; `by` says who, for example `the user`."""

    by: str


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """The sandbox or the way to it broke after the script may have started. Tried again only if the job has `retry`."""

    why: str


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """No sandbox could be made to start the script. User code certainly did not run."""

    why: str


@dataclass(frozen=True, slots=True)
class BadSource:
    """The job's source could not be fetched as it was named. User code did not run."""

    why: str


@dataclass(frozen=True, slots=True)
class RunnerStopped:
    """The runner itself was stopped while the attempt was under way."""

    why: str


@dataclass(frozen=True, slots=True)
class BadRequest:
    """The job could not be run as it was written. User code did not run."""

    why: str


Outcome: TypeAlias = (
    Succeeded
    | ScriptFailed
    | Killed
    | TimedOut
    | Cancelled
    | SandboxLost
    | SetupFailed
    | BadSource
    | RunnerStopped
    | BadRequest
)

_O = TypeVar("_O")


@dataclass(frozen=True, slots=True)
class _Row:
    """The outside form of one kind of outcome."""

    kind: type[Any]
    name: str
    """Stable name in JSON, HTTP and metric labels. Never renamed."""
    exit_code: Callable[[Any], int]
    """Exit code of `runner run`."""
    sentence: Callable[[Any], str]
    """The sentence a user reads."""


def _row(kind: type[_O], name: str, exit_code: Callable[[_O], int], sentence: Callable[[_O], str]) -> _Row:
    """Make a row whose functions are checked against the kind they are for."""
    return _Row(kind, name, exit_code, sentence)


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9, and `signal 63` for a number without a name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _killed(outcome: Killed) -> str:
    hint = ", perhaps because memory ran out" if outcome.signal == signals.SIGKILL else ""
    return f"The script was ended by {signal_name(outcome.signal)}{hint}."


def _timed_out(outcome: TimedOut) -> str:
    if outcome.which is Limit.JOB:
        return f"The script ran into the {outcome.which} timeout and was ended."
    if outcome.which is Limit.STEP:
        return "A step ran into its own timeout and was ended."
    return f"The script was not started: the job ran into the {outcome.which} timeout."


# The exit codes for the infrastructure are those of sysexits.h. A script may exit with the same numbers: the name in
# the JSON form tells them apart, the exit code alone cannot.
_ROWS: Final = (
    _row(Succeeded, "succeeded", lambda _: 0, lambda _: "The script succeeded."),
    _row(ScriptFailed, "script_failed", lambda o: o.code, lambda o: f"The script failed with exit code {o.code}."),
    _row(Killed, "killed", lambda o: 128 + o.signal, _killed),
    _row(TimedOut, "timed_out", lambda _: 124, _timed_out),
    _row(Cancelled, "cancelled", lambda _: 130, lambda o: f"The script was cancelled by {o.by}."),
    _row(SandboxLost, "sandbox_lost", lambda _: 75, lambda o: f"The sandbox was lost: {o.why}"),
    _row(SetupFailed, "setup_failed", lambda _: 69, lambda o: f"The script was not started: {o.why}"),
    _row(
        BadSource,
        "bad_source",
        lambda _: 66,
        lambda o: f"The script was not started, its source cannot be had: {o.why}",
    ),
    _row(RunnerStopped, "runner_stopped", lambda _: 70, lambda o: f"The runner was stopped: {o.why}"),
    _row(BadRequest, "bad_request", lambda _: 64, lambda o: f"The job cannot be run: {o.why}"),
)
_BY_KIND: Final[Mapping[type[Outcome], _Row]] = {row.kind: row for row in _ROWS}
_BY_NAME: Final[Mapping[str, _Row]] = {row.name: row for row in _ROWS}

NAMES: Final = tuple(row.name for row in _ROWS)
"""The stable names of all outcomes, for documentation."""
NAMES_AND_LIMITS: Final = tuple(
    (row.name, limit) for row in _ROWS for limit in (tuple(Limit) if row.kind is TimedOut else ("",))
)
"""Every pair of `name` and `which` that an outcome can have, for metric labels."""


def name(outcome: Outcome) -> str:
    """Return the outcome's stable name, for example `script_failed`."""
    return _BY_KIND[type(outcome)].name


def which(outcome: Outcome) -> str:
    """Return the time limit that ran out, for example `queue`; empty for an outcome of another kind."""
    return outcome.which if isinstance(outcome, TimedOut) else ""


def exit_code(outcome: Outcome) -> int:
    """Return the exit code of `runner run` for this outcome."""
    return _BY_KIND[type(outcome)].exit_code(outcome)


def sentence(outcome: Outcome) -> str:
    """Return the sentence that tells a user how the attempt ended."""
    return _BY_KIND[type(outcome)].sentence(outcome)


def to_json(outcome: Outcome) -> dict[str, str | int]:
    """Return the outcome as a JSON object: its name, its own fields, its exit code and its sentence."""
    own = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    return {"outcome": name(outcome), **own, "exit_code": exit_code(outcome), "message": sentence(outcome)}


def from_json(document: object) -> Outcome:
    """Return the outcome that `to_json` wrote. Derived fields are not read back.

    Raises ValueError when the document is no outcome: it may come from anywhere.
    """
    row = _BY_NAME.get(str(document.get("outcome"))) if isinstance(document, Mapping) else None
    if row is None or not isinstance(document, Mapping):
        raise ValueError(f"An outcome is a JSON object and one of {', '.join(NAMES)}.")
    values = {field.name: document.get(field.name) for field in fields(row.kind)}
    outcome: Outcome = row.kind(**{key: _FIELDS[key](value) for key, value in values.items()})
    return outcome


def _number(lowest: int, highest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"An outcome's number lies between {lowest} and {highest}.")
        return value

    return parse


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"An outcome's text has at most {MAX_TEXT} characters.")
    return value


def _limit(value: object) -> Limit:
    return Limit(_text(value))


_FIELDS: Final[Mapping[str, Callable[[object], object]]] = {
    "code": _number(1, 255),
    "signal": _number(1, 64),
    "which": _limit,
    "by": _text,
    "why": _text,
}
