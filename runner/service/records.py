"""Every job that the service knows, over its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from runner.errors import BadJobError, StateError
from runner.execution.files import bundle
from runner.job import Job
from runner.logs import Action, Events
from runner.metrics import Metrics
from runner.outcome import Outcome
from runner.service.record import Record, complete
from runner.service.retention import FinishedJob
from runner.service.stopwatch import Stopwatch
from runner.service.uploads import Incoming, Uploads
from runner.source_and_artifacts import Upload
from runner.store.jobs import Entry, Jobs, Request, Summary
from runner.store.states import JobState
from runner.store.threads import reading, writing

_events = Events(__name__)

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Records:
    """All jobs, including those of earlier lives of the service. Only this service uses the store and the logs.

    Raises StateError when they cannot be used.
    """

    def __init__(
        self, jobs: Jobs, logs: Path, uploads: Uploads, artifacts: Path, metrics: Metrics | None = None
    ) -> None:
        self.metrics: Final = metrics or Metrics()
        self.jobs: Final = jobs
        """The jobs' entries in the store."""
        self._logs = logs
        self.uploads = uploads
        self._artifacts = artifacts
        self._places = (logs, artifacts, bundle.lists(artifacts))
        """Each of these folders holds a file per job, named after the job's id."""
        self._known: WeakValueDictionary[str, Record] = WeakValueDictionary()
        self._needed = threading.Lock()
        """Held while a job may begin to need an archive, and from the check that none needs one until its removal."""
        try:
            for place in self._places:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_strays()
        except OSError as error:
            raise StateError(f"The folder of logs {logs} is not usable: {error}.") from error
        jobs.put_back()
        self._complete_settled()
        uploads.remove_unused(jobs.uploads())
        self.waiting = jobs.waiting()
        """The number of jobs that wait."""
        self._reading = asyncio.Lock()
        self._made: list[Record] = []
        """Keeps records made during a read alive: the job may go on and end meanwhile, and the read entry be old."""

    async def get(self, job_id: str) -> Record | None:
        """Return the job with that id, or None. While anybody holds a job, there is only one object for it.

        Raises StateError.
        """
        record = self._known.get(job_id)
        if record is None:
            async with self._reading:
                record = self._known.get(job_id) or await self._read(job_id)
        return record

    def summary(self, job_id: str) -> Summary | None:
        """Return the public facts about a job."""
        summary = self.jobs.summary(job_id)
        return summary and self._live(summary)

    def page(self, limit: int, before: str | None, state: JobState | None, prefix: str | None = None) -> list[Summary]:
        """List jobs, the newest first: those older than `before`, in that state, with ids that begin with `prefix`."""
        return [self._live(summary) for summary in self.jobs.page(limit, before, state, prefix)]

    def started(self) -> list[Record]:
        """Return the jobs of an earlier life that may be running, in the order in which they were submitted.

        Blocks: only for the start of the service, before anything runs.
        """
        entries = (self.jobs.get(job_id) for job_id in self.jobs.find(JobState.RUNNING))
        return [self._record(entry) for entry in entries if entry]

    async def add(self, job: Job, request: Request | None = None) -> Record:
        """Take a job: it is on disk when this returns.

        Raises StateError, also on a full disk; RequestReusedError; BadJobError when its archive is not here.
        """
        job_id, new = await writing(self._add, job, request)
        self.waiting += int(new)
        self.metrics.submitted.inc(new)
        record = await self.get(job_id)
        assert record
        return record

    async def claim(self, per_key: int) -> Record | None:
        """Take the next job out of the queue to run it; None when no job may start. Raises StateError."""
        entry = await writing(self.jobs.claim, per_key)
        if entry is None:
            return None
        self.waiting -= 1
        return self._record(entry)

    def new_upload(self) -> Incoming:
        """Begin to receive another archive. Raises BusyError; StateError."""
        with self._needed:
            self.uploads.remove_unused(self.jobs.uploads())
        return self.uploads.begin()

    async def forget_upload(self, upload: str) -> None:
        """Remove an archive unless another job needs it."""
        with contextlib.suppress(StateError):  # the next start removes it
            await writing(self._forget_upload, upload)

    async def take(self, record: Record) -> bool:
        """Claim a job regardless of the queue's order; False when it does not wait any more. Raises StateError."""
        taken = await writing(self.jobs.take, record.id)
        self.waiting -= int(taken)
        return taken

    async def _read(self, job_id: str) -> Record | None:
        try:
            entry = await reading(self.jobs.get, job_id)
            return self._record(entry) if entry else None
        finally:
            self._made.clear()

    def _record(self, entry: Entry) -> Record:
        """Return the one object for a job; make it from the entry when nobody holds one yet."""
        record = self._known.get(entry.id)
        if record is None:
            watch = Stopwatch(self.metrics, entry.submitted)
            record = Record(self.jobs, entry, self._logs / entry.id, self._artifacts / entry.id, watch)
            self._known[entry.id] = record
            if self._reading.locked():
                self._made.append(record)
        return record

    async def put_back(self, record: Record, outcome: Outcome) -> None:
        """Put a job back for another start. Raises StateError; try again."""
        await record.retry(outcome)
        self.waiting += 1

    @property
    def folder(self) -> Path:
        """A folder on the disk that holds everything."""
        return self._logs

    def finished(self) -> Iterator[FinishedJob]:
        """Yield the finished jobs and their sizes. May be called on any thread. Raises StateError."""
        for job_id, ended in self.jobs.finished():
            yield FinishedJob(job_id, ended, sum(_size(place / job_id) for place in self._places))

    def forget(self, ids: Sequence[str]) -> None:
        """Forget finished jobs and all their files. May be called on any thread. Raises StateError."""
        self.jobs.forget(ids)
        for job_id in ids:
            self._known.pop(job_id, None)
            for place in self._places:
                _remove(place / job_id)

    def _add(self, job: Job, request: Request | None) -> tuple[str, bool]:
        with self._needed:
            again = request is not None and self.jobs.requested(request)
            if isinstance(job.source, Upload) and not again and not self.uploads.has(job.source.id):
                raise BadJobError(
                    f"There is no archive {job.source.id}: one is kept until its job has ended, and for a day while no "
                    "job asks for it. Send it again.",
                    field=("source", "id"),
                )
            return self.jobs.add(job, request)

    def _forget_upload(self, upload: str) -> None:
        with self._needed:
            if upload not in self.jobs.uploads():
                self.uploads.remove(upload)

    def _live(self, summary: Summary) -> Summary:
        """Add to a summary what is not in the store while the job runs."""
        record = self._known.get(summary.id)
        return replace(summary, steps=record.steps) if record and record.steps else summary

    def _remove_strays(self) -> None:
        """Remove the files of forgotten jobs, and files that a crash left half written."""
        for path in (path for place in self._places for path in place.iterdir()):
            if path.suffix == ".part" or (_ID.fullmatch(path.name) and self.jobs.summary(path.name) is None):
                _remove(path)

    def _complete_settled(self) -> None:
        """Complete the logs of jobs whose outcome was written right before a crash."""
        for job_id in self.jobs.find(JobState.SETTLED):
            try:
                entry = self.jobs.get(job_id)
                assert entry
                assert entry.result
                complete(self.jobs, job_id, self._logs / job_id, entry.result)
            except StateError as error:
                _events.warning(Action.STORE_FAILED, f"{error} The next start tries again.", job=job_id)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the next start removes it
        path.unlink(missing_ok=True)
