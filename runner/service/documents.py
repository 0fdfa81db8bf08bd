"""What is written down about a job, as JSON documents. Read back, they may come from anywhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from runner import job as jobs
from runner import outcome as outcomes
from runner.job import Job
from runner.outcome import BadRequest, Cancelled, Outcome, RunnerStopped, SandboxLost, SetupFailed

#: Longest closing lines of a log, in bytes.
MAX_CLOSING: Final = 64 * 1024
_MAX_NUMBER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Ticket:
    """When a job was submitted."""

    #: Jobs are run in the order of these numbers: a clock may be set back.
    number: int
    #: Seconds since the epoch.
    submitted: float

    def to_json(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return {"number": self.number, "submitted": self.submitted}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Self:
        """Raises ValueError when the document is not one."""
        return cls(int(_number(document, "number")), float(_number(document, "submitted")))


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was taken, with its secrets."""

    ticket: Ticket
    job: Job

    def to_json(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return {**self.ticket.to_json(), "job": jobs.to_json(self.job)}

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Raises ValueError when the document is not one."""
        fields = _object(document)
        return cls(Ticket.from_json(fields), jobs.from_json(fields.get("job")))


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended. Written once, and never changed."""

    ticket: Ticket
    outcome: Outcome
    #: Bytes of the log that are the script's output.
    output: int
    #: The runner's own lines, which follow the output.
    closing: bytes

    def to_json(self) -> dict[str, object]:
        """Return it as a JSON object."""
        own = {"output": self.output, "closing": self.closing.decode()}
        return {**self.ticket.to_json(), **outcomes.to_json(self.outcome), **own}

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Raises ValueError when the document is not one."""
        fields = _object(document)
        closing = fields.get("closing")
        if not isinstance(closing, str) or len(closing) > MAX_CLOSING:
            raise ValueError("the closing lines are not a text of ours")
        output = int(_number(fields, "output"))
        return cls(Ticket.from_json(fields), outcomes.from_json(fields), output, closing.encode())


def fit(outcome: Outcome) -> Outcome:
    """Return the outcome with texts that can be written down and read back: they may quote a hostile sandbox."""
    match outcome:
        case Cancelled(by):
            return Cancelled(_fit(by))
        case SandboxLost(why) | SetupFailed(why) | RunnerStopped(why) | BadRequest(why):
            return replace(outcome, why=_fit(why))
    return outcome


def _fit(text: str) -> str:
    return text[: outcomes.MAX_TEXT].encode(errors="replace").decode()


def _object(document: object) -> Mapping[str, object]:
    if not isinstance(document, Mapping):
        raise ValueError("the document is not an object")  # noqa: TRY004 - one error for all that is wrong with it
    return document


def _number(fields: Mapping[str, object], name: str) -> int | float:
    value = fields.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{name} is not a number from 0 on")
    return value
