"""What the service remembers of one job: a folder with documents and the log.

    job.json      the job, with its secrets: from before the submission is answered until the job is finished
    cancel.json   that somebody asked for its end
    attempt.json  the marker: from before the first byte is sent to a sandbox until the job is finished
    log           the script's output, and the runner's closing lines after it
    outcome.json  how it ended: from before the sandbox is returned and anybody is told

So a folder without a marker holds a job whose script certainly did not start, one with a marker and without an outcome
holds a job that may be running, and one with an outcome is never run or asked about again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from runner import outcome as outcomes
from runner.errors import StateError
from runner.execution.cancellation import Cancellation
from runner.execution.log import DEFAULT_LIMIT, Log
from runner.execution.marker import Marker
from runner.job import MAX_SCRIPT, MAX_STRINGS, Job
from runner.outcome import Outcome
from runner.service import files
from runner.service.documents import Result, Submission, Ticket, fit

_logger = logging.getLogger(__name__)

_JOB: Final = "job.json"
_CANCEL: Final = "cancel.json"
_ATTEMPT: Final = "attempt.json"
_LOG: Final = "log"
_OUTCOME: Final = "outcome.json"
#: Largest documents that are read back, in bytes.
_MAX_DOCUMENT: Final = 1024 * 1024
#: The same for one with a job in it: base64 takes four bytes for three, and JSON up to six for one.
_MAX_JOB: Final = MAX_SCRIPT * 4 // 3 + MAX_STRINGS * 6 + _MAX_DOCUMENT

_D = TypeVar("_D")


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


#: From each state, the states that may follow.
MOVES: Final[Mapping[JobState, frozenset[JobState]]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FINISHED}),
        JobState.RUNNING: frozenset({JobState.FINISHED}),
        JobState.FINISHED: frozenset(),
    }
)


@dataclass(eq=False)
class Record:
    """One job."""

    folder: Path
    ticket: Ticket
    #: Until it is finished; None too when only the marker of an earlier life could be read.
    job: Job | None = None
    #: From the moment when the script may have started until the job is finished.
    marker: Marker | None = None
    result: Result | None = None
    #: While it runs.
    log: Log | None = None
    state: JobState = JobState.QUEUED
    cancellation: Cancellation = field(default_factory=Cancellation)

    def __post_init__(self) -> None:
        self._begun = asyncio.Event()
        self.finished = asyncio.Event()
        if self.state is JobState.FINISHED:
            self._begun.set()
            self.finished.set()

    @property
    def id(self) -> str:
        """The job's id."""
        return self.folder.name

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once it is finished."""
        return self.result.outcome if self.result and self.state is JobState.FINISHED else None

    def move(self, target: JobState) -> None:
        """Go to another state. Raises StateError naming both when the table does not allow it."""
        if target is not self.state and target not in MOVES[self.state]:
            raise StateError(f"Job {self.id} cannot move from {self.state} to {target}; this is a defect.")
        self.state = target

    def begin(self) -> Log:
        """Start to run, with what an earlier life has of the log. Raises LogError."""
        self.move(JobState.RUNNING)
        self.log = Log.reopen(self.folder / _LOG, self.marker.log_limit if self.marker else DEFAULT_LIMIT)
        self._begun.set()
        return self.log

    def mark(self, marker: Marker) -> None:
        """Have the marker on disk. Raises StateError."""
        try:
            files.write(self.folder / _ATTEMPT, marker.to_json())
        except OSError as error:
            raise StateError(
                f"The start cannot be written down: {error.strerror}. Make room in the state folder."
            ) from error
        self.marker = marker

    async def cancel(self, by: str) -> None:
        """Ask for its end, also for a later life of the service to know."""
        if self.state is JobState.FINISHED:
            return
        try:
            await asyncio.to_thread(files.write, self.folder / _CANCEL, {"by": by})
        except OSError as error:  # a full disk must not keep a job running
            _logger.warning("job %s: a restart would forget that it was cancelled: %s", self.id, error)
        self.cancellation.request(by)

    async def settle(self, outcome: Outcome) -> None:
        """Have the outcome on disk, and the whole log before it. The first outcome stays. Raises OSError; try again."""
        if self.result:
            return
        outcome, log = fit(outcome), self.log
        sentence = outcomes.sentence(outcome)
        closing = log.closing(sentence) if log else f"runner: {sentence}\n".encode()
        result = Result(self.ticket, outcome, log.output if log else 0, closing)
        await asyncio.to_thread(_settle, self.folder, result, sync_log=log is not None)
        self.result = result

    async def finish(self) -> None:
        """Close the log of a settled job, and forget its secrets."""
        assert self.result
        if self.log:
            self.log.close(outcomes.sentence(self.result.outcome))
        await asyncio.to_thread(_tidy, self.folder, self.result)
        self.move(JobState.FINISHED)
        self.job, self.marker, self.log = None, None, None
        self._begun.set()
        self.finished.set()

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the log from a byte offset on, to its end, live while the job runs."""
        await self._begun.wait()
        if self.log:
            async for data in self.log.follow(offset):
                offset += len(data)
                yield data
        await self.finished.wait()
        for data in self.read(offset):
            yield data

    def read(self, offset: int) -> Iterator[bytes]:
        """Yield what the log has now, from a byte offset on."""
        with contextlib.suppress(OSError, ValueError), files.open_to_read(self.folder / _LOG) as file:
            while data := os.pread(file.fileno(), 256 * 1024, offset):
                offset += len(data)
                yield data


def create(folder: Path, submission: Submission) -> None:
    """Have a new job on disk. The folder appears with everything in it, or not at all. Raises OSError."""
    new = folder.with_name(f"{folder.name}.new")
    new.mkdir(mode=0o700)
    files.ensure(new / _LOG)
    files.write(new / _JOB, submission.to_json())
    new.replace(folder)
    files.sync(folder.parent)


def load(folder: Path) -> Record:
    """Return the job that an earlier life of the service left in a folder.

    One that cannot be read is returned with its end asked for: the runner cannot run it. Raises OSError when there is
    no folder.
    """
    unknown = Ticket(0, max(0.0, folder.stat().st_mtime))
    try:
        if result := _read(folder / _OUTCOME, Result.from_json):
            _tidy(folder, result)
            return Record(folder, result.ticket, result=result, state=JobState.FINISHED)
        files.ensure(folder / _LOG)
        if marker := _read(folder / _ATTEMPT, Marker.from_json):
            return _cancelled(Record(folder, _ticket(folder) or unknown, marker=marker, state=JobState.RUNNING))
        if submission := _read(folder / _JOB, Submission.from_json, _MAX_JOB):
            return _cancelled(Record(folder, submission.ticket, submission.job))
        why = f"{_JOB} is not there"
    except (OSError, ValueError) as error:
        why = str(error)
    record = Record(folder, unknown)
    record.cancellation.stop_runner(f"What an earlier life of it wrote down about the job cannot be read ({why}).")
    return record


def _ticket(folder: Path) -> Ticket | None:
    """When a job that was started was submitted. It is followed whatever became of that."""
    with contextlib.suppress(OSError, ValueError):
        if submission := _read(folder / _JOB, Submission.from_json, _MAX_JOB):
            return submission.ticket
    return None


def _cancelled(record: Record) -> Record:
    """The record, cancelled if somebody asked for that."""
    try:
        by = _read(record.folder / _CANCEL, lambda document: str(document["by"])[:200])  # type: ignore[index]
    except (OSError, ValueError, TypeError, KeyError):
        by = "somebody whose name cannot be read any more"
    if by:
        record.cancellation.request(by)
    return record


def _read(path: Path, parse: Callable[[object], _D], limit: int = _MAX_DOCUMENT) -> _D | None:
    """Return what a document holds, None when there is none. Raises OSError; ValueError."""
    try:
        return parse(files.read(path, limit))
    except FileNotFoundError:
        return None


def _settle(folder: Path, result: Result, *, sync_log: bool) -> None:
    if sync_log:
        files.sync(folder / _LOG)
    files.write(folder / _OUTCOME, result.to_json())


def _tidy(folder: Path, result: Result) -> None:
    """Have the log of a job with an outcome end as it should, and remove what nobody needs any more. Idempotent.

    What fails is done again at the next start of the service.
    """
    try:
        files.end_with(folder / _LOG, result.output, result.closing)
        for name in (_JOB, _CANCEL, _ATTEMPT):
            files.remove(folder / name)
    except (OSError, ValueError) as error:
        _logger.warning("job %s: its log or its documents could not be tidied: %s", folder.name, error)
