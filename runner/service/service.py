"""Takes jobs into a queue, runs as many at once as there are slots, and goes on with those of an earlier life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Final, Self

from runner import outcome as outcomes
from runner.errors import BusyError, ConnectError, DetachedError, LeaseError, LogError, StateError, StoppingError
from runner.execution.attempt import OnEnd, OnStart, resume_attempt, run, run_attempt
from runner.execution.cancellation import Cancellation, see_through
from runner.execution.files.jobs import NO_FILES, JobFiles
from runner.execution.files.limits import FileLimits
from runner.execution.flight import first, stop
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import Note, Notes, Settings, StepNote
from runner.execution.prepare import Prepared, profile_for
from runner.job import Job
from runner.logs import Action, Events
from runner.outcome import Limit, Outcome, SandboxLost, SetupFailed
from runner.placement import Wanted
from runner.service.housekeeping import Housekeeper
from runner.service.lasting import lasting
from runner.service.leases import NotedLeases
from runner.service.limits import Limits
from runner.service.mode import Mode, check_move
from runner.service.record import Record
from runner.service.records import Records
from runner.service.standby import PATIENCE, Standby
from runner.service.uploads import Incoming
from runner.service.watermark import Disk
from runner.service.webhooks import Webhooks
from runner.source_and_artifacts import Upload
from runner.store.jobs import Request
from runner.store.threads import reading, writing

_events = Events(__name__)

MAX_QUEUED: Final = 100_000
"""Jobs that may wait at once."""
_RETRY: Final = 1.0
_STOP_DEADLINE: Final = 10.0
"""Seconds between two tries to write an outcome down, and for how long to go on trying once the runner has to stop."""
_SWEEP: Final = 1.0
_SWEPT: Final = 100
"""Seconds between two looks for jobs that have waited for too long, and how many of them are ended each time."""
_DETACH_DEADLINE: Final = 5.0
"""Seconds to leave the running jobs in good order."""
_FLUSH: Final = 2.0
"""Seconds to send the webhooks that are due; the next life sends the rest."""
_ASKED: Final = 1.0
"""Seconds that the submission of a job waits for the keeper to tell its profiles."""
_BEYOND: Final = 3600.0
_MAX_PATIENCE: Final = 7 * 24 * 3600.0
"""Seconds to keep a sandbox beyond its job's timeout while no runner is heard of; and the most that a keeper grants."""
SETTINGS: Final = Settings(reconnect_deadline=_BEYOND, source_deadline=PATIENCE)
"""A keeper may be away for as long as its upgrade takes, while the job goes on. A job that was not started waits for as
long as somebody may need to come and repair the host."""


class Service:
    """One runner's jobs. `work` runs them until `stop`, `abort` or `detach` is called and the last job has ended.

    A life of the service may end at any moment: all promises are on disk, and the next life goes on from there.
    """

    def __init__(
        self,
        leases: NotedLeases,
        records: Records,
        limits: Limits,
        standby: Standby | None,
        settings: Settings,
        housekeeper: Housekeeper,
        webhooks: Webhooks | None,
    ) -> None:
        self.records = records
        self.housekeeper = housekeeper
        self._webhooks = webhooks
        self._settings = settings
        self._leases = leases
        self._limits = limits
        self.standby = standby
        """Shared by all jobs, including those that the service does not run itself."""
        self._running: dict[Record, asyncio.Task[None]] = {}
        self._unavailable: dict[Record, str] = {}
        """The jobs for which there is no sandbox now, and why."""
        self._changed = asyncio.Event()
        self._reconciled = False
        self._mode = Mode.DRAINING if records.jobs.hold() else Mode.WORKING
        self._holding = asyncio.Lock()
        """Held while a drain or its end is written down, so that the mode always agrees with the last write to disk."""
        self._aborted = 0.0

    @property
    def file_limits(self) -> FileLimits:
        """Limits on the size of a job's files."""
        return self._settings.files

    @property
    def reconciled(self) -> bool:
        """Whether the service has looked for the jobs of an earlier life."""
        return self._reconciled

    @property
    def mode(self) -> Mode:
        """What the service does with jobs."""
        return self._mode

    @property
    def held(self) -> str:
        """Why no waiting job may start, as a sentence; empty when it may."""
        if self._mode is not Mode.WORKING:
            return f"The runner is {self._mode}."
        # Such a job asks again until there is a sandbox; the jobs after it wait in the queue and lose nothing there.
        return self.housekeeper.shortage or next(iter(self._unavailable.values()), "")

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return len(self._running)

    @property
    def attempts(self) -> dict[str, str]:
        """The jobs that have a sandbox and may have started in it: their ids by their attempts."""
        return {record.marker.attempt: record.id for record in self._running if record.marker}

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""
        return self._limits.slots

    def follow(self, limits: Limits) -> None:
        """Use other limits: running jobs go on to their end, even when there are more of them than slots."""
        self._limits = limits
        self._changed.set()

    async def submit(self, job: Job, request: Request | None = None) -> Record:
        """Take a job: from here on it outlives this process. The same request again returns the same job.

        Errors: BadJobError, StoppingError, BusyError, RequestReusedError, StateError.
        """
        await self._check_placed(job)
        self._check_open("job")
        if self.records.waiting >= MAX_QUEUED:
            raise BusyError(f"{MAX_QUEUED} jobs wait already. Submit it again later.")
        return await see_through(self._take(job, request))

    async def _check_placed(self, job: Job) -> None:
        """Check that a profile suits the job; without an answer, the job's start checks it. Errors: BadJobError."""
        wanted = Wanted.by(job, self._limits.labels)
        if not wanted.suits_all:
            with suppress(LeaseError, TimeoutError):
                async with asyncio.timeout(_ASKED):
                    await profile_for(self._leases, wanted)

    def new_upload(self) -> Incoming:
        """Begin to receive an archive for a job. Blocks. Errors: StoppingError, BusyError, StateError."""
        self._check_open("archive")
        return self.records.new_upload()

    def _check_open(self, what: str) -> None:
        if not self._mode.takes:
            raise StoppingError("The runner is stopping and takes no more jobs. Submit it again when it is back.")
        if self.housekeeper.disk is Disk.FULL:
            raise StateError(f"The {what} cannot be kept. {self.housekeeper.shortage}")

    async def cancel(self, record: Record, by: str) -> None:
        """Ask for a job's end; `by` completes the sentence "the script was cancelled by …"."""
        await record.cancel(by)
        await self._end_unstarted(record)

    async def drain(self, by: str) -> None:
        """Start nothing more until `resume`, also over restarts; running jobs go on. Idempotent.

        Errors: WrongModeError; StateError when a restart would forget the drain: the service drains nevertheless.
        """
        async with self._holding:
            self._move(Mode.DRAINING)
            await see_through(writing(self.records.jobs.set_hold, by))

    async def resume(self) -> None:
        """Start waiting jobs again. Idempotent. Errors: WrongModeError; StateError: the service drains as before."""
        async with self._holding:
            check_move(self._mode, Mode.WORKING)
            await see_through(writing(self.records.jobs.end_hold))
            self._move(Mode.WORKING)

    def stop(self) -> None:
        """Start nothing more and take no more jobs; `work` ends when nothing runs. Idempotent."""
        if self._mode.takes:
            self._move(Mode.STOPPING)
        for record in self._unavailable:
            record.cancellation.detach()  # it was not started, and waits for the next life

    def abort(self, why: str) -> None:
        """Stop, and end the running jobs too; `why` is a sentence. Idempotent."""
        if self._mode is not Mode.LEAVING and self._move(Mode.ABORTING):
            self._aborted = time.monotonic()
            for record in self._running:
                record.cancellation.stop_runner(why)

    def detach(self) -> None:
        """Take and start no more jobs, and leave the running ones running, for the next life. Idempotent."""
        if self._move(Mode.LEAVING):
            for record in self._running:
                record.cancellation.detach()

    def _move(self, target: Mode) -> bool:
        """Go to another mode; return False when the service is in it already. Errors: WrongModeError."""
        if not check_move(self._mode, target):
            return False
        what = f"{target}: {len(self._running)} jobs run, {self.records.waiting} wait"
        _events.info(Action(target.value), what)
        self._mode = target
        self._changed.set()
        return True

    async def work(self) -> None:
        """Run jobs, first those of an earlier life, until no more can come."""
        followed = self._reconcile()
        returning = lasting("the return of earlier leases", lambda: self._leases.return_earlier(followed))
        beside = [lasting("the look for expired jobs", self._sweep), lasting("housekeeping", self.housekeeper.work)]
        if self._webhooks:
            beside.append(lasting("the sending of webhooks", self._webhooks.work))
        while self._mode is not Mode.LEAVING:
            self._changed.clear()
            await self._fill()
            if not (self._mode.takes or self._running):
                break
            await self._changed.wait()
        for task in beside:
            task.cancel()
        await self._close()
        if self._webhooks:
            await self._webhooks.flush(_FLUSH)
        returning.cancel()

    async def _fill(self) -> None:
        """Start the next jobs while there are free slots."""
        while len(self._running) < self.slots and not self.held:
            try:
                record = await see_through(self.records.claim(self._limits.of_one_key))
            except StateError as error:
                _events.error(Action.STORE_FAILED, f"{error} The jobs that wait are looked at again soon.")
                return
            if record is None:
                return
            if not self._mode.leaves_unstarted:  # else it waits again in the next life
                self._start(record)

    async def _sweep(self) -> None:
        """End the jobs that have waited too long; try to start others too, in case the disk failed the last time."""
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                for job_id in await reading(self.records.jobs.unwanted, _SWEPT):
                    if record := await self.records.get(job_id):  # one at a time: each is as large as its script
                        record.cancellation.expire(Limit.QUEUE)  # no effect on a job that was cancelled before
                        await self._end_unstarted(record)
            except StateError as error:
                _events.error(Action.STORE_FAILED, f"{error} It is read again soon.")
            self._changed.set()

    async def _end_unstarted(self, record: Record) -> None:
        """End a waiting job as was asked: it takes no sandbox and no slot."""
        try:
            if await see_through(self.records.take(record)):
                self._start(record)
        except StateError as error:
            _events.warning(Action.STORE_FAILED, f"it is ended when it is next: {error}", job=record.id)

    async def _close(self) -> None:
        """Give back all sandboxes. What a detached service cannot do in time is left to the next life."""
        closing = [*self._running.values()]
        if self.standby is not None:
            closing.append(asyncio.create_task(self.standby.close()))
        if closing:
            await asyncio.wait(closing, timeout=_DETACH_DEADLINE if self._mode is Mode.LEAVING else None)

    def leave_to_others(self, attempts: Collection[str]) -> None:
        """Keep these leases of an earlier life: somebody else goes on with them. Call before `work`."""
        self._leases.keep(attempts)

    def _reconcile(self) -> set[str]:
        """Go on with the jobs of an earlier life, and return the attempts that are followed again.

        They are followed even when there are more of them than slots: they run anyway.
        """
        followed = set()
        for record in self.records.started():
            if record.marker:
                followed.add(record.marker.attempt)
            self._start(record)
        self._reconciled = True
        if self._running or self.records.waiting:
            found = f"{len(self._running)} jobs that run, {self.records.waiting} that wait"
            _events.info(Action.FOUND_AGAIN, f"found again: {found}")
        return followed

    async def _take(self, job: Job, request: Request | None) -> Record:
        record = await self.records.add(job, request)
        self._changed.set()
        _events.info(Action.QUEUED, "queued", job=record.id)
        return record

    def _start(self, record: Record) -> None:
        self._running[record] = asyncio.create_task(self._see_to_its_end(record))

    async def _see_to_its_end(self, record: Record) -> None:
        source = record.job.source if record.job else None
        try:
            outcome = await self._outcome(record)
            if record.again:
                await self._keep_trying(record, outcome, lambda: self.records.put_back(record, outcome))
            else:
                await self._settle(record, outcome)
                await self._keep_trying(record, outcome, record.finish)
                if isinstance(source, Upload):
                    await self.records.forget_upload(source.id)
                if self._webhooks:
                    self._webhooks.wake()
            _events.info(Action.ENDED, outcomes.sentence(outcome), job=record.id)
        except DetachedError:
            _events.info(Action.LEFT, "left for the next life of the runner", job=record.id)
        except Exception as error:  # noqa: BLE001 - a defect in one job's course is no end of the others
            _events.error(
                Action.DEFECT, "a defect in the runner; the next life tries again", error=error, job=record.id
            )
        finally:
            if self._running.get(record) is asyncio.current_task():  # else it was put back, and runs again already
                del self._running[record]
            self._unavailable.pop(record, None)
            self._changed.set()

    async def _outcome(self, record: Record) -> Outcome:
        if record.cancellation.cause and not record.marker:
            return record.cancellation.cause
        try:
            return await self._run(record)
        except DetachedError:
            raise
        except LogError as error:
            return SandboxLost(str(error)) if record.marker else SetupFailed(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job comes to its end
            _events.error(Action.DEFECT, "a defect in the runner", error=error, job=record.id)
            return SandboxLost("The runner met an error of its own. Please report it with the runner's log.")

    async def _run(self, record: Record) -> Outcome:
        def tell(note: Note) -> None:
            if isinstance(note, StepNote):
                record.note(note)
            self._take_note_of(record, note)
            self.records.metrics.noted(note.action)
            where = {"sandbox": record.marker.sandbox, "attempt": record.marker.attempt} if record.marker else {}
            _events.info(note.action, note.text, job=record.id, **where)

        async def on_end(outcome: Outcome) -> None:
            record.again = record.may_retry(outcome)
            if not record.again:
                await self._settle(record, outcome)

        log = record.begin()
        if record.marker:
            return await resume_attempt(
                self._leases,
                record.marker,
                log,
                record.cancellation,
                settings=self._settings,
                notes=tell,
                on_end=on_end,
                files=self._files_of(record),
            )
        assert record.job
        with _SetupLimit(record) as limit:

            async def mark(marker: Marker) -> None:
                await record.mark_patiently(marker, lambda: not self._mode.takes)
                limit.end()

            return await self._attempt(record, record.job, log, tell, mark, on_end)

    async def _attempt(self, record: Record, job: Job, log: Log, tell: Notes, mark: OnStart, on_end: OnEnd) -> Outcome:
        """Run a job in the sandbox that was prepared in advance, if it suits, or in another one."""
        settings, files = self._settings_for(job), self._files_of(record)
        wanted = Wanted.by(job, self._limits.labels)
        if settings.patience <= PATIENCE and (prepared := await self._prepared(wanted, record.cancellation)):
            try:
                return await run(
                    prepared, job, log, record.cancellation, notes=tell, on_start=mark, on_end=on_end, files=files
                )
            except ConnectError as error:
                tell(Note(Action.RETRY, f"{error} Another one is tried."))
        return await run_attempt(
            self._leases,
            job,
            log,
            record.cancellation,
            settings=settings,
            notes=tell,
            on_start=mark,
            on_end=on_end,
            files=files,
            labels=self._limits.labels,
        )

    async def _prepared(self, wanted: Wanted, cancellation: Cancellation) -> Prepared | None:
        """Return the sandbox that was prepared in advance, if it suits. Stop waiting for it when the job is to end."""
        if self.standby is None:
            return None
        taking = asyncio.create_task(self.standby.take(wanted))
        await first(taking, cancellation.wait())
        if not taking.done():
            await stop(taking)
        return None if taking.cancelled() else taking.result()

    def _take_note_of(self, record: Record, note: Note) -> None:
        """Keep track of the jobs for which there is no sandbox now."""
        if note.action is Action.UNAVAILABLE:
            self._unavailable[record] = note.text
            if self._mode is Mode.STOPPING:
                record.cancellation.detach()
        elif note.action is Action.LEASED:
            self._unavailable.pop(record, None)
            self._changed.set()

    def _files_of(self, record: Record) -> JobFiles:
        job = record.job
        if job is None:
            return NO_FILES
        upload = self.records.uploads.path(job.source.id) if isinstance(job.source, Upload) else None
        return JobFiles.of(job, upload, record.bundle_path, self._settings.files)

    async def _settle(self, record: Record, outcome: Outcome) -> None:
        """Write the outcome to disk, retrying for as long as it takes: until then the job runs and keeps its sandbox.

        Errors: DetachedError when the runner leaves before that. The next life asks the sandbox again.
        """
        await self._keep_trying(record, outcome, lambda: record.settle(outcome))

    @property
    def _given_up(self) -> bool:
        """Whether writes that fail now are left to the next life."""
        late = self._mode is Mode.ABORTING and time.monotonic() - self._aborted > _STOP_DEADLINE
        return late or self._mode is Mode.LEAVING

    async def _keep_trying(self, record: Record, outcome: Outcome, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await write()
            except StateError as error:
                problem = str(error)
            what = f"{problem} It ended like this: {outcomes.sentence(outcome)}"
            _events.error(Action.STORE_FAILED, what, job=record.id)
            if self._given_up:
                raise DetachedError(problem)
            await asyncio.sleep(_RETRY)

    def _settings_for(self, job: Job) -> Settings:
        """Return settings that let a sandbox wait for the next life as long as the job may run, and a while longer."""
        if job.timeout is None:
            return replace(self._settings, patience=PATIENCE)
        return replace(self._settings, patience=min(job.timeout + self._settings.grace + _BEYOND, _MAX_PATIENCE))


class _SetupLimit:
    """Ends a job that does not start in time."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        assert self._record.job
        seconds = self._record.job.setup_timeout
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._record.cancellation.expire, Limit.SETUP)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the limit: the job starts, or ends otherwise. Idempotent."""
        if self._timer:
            self._timer.cancel()
