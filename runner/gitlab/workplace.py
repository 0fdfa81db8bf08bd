"""Supplies a job's sandbox with what its stages need: logins to registries, containers, caches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Final

from runner.errors import BadJobError, RunnerError
from runner.execution.flight import first, stop
from runner.execution.folder import PATH
from runner.execution.session import Session
from runner.gitlab import credentials, stages
from runner.gitlab.cache import Cache, bring_in_helper
from runner.gitlab.containers.plan import END_CONTAINER, Plan, plan
from runner.gitlab.options import Options
from runner.gitlab.response import GitLabJob
from runner.gitlab.stages import Stage
from runner.gitlab.trust import trust_key
from runner.gitlab.turn import Turn
from runner.gitlab.wire import BuildFailed, Done, End, SystemFailed

_HAS_HELPER: Final = b"#!/bin/sh\ncommand -v gitlab-runner >/dev/null\n"
"""A script that succeeds if the sandbox's image has `gitlab-runner`."""
_NO_HELPER: Final = (
    "WARNING: This job has a cache or artifacts, and the sandbox has no program gitlab-runner: none are kept or "
    "fetched, and the job goes on without. Whoever looks after the runner sets --gitlab-helper for it."
)
_EARLIER: Final = 1.0
"""Seconds by which a container's processes are killed before the program that entered it."""


class Workplace:
    """Made in `prepare`, for every later stage, also in a later life of the service."""

    def __init__(self, job: GitLabJob, options: Options, *, used: bool) -> None:
        """`used`: whether a stage may have run in the sandbox."""
        self._job = job
        self._options = options
        self._mixed = used
        """Whether the builds folder may hold files that are not the sandbox user's."""
        self._helped = False
        """Whether the helper was brought in."""

    @cached_property
    def _plan(self) -> Plan | None:
        """Return the plan for the job's containers. Errors: BadJobError, when the job's demands cannot be met."""
        options = self._options
        return plan(self._job, options.images, options.builds, options.logins, options.service_wait)

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment of every stage. The rest is in the stages' scripts.

        DOCKER_CONFIG is the user's own folder, where Docker looks anyway: so programs under `sudo` find the logins too.
        """
        path = {"PATH": f"{self._options.commands}:{PATH}"} if self._options.helper else {}
        return {"DOCKER_CONFIG": self._options.docker_config, **path}

    @property
    def sweep(self) -> bytes:
        """Return a script that ends the job's container; empty if it has none."""
        return END_CONTAINER if self._job.image else b""

    async def prepare(self, turn: Turn, logins: str) -> End:
        """Make everything in the sandbox. Demands of the job that cannot be met are its own failure.

        `logins`: gitlab-runner's value of DOCKER_AUTH_CONFIG, or empty.
        """
        try:
            containers = self._plan
        except BadJobError as error:
            await turn.hook.tell(str(error))
            return BuildFailed(1)
        given = credentials.given(self._job, logins)
        if remark := credentials.remark(given):
            await turn.hook.tell(remark)
        if self._job.needs_helper and not self._options.helper:
            end = await turn.aside(_HAS_HELPER)
            if isinstance(end, BuildFailed):
                await turn.hook.tell(_NO_HELPER)
        configuration = credentials.configuration(self._job, given)
        if containers or any(configuration.values()):
            places = self._options.logins, self._options.docker_config
            end = await turn.aside(credentials.install(configuration, *places))
            if end == BuildFailed(credentials.LEFT_ALONE):
                await turn.hook.tell(credentials.LEFT_ALONE_REMARK)
            elif not isinstance(end, Done):
                return _ours(end, "The job's logins could not be written in the sandbox.")
        if containers is None:
            return Done()
        end = await turn.aside(containers.prepare)
        return end if end == BuildFailed(1) else _ours(end, "The job's containers could not be made.")

    async def run(self, turn: Turn, call: str, stage: Stage) -> End:
        """Run a stage in its place: the job's own stages in its container, all others in the sandbox itself."""
        if stage.is_the_users:
            self._mixed = True
            end = await self._run_the_users(turn, call, stage)
            await self.after(turn, stage, end)
            return end
        if self._mixed and stage.name != stages.LAST:
            await turn.aside(stages.reclaim(self._options.builds))
            self._mixed = False
        await self._before(turn, stage)
        end = await turn.first(call, stage)
        self._mixed = stage.has_the_users_hooks and not isinstance(end, Done)  # a failed stage is tried again
        await self.after(turn, stage, end)
        return end

    async def after(self, turn: Turn, stage: Stage, end: End) -> None:
        """Keep the caches that a stage made, and print the services' logs if the job failed.

        Idempotent; a later life of the service calls it too.
        """
        if not turn.tenancy.held:
            return
        cache = self._cache
        if cache and stage.name in stages.ARCHIVING and isinstance(end, Done):
            await self._supply(turn, lambda session: cache.take_out(session, stage.script))
        if stage.is_the_users and isinstance(end, BuildFailed) and not turn.cancellation.cause:
            await self._tell_of_services(turn)

    async def _tell_of_services(self, turn: Turn) -> None:
        """Print the services' logs, once for a job: its `after_script` may fail as well."""
        record = turn.record
        if self._plan and self._plan.after_failure and not record.note.services_told:
            await turn.aside(self._plan.after_failure)
            record.move_soon(record.state, services_told=True)

    async def _run_the_users(self, turn: Turn, call: str, stage: Stage) -> End:
        if not self._plan:
            return await turn.first(call, stage)
        grace = self._options.settings.grace
        inside = Stage(stage.name, self._plan.enter(stage.script, max(grace - _EARLIER, grace / 2)))
        return await turn.first(call, inside)

    async def _before(self, turn: Turn, stage: Stage) -> None:
        """Bring in the helper and the caches that a stage needs. A failure is told, and the stage runs without."""
        helper, cache = self._options.helper, self._cache
        if helper and not self._helped and stage.name in stages.HELPED:
            path = f"{self._options.commands}/gitlab-runner"
            self._helped = await self._supply(turn, lambda session: bring_in_helper(session, helper, path))
        if cache and stage.name == stages.RESTORING:
            await self._supply(turn, lambda session: cache.bring_in(session, stage.script))

    @property
    def _cache(self) -> Cache | None:
        store = self._options.caches
        return Cache(store, trust_key(self._job), self._options.cache) if store else None

    async def _supply(self, turn: Turn, supply: Callable[[Session], Awaitable[list[str]]]) -> bool:
        """Bring something in or out, until gitlab-runner wants the end. The next stage reports a lost sandbox.

        Returns whether everything was done without a remark.
        """

        async def supplying() -> list[str]:
            try:
                return await supply(await turn.tenancy.session())
            except RunnerError as error:
                return [str(error)]

        task = asyncio.create_task(supplying())
        try:
            with turn.tenancy.asking():
                await first(task, turn.cancellation.wait(), turn.tenancy.wait_lost())
            told = task.result() if task.done() else []
            for sentence in told:
                await turn.hook.tell(sentence)
            return task.done() and not told
        finally:
            await stop(task)


def _ours(end: End, sentence: str) -> End:
    """Return an end that does not blame the job."""
    return SystemFailed(sentence) if isinstance(end, BuildFailed) else end
