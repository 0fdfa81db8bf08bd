"""Every job that the service knows, over its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from runner.errors import BadJobError, StateError
from runner.execution.files import bundle
from runner.job import Job
from runner.job_files import Upload
from runner.service.record import Record, complete
from runner.service.uploads import Incoming, Uploads
from runner.store.jobs import Jobs, Request, Summary
from runner.store.states import JobState

_logger = logging.getLogger(__name__)

#: Finished jobs that are remembered; older ones go.
KEPT: Final = 1000

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Records:
    """All jobs, those of earlier lives of the service too. The store and the folder of logs are this service's own.

    Raises StateError when they cannot be used.
    """

    def __init__(self, jobs: Jobs, logs: Path, uploads: Uploads, artifacts: Path) -> None:
        self._jobs = jobs
        self._logs = logs
        self.uploads = uploads
        self._artifacts = artifacts
        self._known: WeakValueDictionary[str, Record] = WeakValueDictionary()
        try:
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            artifacts.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_strays()
        except OSError as error:
            raise StateError(f"The folder of logs {logs} is not usable: {error}.") from error
        jobs.put_back()
        self._complete_settled()
        uploads.remove_unused(jobs.uploads())
        #: How many jobs wait.
        self.waiting = jobs.waiting()

    def get(self, job_id: str) -> Record | None:
        """The job of that id, if it is known. There is one object for each job while anybody has it."""
        record = self._known.get(job_id)
        if record is None and (entry := self._jobs.get(job_id)):
            record = self._known[job_id] = Record(self._jobs, entry, self._logs / job_id, self._artifacts / job_id)
        return record

    def summary(self, job_id: str) -> Summary | None:
        """What anybody may know of a job."""
        return self._jobs.summary(job_id)

    def page(self, limit: int, before: str | None, state: JobState | None) -> list[Summary]:
        """The newest jobs, those that were submitted before a certain one, in a certain state."""
        return self._jobs.page(limit, before, state)

    def started(self) -> list[Record]:
        """The jobs of an earlier life that may be running, in the order in which they were submitted."""
        return self._all(self._jobs.find(JobState.RUNNING))

    def unwanted(self) -> list[Record]:
        """The jobs that wait although somebody asked for their end, or for longer than they may."""
        return self._all([*self._jobs.cancelled(), *self.expired()])

    def expired(self) -> list[str]:
        """The jobs that have waited for as long as they may."""
        return self._jobs.expired()

    async def add(self, job: Job, request: Request | None = None) -> Record:
        """Take a job: it is on disk when this returns.

        Raises StateError, also on a full disk; RequestReusedError; BadJobError when its archive is not here.
        """
        await self._forget_old()
        again = request is not None and self._jobs.requested(request)
        if isinstance(job.source, Upload) and not again and not self.uploads.has(job.source.id):
            raise BadJobError(
                f"source.id: There is no archive {job.source.id}: one is kept until its job has ended, and for a day "
                "while no job asks for it. Send it again."
            )
        job_id, new = await asyncio.to_thread(self._jobs.add, job, request)
        self.waiting += int(new)
        record = self.get(job_id)
        assert record
        return record

    async def claim(self, per_key: int) -> Record | None:
        """Return the job that is next, for its run to begin; None when none may start. Raises StateError."""
        job_id = await asyncio.to_thread(self._jobs.claim, per_key)
        if job_id is None:
            return None
        self.waiting -= 1
        return self.get(job_id)

    def new_upload(self) -> Incoming:
        """Begin to keep another archive. Raises StateError."""
        self.uploads.remove_unused(self._jobs.uploads())
        return self.uploads.begin()

    async def forget_upload(self, upload: str) -> None:
        """Remove an archive unless another job needs it."""
        with contextlib.suppress(StateError):  # the next start removes it
            if upload not in await asyncio.to_thread(self._jobs.uploads):
                await asyncio.to_thread(self.uploads.remove, upload)

    async def take(self, record: Record) -> bool:
        """Claim a job whoever is next; False when it does not wait any more. Raises StateError."""
        taken = await asyncio.to_thread(self._jobs.take, record.id)
        self.waiting -= int(taken)
        return taken

    def _all(self, ids: list[str]) -> list[Record]:
        return [record for job_id in ids if (record := self.get(job_id))]

    async def _forget_old(self) -> None:
        for job_id in await asyncio.to_thread(self._jobs.forget, KEPT):
            self._known.pop(job_id, None)
            with contextlib.suppress(OSError):  # the next start removes it
                self.remove(job_id)

    def remove(self, job_id: str) -> None:
        """Remove the files of a job that is forgotten. Raises OSError."""
        (self._logs / job_id).unlink(missing_ok=True)
        bundle.remove(self._artifacts / job_id)

    def _remove_strays(self) -> None:
        """Remove files of jobs that are forgotten."""
        for path in (*self._logs.iterdir(), *self._artifacts.iterdir()):
            job_id = path.name.partition(".")[0]
            if _ID.fullmatch(job_id) and not path.is_dir() and self._jobs.summary(job_id) is None:
                self.remove(job_id)

    def _complete_settled(self) -> None:
        """Have the logs of jobs whose outcome was written right before a crash end as they should."""
        for job_id in self._jobs.find(JobState.SETTLED):
            try:
                entry = self._jobs.get(job_id)
                assert entry
                assert entry.result
                complete(self._jobs, job_id, self._logs / job_id, entry.result)
            except StateError as error:
                _logger.warning("%s The next start tries again.", error)
