"""What a job's stages find in its sandbox beside the sandbox itself: logins to registries, containers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

from runner.errors import BadJobError
from runner.gitlab import credentials, stages
from runner.gitlab.containers.plan import Plan, plan
from runner.gitlab.options import Options
from runner.gitlab.response import GitLabJob
from runner.gitlab.stages import Stage
from runner.gitlab.turn import Turn
from runner.gitlab.wire import BuildFailed, Done, End, SystemFailed

#: Seconds that a container's processes are killed before the program that entered it would be.
_EARLIER: Final = 1.0


class Workplace:
    """Made in `prepare`, and there for every stage after it, also in a later life of the service."""

    def __init__(self, job: GitLabJob, options: Options, *, used: bool) -> None:
        """`used`: whether a stage may have run in it."""
        self._job = job
        self._options = options
        #: Whether something may lie in the builds folder that is not the sandbox user's.
        self._mixed = used

    @cached_property
    def _plan(self) -> Plan | None:
        """Errors: BadJobError, for what the job asks for."""
        return plan(self._job, self._options.images, self._options.builds, self._options.docker_config)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every stage. The rest is in the stages' scripts."""
        return {"DOCKER_CONFIG": self._options.docker_config}

    async def prepare(self, turn: Turn) -> End:
        """Make all of it in the sandbox. What the job asks for and cannot have is its own failure."""
        try:
            containers = self._plan
        except BadJobError as error:
            await turn.hook.tell(str(error))
            return BuildFailed(1)
        if remark := credentials.remark(self._job):
            await turn.hook.tell(remark)
        if containers or any(credentials.configuration(self._job).values()):
            end = await turn.aside(credentials.install(self._job, self._options.docker_config))
            if not isinstance(end, Done):
                return _ours(end, "The job's logins could not be written in the sandbox.")
        if containers is None:
            return Done()
        end = await turn.aside(containers.prepare)
        return end if end == BuildFailed(1) else _ours(end, "The job's containers could not be made.")

    async def run(self, turn: Turn, call: str, stage: Stage) -> End:
        """Run a stage where it belongs: the job's own in its container, all others in the sandbox itself."""
        if self._mixed and not stage.is_the_users:
            await turn.aside(stages.reclaim(self._options.builds))
        self._mixed = stage.is_the_users
        if not self._plan or not stage.is_the_users:
            return await turn.first(call, stage)
        grace = self._options.settings.grace
        inside = Stage(stage.name, self._plan.enter(stage.script, max(grace - _EARLIER, grace / 2)))
        end = await turn.first(call, inside)
        if isinstance(end, BuildFailed) and not turn.cancellation.cause:
            await turn.aside(self._plan.after_failure)
        return end


def _ours(end: End, sentence: str) -> End:
    """An end for which the job cannot be blamed."""
    return SystemFailed(sentence) if isinstance(end, BuildFailed) else end
