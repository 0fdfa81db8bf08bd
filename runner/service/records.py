"""What the service remembers of a job: a folder each, with the log and, at the end, the outcome.

The script and the environment are never written down: they may hold secrets.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from runner import outcome as outcomes
from runner.errors import StateError
from runner.execution.cancellation import Cancellation
from runner.execution.log import Log
from runner.job import Job
from runner.outcome import Outcome, RunnerStopped

#: Finished jobs that are remembered; older ones go.
KEPT: Final = 1000

_ID: Final = re.compile(r"[0-9a-f]{32}")


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
    """One job. `job` and `log` are there until it is finished, the outcome from then on."""

    id: str
    folder: Path
    submitted: float
    state: JobState
    job: Job | None = None
    log: Log | None = None
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.cancellation = Cancellation()
        self.finished = asyncio.Event()
        if self.state is JobState.FINISHED:
            self.finished.set()

    def move(self, target: JobState) -> None:
        """Go to another state. Raises StateError naming both when the table does not allow it."""
        if target is not self.state and target not in MOVES[self.state]:
            raise StateError(f"Job {self.id} cannot move from {self.state} to {target}; this is a defect.")
        self.state = target

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the log from a byte offset on, to its end: live while the job runs, from the file afterwards."""
        if self.log is not None:
            async for data in self.log.follow(offset):
                yield data
            return
        for data in self.read(offset):
            yield data

    def read(self, offset: int) -> Iterator[bytes]:
        """Yield what the log has now, from a byte offset on."""
        with (self.folder / "log").open("rb") as file:
            file.seek(offset)
            while data := file.read(256 * 1024):
                yield data


class Records:
    """Every job the service knows. The folder is this service's own.

    Raises StateError when the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[str, Record] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime):
                if _ID.fullmatch(entry.name):
                    self._records[entry.name] = _load(entry)
        except OSError as error:
            raise StateError(f"The state folder {folder} is not usable: {error}.") from error

    def get(self, job_id: str) -> Record | None:
        """The job of that id, if it is known."""
        return self._records.get(job_id)

    def add(self, job: Job) -> Record:
        """Take a job: its folder and its empty log exist when this returns. Raises StateError, also on a full disk."""
        self._forget_old()
        job_id = uuid.uuid4().hex
        folder = self._folder / job_id
        try:
            folder.mkdir(mode=0o700)
            log = Log(folder / "log")
        except OSError as error:
            raise StateError(f"The job cannot be kept: {error}. Make room in the state folder.") from error
        record = Record(job_id, folder, time.time(), JobState.QUEUED, job, log)
        self._records[job_id] = record
        return record

    def finish(self, record: Record, outcome: Outcome) -> None:
        """Keep the outcome, on disk before anybody is told. The log is complete by now."""
        if record.log is not None:
            record.log.close(outcomes.sentence(outcome))
        try:
            _write(record.folder / "outcome.json", json.dumps(outcomes.to_json(outcome)))
        finally:
            record.move(JobState.FINISHED)
            record.outcome, record.job, record.log = outcome, None, None
            record.finished.set()

    def _forget_old(self) -> None:
        finished = [record for record in self._records.values() if record.state is JobState.FINISHED]
        for record in finished[: max(0, len(finished) - KEPT + 1)]:
            shutil.rmtree(record.folder, ignore_errors=True)
            del self._records[record.id]


def _load(folder: Path) -> Record:
    """A job of an earlier life of the service. One without an outcome ended with that life."""
    submitted = folder.stat().st_mtime
    try:
        outcome = outcomes.from_json(json.loads((folder / "outcome.json").read_text()))
    except (FileNotFoundError, ValueError):
        outcome = RunnerStopped("it went down while the job was queued or running.")
        (folder / "log").touch(mode=0o600)
        _write(folder / "outcome.json", json.dumps(outcomes.to_json(outcome)))
    return Record(folder.name, folder, submitted, JobState.FINISHED, outcome=outcome)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
