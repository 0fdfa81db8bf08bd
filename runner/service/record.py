"""One job in this life of the service: its entry in the store, its log, and its waiting clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from runner import durable
from runner import outcome as outcomes
from runner.errors import DetachedError, LogError, StateError
from runner.execution.cancellation import Cancellation
from runner.execution.files import bundle
from runner.execution.files.bundle import Kept
from runner.execution.log import CHUNK, DEFAULT_LIMIT, Log
from runner.execution.marker import Marker, Moment
from runner.execution.options import StepNote
from runner.execution.redact import Redactor
from runner.job import Job
from runner.logs import Action, Events
from runner.outcome import Outcome, SandboxLost, SetupFailed
from runner.service.stopwatch import Stopwatch
from runner.steps import StepProgress, over, waiting
from runner.store.jobs import Earlier, Entry, Jobs, Result, fit
from runner.store.states import JobState
from runner.store.threads import writing

_events = Events(__name__)

_RETRY: Final = 1.0
"""Seconds between two tries to write a marker down."""


class Record:
    """One job. All methods must be called on the event loop's thread."""

    def __init__(self, jobs: Jobs, entry: Entry, log_path: Path, bundle_path: Path, watch: Stopwatch) -> None:
        self.id = entry.id
        self.job = entry.job
        """None once the job is finished, and when only the marker of an earlier life could be read."""
        self.marker = entry.marker
        """Set from the moment when the script may have started until the job is finished."""
        self.result = entry.result
        self._steps = waiting(entry.job.steps) if entry.job else []
        self.log: Log | None = None
        """Set while the job runs."""
        self.log_path = log_path
        self.bundle_path = bundle_path
        """Where the job's kept files go."""
        self.cancellation = Cancellation()
        self.finished = asyncio.Event()
        self.again = False
        """Whether the last start failed and another one follows."""
        self._earlier = entry.earlier
        self._turn = _Turn()
        self._jobs = jobs
        self._watch = watch
        if entry.cancelled_by:
            self.cancellation.request(entry.cancelled_by)
        if entry.problem:
            self.cancellation.stop_runner(
                f"What an earlier life of it wrote down about the job cannot be read ({entry.problem})."
            )
        if self.result:
            self._turn.begin()
            self.finished.set()

    @property
    def state(self) -> JobState | None:
        """The job's state; None when the job was forgotten."""
        summary = self._jobs.summary(self.id)
        return summary.state if summary else None

    @property
    def outcome(self) -> Outcome | None:
        """The job's outcome, once it is finished."""
        return self.result.outcome if self.result and self.finished.is_set() else None

    def begin(self) -> Log:
        """Begin to run, and continue the log of an earlier life or an earlier start. Raises LogError."""
        earlier = self._earlier
        if earlier.retries and not self.marker:
            _end_log(self.log_path, earlier.output, earlier.closing)
        redactor = Redactor(self.job.secrets.values()) if self.job and self.job.secrets else None
        limit = self.marker.log_limit if self.marker else DEFAULT_LIMIT
        self.log = Log.reopen(self.log_path, limit, redactor, start=earlier.size)
        self._turn.begin(self.log)
        if not self.marker:
            self._watch.began()
        return self.log

    async def mark(self, marker: Marker) -> None:
        """Write the marker to disk. Raises StateError; try again."""
        await writing(self._jobs.mark, self.id, marker)
        self.marker = marker
        self._watch.sent()

    async def mark_patiently(self, marker: Marker, stopping: Callable[[], bool]) -> None:
        """Write the marker to disk, retrying as long as it takes: nothing was sent, and the sandbox waits with the job.

        Errors: StateError or DetachedError when the job has to end before that, or is left to the next life, which also
        happens when the runner is `stopping`.
        """
        while not await self._marked(marker):
            if stopping():
                self.cancellation.detach()
            if await _within(self.cancellation.wait(), _RETRY):
                raise StateError("The start could not be written down before the job was to end.")
        if self.cancellation.detached:  # a job that is half sent when the runner leaves would be lost
            await self._leave_unsent()

    async def unmark(self) -> None:
        """Put the job back into its place in the queue: nothing was sent. After a StateError, it counts as started."""
        assert self.job
        await writing(self._jobs.retry, self.id, self._earlier, self.job)
        self.marker = None

    @property
    def steps(self) -> tuple[StepProgress, ...]:
        """The progress of the steps, as far as this life knows it."""
        return self.result.steps if self.result else tuple(self._steps)

    def note(self, step: StepNote) -> None:
        """Note that a step began or is over."""
        if step.number < len(self._steps):
            self._steps[step.number] = replace(step.progress, name=self._steps[step.number].name)

    async def cancel(self, by: str) -> None:
        """Ask for the job's end, and write that down for a later life of the service."""
        if self.finished.is_set():
            return
        try:
            await writing(self._jobs.cancel, self.id, by)
        except StateError as error:  # a full disk must not keep a job running
            what = f"a restart would forget that it was cancelled: {error}"
            _events.warning(Action.STORE_FAILED, what, job=self.id)
        self.cancellation.request(by)

    def may_retry(self, outcome: Outcome) -> bool:
        """Return whether to start the job again: when the infrastructure failed and retries are left."""
        wanted = self.job is not None and self._earlier.retries < self.job.retry
        return wanted and isinstance(outcome, SandboxLost | SetupFailed) and not self.cancellation.cause

    async def retry(self, outcome: Outcome) -> None:
        """Put the job back on disk for another start. Raises StateError; try again."""
        assert self.job
        self.again = False
        if self.log:  # only at the first try of this call
            self.log.end_output()
            await self.log.flushed()
            retries = self._earlier.retries + 1
            reason = (
                f"{outcomes.sentence(fit(outcome))} The job is started again (retry {retries} of {self.job.retry})."
            )
            self._earlier = Earlier(retries, self.log.output, self.log.closing(reason))
            self.log.close(reason)
            self.log, self.marker, self._steps = None, None, waiting(self.job.steps)
            turn, self._turn = self._turn, _Turn()
            turn.over.set()
        await writing(self._put_back, self._earlier, self.job)

    async def settle(self, outcome: Outcome) -> None:
        """Write the outcome to disk, after the whole log. The first outcome stays.

        Raises StateError; try again.
        """
        if self.result:
            return
        outcome, log = fit(outcome), self.log
        if log:
            log.end_output()
            await log.flushed()
        sentence = outcomes.sentence(outcome)
        closing = log.closing(sentence) if log else f"runner: {sentence}\n".encode()
        result = Result(outcome, log.output if log else self._earlier.size, closing, over(self._steps))
        await writing(self._settle, result, sync_log=log is not None)
        self.result = result
        self._watch.settled(outcome, log)

    async def finish(self) -> None:
        """Write the last lines of a settled job's log, and forget the job's secrets. Raises StateError; try again."""
        assert self.result
        if self.log:
            self.log.close(outcomes.sentence(self.result.outcome))
        await writing(complete, self._jobs, self.id, self.log_path, self.result)
        self.job, self.marker, self.log = None, None, None
        self.finished.set()
        self._turn.begin()
        self._turn.over.set()
        self._watch.finished()

    def kept(self) -> Kept:
        """Return the job's kept files. Raises StateError."""
        try:
            return bundle.read(self.bundle_path) or Kept((), (), 0)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StateError(f"The artifacts of job {self.id} cannot be read ({error}).") from error

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the log from a byte offset to its end, live while the job runs."""
        while not self.finished.is_set():
            turn = self._turn
            await turn.begun.wait()
            if turn.log and not self.finished.is_set():
                async for data in turn.log.follow(offset):
                    offset += len(data)
                    yield data
            await turn.over.wait()
        for data in self.read(offset):
            yield data

    def read(self, offset: int) -> Iterator[bytes]:
        """Yield the present content of the log from a byte offset on."""
        with contextlib.suppress(OSError, ValueError), durable.open_to_read(self.log_path) as file:
            while data := os.pread(file.fileno(), CHUNK, offset):
                offset += len(data)
                yield data

    async def _marked(self, marker: Marker) -> bool:
        """Return whether the marker is on disk now."""
        try:
            await self.mark(replace(marker, started=Moment.now()))  # the timeout counts from this try on
        except StateError as error:
            what = f"{error} Nothing of the job was sent; it is tried again."
            _events.error(Action.STORE_FAILED, what, job=self.id)
            return False
        return True

    async def _leave_unsent(self) -> None:
        """Put the job back for the next life and raise DetachedError; if that fails, return: it counts as started."""
        try:
            await self.unmark()
        except StateError as error:
            _events.error(Action.STORE_FAILED, str(error), job=self.id)
        else:
            raise DetachedError("The runner left before anything was sent.")

    def _settle(self, result: Result, *, sync_log: bool) -> None:
        if sync_log:
            self._sync_log()
        self._jobs.settle(self.id, result)

    def _put_back(self, earlier: Earlier, job: Job) -> None:
        self._sync_log()
        self._jobs.retry(self.id, earlier, job)

    def _sync_log(self) -> None:
        try:
            durable.sync(self.log_path)
            durable.sync(self.log_path.parent)
        except OSError as error:
            raise StateError(
                f"The outcome cannot be written down: {error.strerror}. Make room in the state folder."
            ) from error


async def _within(event: Awaitable[None], seconds: float) -> bool:
    """Wait at most so many seconds for an event, and return whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        return False
    return True


class _Turn:
    """One start of a job, for the clients that follow its log."""

    def __init__(self) -> None:
        self.log: Log | None = None
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    def begin(self, log: Log | None = None) -> None:
        """Announce the log, or that there will never be one."""
        self.log = self.log or log
        self.begun.set()


def _end_log(path: Path, output: int, closing: bytes) -> None:
    """End the log as the last start left it, also after a crash in between. Raises LogError."""
    try:
        durable.end_with(path, output, closing)
    except (OSError, ValueError) as error:
        raise LogError(f"The log {path} cannot be continued: {error}. Look at the state folder.") from error


def complete(jobs: Jobs, job_id: str, log: Path, result: Result) -> None:
    """Write the end of a settled job's log, and mark the job as finished. Idempotent. Raises StateError."""
    try:
        durable.end_with(log, result.output, result.closing)
    except (OSError, ValueError) as error:
        raise StateError(
            f"The outcome cannot be written down to its end: the log of job {job_id} cannot be completed ({error})."
        ) from error
    jobs.finish(job_id)
