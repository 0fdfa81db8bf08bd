"""Takes jobs into a queue and runs them, as many at once as there are slots."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from runner import outcome as outcomes
from runner.errors import BusyError, ConnectError, DrainingError, StateError
from runner.execution.attempt import run, run_attempt
from runner.execution.lease import LeaseSource
from runner.execution.options import Note
from runner.job import Job
from runner.outcome import Outcome, SandboxLost
from runner.service.records import JobState, Record, Records
from runner.service.standby import Standby

_logger = logging.getLogger(__name__)

#: Jobs that may wait at once.
MAX_QUEUED: Final = 10_000


class Service:
    """One runner's jobs. `work` runs them until `drain` or `stop` was called and the last one has ended."""

    def __init__(self, leases: LeaseSource, records: Records, slots: int, standby: Standby | None) -> None:
        self.records = records
        self._leases = leases
        self._slots = slots
        self._standby = standby
        self._queue: asyncio.Queue[Record | None] = asyncio.Queue()
        self._unfinished: set[Record] = set()
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._draining

    def submit(self, job: Job) -> Record:
        """Take a job. Errors: DrainingError, BusyError, StateError; nothing was taken then."""
        if self._draining:
            raise DrainingError("The runner is stopping and takes no more jobs. Submit it again when it is back.")
        if self._queue.qsize() >= MAX_QUEUED:
            raise BusyError(f"{MAX_QUEUED} jobs wait already. Submit it again later.")
        record = self.records.add(job)
        self._unfinished.add(record)
        self._queue.put_nowait(record)
        _logger.info("job %s: queued", record.id)
        return record

    def drain(self) -> None:
        """Take no more jobs; what was taken is still run. Idempotent."""
        if not self._draining:
            self._draining = True
            _logger.info("draining: no more jobs are taken, %d go on", len(self._unfinished))
            for _ in range(self._slots):
                self._queue.put_nowait(None)

    def stop(self, why: str) -> None:
        """Take no more jobs and end those that were taken. Idempotent."""
        self.drain()
        for record in self._unfinished:
            record.cancellation.stop_runner(why)

    async def work(self) -> None:
        """Run jobs until there are no more to come."""
        await asyncio.gather(*(self._slot() for _ in range(self._slots)))
        if self._standby is not None:
            await self._standby.close()

    async def _slot(self) -> None:
        while (record := await self._queue.get()) is not None:
            outcome = await self._outcome(record)
            try:
                self.records.finish(record, outcome)
            except (OSError, StateError) as error:
                _logger.error("job %s: its outcome could not be written: %s", record.id, error)  # noqa: TRY400
            self._unfinished.discard(record)
            _logger.info("job %s: %s", record.id, outcomes.sentence(outcome))

    async def _outcome(self, record: Record) -> Outcome:
        if record.cancellation.cause is not None:
            return record.cancellation.cause
        record.move(JobState.RUNNING)
        try:
            return await self._run(record)
        except Exception:  # a slot must outlive any defect in one job's course
            _logger.exception("job %s: a defect in the runner", record.id)
            return SandboxLost("The runner met an error of its own. Please report it with the runner's log.")

    async def _run(self, record: Record) -> Outcome:
        assert record.job is not None
        assert record.log is not None

        def tell(note: Note) -> None:
            _logger.info("job %s: %s", record.id, note.text)

        job, log = record.job, record.log
        prepared = await self._standby.take(job.profile, job.trust_key) if self._standby is not None else None
        if prepared is not None:
            try:
                return await run(prepared, job, log, record.cancellation, notes=tell)
            except ConnectError as error:
                tell(Note("retry", f"{error} Another one is tried."))
        return await run_attempt(self._leases, job, log, record.cancellation, notes=tell)
