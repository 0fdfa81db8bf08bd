"""What travels over HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runner import outcome as outcomes
from runner.job import Job
from runner.service.record import JobState, Record


class JobRequest(BaseModel):
    """A job to run."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    script: str
    """A shell script, or a text that starts with a `#!` line."""
    args: list[str] = []
    environment: dict[str, str] = {}
    profile: str = "default"
    trust_key: str = "default"
    """Who may inherit what this job leaves in its sandbox."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the start of the script; none is no limit."""

    def to_job(self) -> Job:
        """Raises BadJobError when it cannot be run as written."""
        return Job(
            script=self.script.encode("utf-8", "surrogatepass"),
            args=tuple(self.args),
            environment=self.environment,
            profile=self.profile,
            trust_key=self.trust_key,
            timeout=self.timeout,
        )


class JobView(BaseModel):
    """A job as the service knows it."""

    id: str
    state: JobState
    submitted: float
    """Seconds since the epoch."""
    outcome: dict[str, str | int] | None
    """How it ended: name, exit code, sentence and what belongs to the kind of outcome."""

    @classmethod
    def of(cls, record: Record) -> JobView:
        """What the record says now."""
        return cls(
            id=record.id,
            state=record.state,
            submitted=record.ticket.submitted,
            outcome=outcomes.to_json(record.outcome) if record.outcome else None,
        )


class Problem(BaseModel):
    """An error, as RFC 9457 has it: what went wrong, and the cause and next step as a sentence."""

    title: str
    status: int
    detail: str
