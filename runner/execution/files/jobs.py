"""The files of one job, and their places on the runner's side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runner.execution.files.limits import DEFAULT_LIMITS, FileLimits
from runner.execution.redact import Redactor
from runner.job import Job
from runner.outcome import Killed, Limit, Outcome, ScriptFailed, Succeeded, TimedOut
from runner.source_and_artifacts import Archive, Artifacts, Git, Upload, When


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one job."""

    source: Upload | Git | Archive | None = None
    upload: Path | None = None
    """The archive that was sent with the job, if its source is one."""
    rules: tuple[Artifacts, ...] = ()
    bundle: Path | None = None
    """Where the artifacts are kept; None if none are."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: FileLimits = DEFAULT_LIMITS

    @classmethod
    def of(cls, job: Job, upload: Path | None, bundle: Path, limits: FileLimits = DEFAULT_LIMITS) -> JobFiles:
        """Return the files of a job."""
        return cls(job.source, upload, job.artifacts, bundle, job.secrets, limits)

    def wanted(self, outcome: Outcome) -> list[str]:
        """Return the patterns of the files to keep after this outcome."""
        return patterns(self.rules, outcome) if self.bundle else []

    def masked(self, text: str) -> str:
        """Return a text for users with the job's secrets masked."""
        redactor = Redactor(self.secrets.values())
        data = text.encode(errors="surrogateescape")
        return (redactor.feed(data) + redactor.finish()).decode(errors="replace")


NO_FILES: Final = JobFiles()


def patterns(rules: Iterable[Artifacts], outcome: Outcome) -> list[str]:
    """Return the patterns of the rules that apply after an outcome.

    No rule applies unless the script ended by itself or by a timeout of its own: after a cancel somebody waits.
    """
    match outcome:
        case Succeeded():
            fitting = {When.ON_SUCCESS, When.ALWAYS}
        case ScriptFailed() | Killed() | TimedOut(Limit.JOB | Limit.STEP):
            fitting = {When.ON_FAILURE, When.ALWAYS}
        case _:
            fitting = set()
    return [path for rule in rules if rule.when in fitting for path in rule.paths]
