"""All GitLab jobs of one service: finds them by handle and after a restart, and ends those that no hook comes for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from runner.errors import DetachedError, GitLabError
from runner.execution.cancellation import Cancellation
from runner.execution.lease import LeaseSource
from runner.gitlab import record as records
from runner.gitlab.live import Live
from runner.gitlab.options import Options
from runner.gitlab.record import State
from runner.gitlab.response import GitLabJob, parse
from runner.gitlab.turn import Listener
from runner.logs import Action, Events
from runner.service.standby import Standby

_events = Events(__name__)

JOB_VARIABLE: Final = "RUNNER_GITLAB_JOB"
"""The variable in which gitlab-runner gives a job's handle to every later hook."""
_INTERVAL: Final = 5.0
"""Seconds between two looks for jobs that no hook comes for."""
HELD: Final = 240.0
"""Seconds that a job waits while no job may start, in each of gitlab-runner's three tries. With the wait for a sandbox,
that is less than `LEAST_PREPARE`, the least `prepare_exec_timeout` that `runner gitlab install` accepts."""
_LOOK: Final = 0.5
_STOPPING: Final = "The runner is stopping, and its next life goes on."
END_DEADLINE: Final = 30.0
"""Seconds beyond the grace for ended jobs to give their sandboxes back. Then the runner stops without that, as a keeper
may be away for good: the disk says that the jobs are over, and the next life gives the sandboxes back."""
_LEAVE_DEADLINE: Final = 5.0
"""Seconds to leave the running jobs in good order."""


class Jobs:
    """Jobs from `config` to `cleanup`, and those whose cleanup never comes."""

    def __init__(
        self,
        leases: LeaseSource,
        folder: Path,
        options: Options,
        held: Callable[[], str] = lambda: "",
        standby: Standby | None = None,
    ) -> None:
        """Find the jobs of an earlier life. `held` returns why no job may start now. Needs a running event loop."""
        self._leases = leases
        self._folder = folder
        self._options = options
        self._live: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = self._detached = False
        self._held = held
        self._standby = standby
        self.on_end: Callable[[str], None] = lambda _: None
        """Called with the name of each job that is over, whoever ended it."""
        for record in records.load(folder):
            live = Live(record, leases, options, standby)
            if record.state is State.OVER:
                self._do(live.finish())
            else:
                self._live[record.name] = live
        if self._live:
            _events.info(Action.FOUND_AGAIN, f"found again: {len(self._live)} GitLab jobs")

    def configure(self, response: bytes) -> tuple[Live, dict[str, object]]:
        """Take a job, and return it and the output of `config`. Errors: ResponseError; GitLabError; DetachedError.

        A stopping runner takes jobs too, since gitlab-runner has the job and would fail it. The job waits in `prepare`.
        """
        self._check_here()
        job = parse(response)
        record, handle = records.create(self._folder, job, response)
        live = self._live[record.name] = Live(record, self._leases, self._options, self._standby)
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
        """Return the jobs that are not over."""
        return list(self._live.values())

    @property
    def attempts(self) -> set[str]:
        """Return the attempts that hold a sandbox, or may hold one."""
        return {lease.attempt for live in self.live if (lease := live.record.note.lease)}

    @property
    def running(self) -> int:
        """Return the number of jobs that have a sandbox, or are about to get one."""
        return sum(_has_begun(live) for live in self._live.values())

    async def admit(self, live: Live, hook: Listener, cancellation: Cancellation) -> None:
        """Make a job without a sandbox wait while no job may start. Errors: GitLabError; DetachedError."""
        deadline = time.monotonic() + HELD
        told = ""
        while not _has_begun(live) and (why := _STOPPING if self._stopping else self._held()):
            self._check_here()
            if time.monotonic() > deadline:
                raise GitLabError(f"{why} The job has waited for {HELD:g} s.")
            if cancellation.cause:
                return  # the next step sees the cancellation too
            if why != told:
                await hook.tell(f"{why} The job waits.")
                told = why
            await asyncio.sleep(_LOOK)

    def find(self, handle: str) -> Live:
        """Return the job that a handle opens. Errors: GitLabError; DetachedError."""
        self._check_here()
        live = self._live.get(records.name_of(handle))
        if live is None:
            raise GitLabError("The runner does not know this job: it is over, or `config` did not run for it.")
        return live

    def clean(self, handle: str, response: bytes) -> None:
        """End a job in the background. Without a handle, end all jobs that match the job response. Idempotent.

        Errors: ResponseError; DetachedError.
        """
        self._check_here()
        if handle:
            found = [live] if (live := self._live.get(records.name_of(handle))) else []
        else:
            found = self._same(parse(response))
        for live in found:
            self.end(live, "gitlab-runner's cleanup")

    def end(self, live: Live, by: str) -> None:
        """End a job in the background; `by` completes the sentence "the script was cancelled by …"."""
        if self._live.pop(live.record.name, None):
            live.end(by)
            self.on_end(live.record.name)
            self._do(live.finish())
            self._changed.set()

    def _same(self, job: GitLabJob) -> list[Live]:
        known = (job.id, job.token_hash)
        return [live for live in self.live if (live.record.job.id, live.record.job.token_hash) == known]

    # The service's own life.

    async def work(self) -> None:
        """Sweep until no more jobs begin and the last one that began is over, or until `detach`. `leave` follows."""
        while not self._detached and (not self._stopping or self.running):
            self.sweep()
            await self._news(min(_INTERVAL, self._options.idle / 4))
        deadline = time.monotonic() + self._options.settings.grace + END_DEADLINE
        while self._tasks and not self._detached and (left := deadline - time.monotonic()) > 0:
            await self._news(left)

    async def leave(self) -> None:
        """Leave all jobs in good order to the next life, which the hooks that wait for a sandbox will ask."""
        self.detach()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_DEADLINE)

    def sweep(self) -> None:
        """End the jobs that no hook has come for in a long time."""
        for live in self.live:
            if live.idle > self._options.idle:
                self.end(live, f"the sweeper, as no hook came for {self._options.idle:g} s")

    def stop(self) -> None:
        """Let no more jobs begin. New jobs wait for the next life. Idempotent."""
        self._stopping = True
        self._changed.set()

    def abort(self, why: str) -> None:
        """Let no more jobs begin, and end those that have begun. Idempotent."""
        self.stop()
        _events.info(Action.STOPPING, f"GitLab's jobs are ended: {why}")
        for live in filter(_has_begun, self.live):
            self.end(live, "a stop of the runner")

    def detach(self) -> None:
        """Let no more jobs begin, and leave all jobs to the next life. Idempotent."""
        self.stop()
        self._detached = True
        for live in self.live:
            self._do(live.leave())
        self._live.clear()

    def _check_here(self) -> None:
        if self._detached:  # a hook that comes back at once must not hear that its job is unknown
            raise DetachedError("The runner left.")

    async def _news(self, timeout: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
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


def _has_begun(live: Live) -> bool:
    """Return whether a job has a sandbox, or is about to get one."""
    return live.record.state is not State.CONFIGURED
