"""What one job has to do with files, and where they lie on the runner's side."""

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
    """The archive that was sent with it, if its source is one."""
    rules: tuple[Artifacts, ...] = ()
    bundle: Path | None = None
    """Where what is kept of it goes; None where nothing is."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: FileLimits = DEFAULT_LIMITS

    @classmethod
    def of(cls, job: Job, upload: Path | None, bundle: Path, limits: FileLimits = DEFAULT_LIMITS) -> JobFiles:
        """Those of a job."""
        return cls(job.source, upload, job.artifacts, bundle, job.secrets, limits)

    def wanted(self, outcome: Outcome) -> list[str]:
        """Return the patterns of what is kept after this end of the script."""
        return patterns(self.rules, outcome) if self.bundle else []

    def masked(self, text: str) -> str:
        """Return what is told to users without the job's secrets in it."""
        redactor = Redactor(self.secrets.values())
        data = text.encode(errors="surrogateescape")
        return (redactor.feed(data) + redactor.finish()).decode(errors="replace")


NO_FILES: Final = JobFiles()


def patterns(rules: Iterable[Artifacts], outcome: Outcome) -> list[str]:
    """Return the patterns of the rules that count after an outcome.

    None where the script came neither to an end of its own nor to a timeout of its own: after a cancel somebody waits.
    """
    match outcome:
        case Succeeded():
            fitting = {When.ON_SUCCESS, When.ALWAYS}
        case ScriptFailed() | Killed() | TimedOut(Limit.JOB | Limit.STEP):
            fitting = {When.ON_FAILURE, When.ALWAYS}
        case _:
            fitting = set()
    return [path for rule in rules if rule.when in fitting for path in rule.paths]
