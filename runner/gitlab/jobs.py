"""All GitLab jobs of one service: found by handle, found again after a restart, swept when nobody comes for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from runner.errors import DetachedError, DrainingError, GitLabError
from runner.execution.lease import LeaseSource
from runner.gitlab import record as records
from runner.gitlab.live import Live
from runner.gitlab.options import Options
from runner.gitlab.record import State
from runner.gitlab.response import GitLabJob, parse
from runner.logs import Action, Events
from runner.metrics import Metrics

_events = Events(__name__)

#: Under this name, gitlab-runner hands every later hook of a job its handle.
JOB_VARIABLE: Final = "RUNNER_GITLAB_JOB"
#: Seconds between two looks for jobs that nobody comes for.
_INTERVAL: Final = 5.0
#: Seconds for what runs to be left in good order.
_LEAVE_DEADLINE: Final = 5.0


class Jobs:
    """Jobs from `config` to `cleanup`, and those whose cleanup never comes."""

    def __init__(self, leases: LeaseSource, folder: Path, options: Options, metrics: Metrics) -> None:
        """Find the jobs of an earlier life. Needs a running event loop."""
        self._leases = leases
        self._folder = folder
        self._options = options
        self._live: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._draining = self._detached = False
        metrics.gitlab_jobs.set_function(lambda: len(self._live))
        for record in records.load(folder):
            live = Live(record, leases, options)
            if record.state is State.OVER:
                self._do(live.finish())
            else:
                self._live[record.name] = live
        if self._live:
            _events.info(Action.FOUND_AGAIN, f"found again: {len(self._live)} GitLab jobs")

    def configure(self, response: bytes) -> tuple[Live, dict[str, object]]:
        """Take a job, and return it and what `config` prints. Errors: DrainingError; ResponseError; GitLabError."""
        self._check_here()
        if self._draining:
            raise DrainingError("The runner is stopping and takes no more jobs.")
        job = parse(response)
        record, handle = records.create(self._folder, job, response)
        live = self._live[record.name] = Live(record, self._leases, self._options)
        _events.info(Action.QUEUED, f"taken, of project {job.project}", gitlab_job=record.name)
        return live, {
            "driver": {"name": "sandbox-runner"},
            "shell": "bash",
            "builds_dir": self._options.builds,
            "cache_dir": self._options.cache,
            "builds_dir_is_shared": False,
            "job_env": {JOB_VARIABLE: handle},
        }

    @property
    def live(self) -> list[Live]:
        """Those that are not over."""
        return list(self._live.values())

    def find(self, handle: str) -> Live:
        """Return the job that a handle opens. Errors: GitLabError; DetachedError."""
        self._check_here()
        live = self._live.get(records.find(handle))
        if live is None:
            raise GitLabError("The runner does not know this job: it is over, or `config` did not run for it.")
        return live

    def clean(self, handle: str, response: bytes) -> list[str]:
        """End a job, in our own time. Without a handle, end all that are this job by what GitLab says. Idempotent.

        Returns the names of those that were ended. Errors: ResponseError; DetachedError.
        """
        self._check_here()
        if handle:
            found = [live] if (live := self._live.get(records.find(handle))) else []
        else:
            found = self._same(parse(response))
        for live in found:
            self.end(live, "gitlab-runner's cleanup")
        return [live.record.name for live in found]

    def end(self, live: Live, by: str) -> None:
        """End a job, in our own time; `by` completes the sentence "the script was cancelled by …"."""
        if self._live.pop(live.record.name, None):
            live.end(by)
            self._do(live.finish())
            self._changed.set()

    def _same(self, job: GitLabJob) -> list[Live]:
        known = (job.id, job.token_hash)
        return [live for live in self.live if (live.record.job.id, live.record.job.token_hash) == known]

    # The service's own life.

    async def work(self) -> None:
        """Sweep, until there are no more jobs to come and the last one is over, or `detach`."""
        while not self._detached and (not self._draining or self._live or self._tasks):
            self.sweep()
            await self._news()
        if self._tasks:  # what is left then, a later life does
            await asyncio.wait(self._tasks, timeout=_LEAVE_DEADLINE)

    def sweep(self) -> None:
        """End the jobs that no hook came for in a long time."""
        for live in self.live:
            if live.idle > self._options.idle:
                self.end(live, f"the sweeper, as no hook came for {self._options.idle:g} s")

    def drain(self) -> None:
        """Take no more jobs. Idempotent."""
        self._draining = True
        self._changed.set()

    def stop(self, why: str) -> None:
        """Take no more jobs and end those that were taken. Idempotent."""
        self.drain()
        _events.info(Action.STOPPING, f"GitLab's jobs are ended: {why}")
        for live in self.live:
            self.end(live, "a stop of the runner")

    def detach(self) -> None:
        """Take no more jobs and leave those that were taken to the next life. Idempotent."""
        self.drain()
        self._detached = True
        for live in self.live:
            self._do(live.leave())
        self._live.clear()

    def _check_here(self) -> None:
        if self._detached:  # hooks that come back at once must not be told that their job is unknown
            raise DetachedError("The runner left.")

    async def _news(self) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_INTERVAL, self._options.idle / 4)):
                await self._changed.wait()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            _events.error(Action.DEFECT, "a GitLab job's course met a defect in the runner", error=error)
