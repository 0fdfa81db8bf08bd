"""A simulator of gitlab-runner's manager with the custom executor: what it calls and when, and what it makes of it.

It follows gitlab-runner's code and what the real binary (17.9 and 19.4) was seen to do, where that differs from its
documentation. It is a fake at a seam, so this is what it leaves out:

- GitLab itself: a job comes from a file, and a cancel from `Manager.status`. It is heard of as late as by the real one
  only where the configuration says so, as tests cannot wait for that.
- Of the log, the masking of a secret while it is written (it is masked at the end) and time stamps.
- The pauses between attempts. Graces are settings, because tests cannot wait for minutes.
- In the environment, most of the feature flags, `environment` of config.toml, and secrets of vaults. In the exit code
  file, that there is none before 17.9.
- Of the scripts, colours, sections, and what FF_ENABLE_JOB_CLEANUP adds. They have the shape of 19.3, or, if the
  configuration says so, that of 19.0 and before.
- Interactive terminals, `run:` with steps, and more than one job of a manager.

By hand, with the hooks of config.toml's shape given as one program that takes the hook's name first:

    python -m tests.gitlab.manager job.json -- runner gitlab
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tests.gitlab.executor import Build, Config, Executor, JobFailedError, Stage
from tests.gitlab.hook import Scope, Why

__all__ = ["Config", "Manager", "Result", "Stage", "Status"]

PREPARE_ATTEMPTS: Final = 3
DEFAULT_TIMEOUT: Final = 7200.0


class Status(Enum):
    """What GitLab's answer to an update of the log says about the job."""

    CANCELING = "canceling"
    CANCELED = "canceled"
    FAILED = "failed"


class Phase(Enum):
    """Whose cancel function a `canceling` calls: see `Manager.status`."""

    BEFORE = "before the user's scripts"
    SCRIPT = "in the user's scripts"
    AFTER = "after them"


@dataclass(frozen=True)
class Result:
    """What GitLab is told at the end."""

    job: int
    status: str
    reason: str | None
    exit_code: int | None
    message: str
    log: str
    log_bytes: int
    """How much was written, also beyond the limit of what is kept."""
    admin_log: str
    """What cleanup_exec wrote, which only an administrator sees."""
    stages: tuple[Stage, ...]

    @property
    def sandboxes(self) -> list[str]:
        """Where prepare_script said that the job runs."""
        return re.findall(r"Running on (\S+) via", self.log)

    def codes(self, name: str) -> list[int | None]:
        return [stage.code for stage in self.stages if stage.name == name]


class Manager(Build):
    """One job from its answer to its end. `status` and `terminate` are what happens to it from outside."""

    def __init__(self, config: Config, job: Mapping[str, Any]) -> None:
        super().__init__(config, job)
        self._phase = Phase.BEFORE
        self._scope: Scope | None = None
        self._script_scope: Scope | None = None
        self._cause: JobFailedError | None = None
        self._left: asyncio.Future[None] | None = None

    def status(self, status: Status) -> None:
        """What GitLab says from now on: heard of with the next update of the log, or, of a silent job, much later."""
        if self.config.keep_alive:
            self._hearing = asyncio.get_running_loop().create_task(self._hear(status))
        else:
            self._obey(status)

    async def _hear(self, status: Status) -> None:
        news = asyncio.Event()
        self.log.watchers.append(lambda _: news.set())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), self.config.keep_alive)
            await asyncio.sleep(self.config.update_interval)
        self._obey(status)

    def _obey(self, status: Status) -> None:
        """`canceling` ends what the phase says, the others everything."""
        assert self._scope is not None
        if status is not Status.CANCELING or self._phase is Phase.BEFORE:
            self._end(JobFailedError("job_canceled", "canceled"))
        elif self._phase is Phase.SCRIPT and self._script_scope is not None:
            self._script_scope.end(Why.CANCELLED)

    def terminate(self) -> None:
        """TERM or INT to the manager: the job is aborted, cleanup still runs."""
        self._end(JobFailedError("runner_interrupted", "aborted: terminated"))

    def _end(self, cause: JobFailedError) -> None:
        assert self._scope is not None
        self._cause = self._cause or cause
        self._scope.end(Why.CANCELLED)

    async def run(self) -> Result:
        """Run the job to its end; the end is told only after cleanup_exec has returned."""
        self._scope = Scope(seconds=float(self.job["runner_info"]["timeout"] or DEFAULT_TIMEOUT))
        self.log.line('Preparing the "custom" executor')
        failure: JobFailedError | None = None
        try:
            executor = await self._prepared(self._scope)
            try:
                await self._run(executor, self._scope)
            finally:
                await executor.cleanup()
        except JobFailedError as error:
            failure = error
        result = self._result(failure)
        if self._left is not None:
            await asyncio.gather(self._left, return_exceptions=True)  # the real one goes on with other jobs meanwhile
        return result

    async def _prepared(self, scope: Scope) -> Executor:
        for attempt in range(1, PREPARE_ATTEMPTS + 1):
            executor = Executor(self)
            try:
                await executor.prepare(scope)
            except (JobFailedError, ValueError) as error:
                await executor.cleanup()
                self._raise_if_over(scope)
                reason = getattr(error, "reason", "runner_system_failure")
                if reason != "runner_system_failure" or attempt == PREPARE_ATTEMPTS:
                    raise error if isinstance(error, JobFailedError) else JobFailedError(reason, str(error)) from error
                self.log.line(f"Preparation failed: {error}\nWill be retried in {self.config.retry_pause:.0f}s ...")
                await asyncio.sleep(self.config.retry_pause)
            else:
                return executor
        raise AssertionError

    def _raise_if_over(self, scope: Scope) -> None:
        if scope.why is Why.TIMED_OUT:
            timeout = self.job["runner_info"]["timeout"]
            raise JobFailedError("job_execution_timeout", f"execution took longer than {timeout}s seconds")
        if scope.why is Why.CANCELLED:
            raise self._cause or JobFailedError("job_canceled", "canceled")

    async def _run(self, executor: Executor, scope: Scope) -> None:
        """The stages; when the job is over before them they are waited for only so long, then cleanup starts beside."""
        running = asyncio.ensure_future(self._stages(executor, scope))
        over = asyncio.ensure_future(scope.over())
        try:
            await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
            if scope.why is not None and not running.done():
                await asyncio.wait({running}, timeout=self.config.finish_timeout)
            self._raise_if_over(scope)
            await running
        finally:
            over.cancel()
            self._left = running

    async def _stages(self, executor: Executor, scope: Scope) -> None:
        await executor.run("prepare_script", scope)
        failure = await self._prepare_scripts(executor, scope)
        if failure is None:
            failure = await self._user_scripts(executor, scope)
        ending = "on_failure" if failure else "on_success"
        archive = "archive_cache_on_failure" if failure else "archive_cache"
        for stage in (archive, f"upload_artifacts_{ending}"):
            error = await self._try(executor, stage, scope)
            failure = failure or error
        await self._try(executor, "cleanup_file_variables", scope)
        if failure is not None:
            raise failure

    async def _prepare_scripts(self, executor: Executor, scope: Scope) -> JobFailedError | None:
        for stage, setting in (("get_sources", "GET_SOURCES_ATTEMPTS"), ("restore_cache", "RESTORE_CACHE_ATTEMPTS"),
                               ("download_artifacts", "ARTIFACT_DOWNLOAD_ATTEMPTS")):  # fmt: skip
            failure = await self._attempts(executor, stage, int(self.variables.get(setting) or 1), scope)
            if failure is not None:
                return failure
        return None

    async def _attempts(self, executor: Executor, stage: str, attempts: int, scope: Scope) -> JobFailedError | None:
        """On any failure, and with the worktree cleared before the second attempt at the sources."""
        failure = None
        for attempt in range(attempts):
            if attempt == 1 and stage == "get_sources":
                await self._try(executor, "clear_worktree", scope)
            if (failure := await self._try(executor, stage, scope)) is None:
                return None
        return failure

    async def _user_scripts(self, executor: Executor, scope: Scope) -> JobFailedError | None:
        limit = _seconds(self.variables.get("RUNNER_SCRIPT_TIMEOUT"))
        self._script_scope = Scope(scope, limit)
        self._phase = Phase.SCRIPT
        failure = None
        for step in self.job["steps"] or ():
            if step["name"] == "after_script" or failure is not None:
                continue
            stage = "build_script" if step["name"] == "script" else f"step_{step['name']}"
            failure = await self._try(executor, stage, self._script_scope)
        failure = self._of_the_script_scope() or failure
        self._phase = Phase.AFTER
        return await self._after_script(executor, scope, failure)

    def _of_the_script_scope(self) -> JobFailedError | None:
        assert self._script_scope is not None
        if self._script_scope.why is Why.TIMED_OUT:
            return JobFailedError("job_execution_timeout", "script timeout")
        return JobFailedError("job_canceled", "canceled") if self._script_scope.why else None

    async def _after_script(
        self, executor: Executor, scope: Scope, failure: JobFailedError | None
    ) -> JobFailedError | None:
        ends = {None: "success", "job_canceled": "canceled", "job_execution_timeout": "timedout"}
        state = ends.get(failure.reason if failure else None, "failed")  # `timedout` came with 18
        self.variables.set("CI_JOB_STATUS", state)
        limit = _seconds(self.variables.get("RUNNER_AFTER_SCRIPT_TIMEOUT")) or 300.0
        error = await self._try(executor, "after_script", Scope(scope, limit))
        return failure or (error if self.variables.get("AFTER_SCRIPT_IGNORE_ERRORS") == "false" else None)

    async def _try(self, executor: Executor, stage: str, scope: Scope) -> JobFailedError | None:
        """A context that is over already starts nothing."""
        if scope.why is not None:
            return JobFailedError("runner_system_failure", f"context {scope.why.value}")
        try:
            await executor.run(stage, scope)
        except JobFailedError as error:
            return error
        return None

    def _result(self, failure: JobFailedError | None) -> Result:
        if failure is None:
            self.log.line("Job succeeded")
        else:
            kind = " (system failure)" if failure.reason == "runner_system_failure" else ""
            self.log.line(f"ERROR: Job failed{kind}: {failure}")
        told = (None, None) if failure is None else (failure.reason, failure.exit_code)
        return Result(
            job=self.job["id"],
            status=_status(failure),
            reason=told[0],
            exit_code=told[1],
            message=str(failure or ""),
            log=self.log.text(self.variables.masked()),
            log_bytes=self.log.total,
            admin_log=self.admin.decode(errors="replace"),
            stages=tuple(self.stages),
        )


def _status(failure: JobFailedError | None) -> str:
    if failure is None:
        return "success"
    return "canceled" if failure.reason == "job_canceled" else "failed"


def _seconds(text: str) -> float | None:
    """A duration as `90`, `90s`, `5m` or `1h30m`; None for none."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    total, number = 0.0, ""
    for character in text:
        if character in units:
            total, number = total + float(number) * units[character], ""
        else:
            number += character
    return total + float(number or 0) if text else None


async def _by_hand(job: Mapping[str, Any], hooks: Sequence[str]) -> Result:
    manager, loop = Manager(Config(hooks), job), asyncio.get_running_loop()
    manager.log.watchers.append(lambda data: os.write(sys.stdout.fileno(), data))
    earlier = itertools.count()

    def stop() -> None:
        """A second signal, or `shutdown_timeout` after the first, and the process is gone, whatever hooks still do."""
        if next(earlier):
            os._exit(1)
        manager.terminate()
        loop.call_later(manager.config.shutdown_timeout, os._exit, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGQUIT, lambda: None)  # no more jobs: this one is the last anyway
    return await manager.run()


def main() -> int:
    """Run the job of a file with the hooks after `--`; the log on stdout, what GitLab is told on stderr."""
    file, _, program, *words = sys.argv[1:]
    hooks = (str(Path(program).absolute()) if "/" in program else program, *words)  # they run in another folder
    result = asyncio.run(_by_hand(json.loads(Path(file).read_text()), hooks))
    told = {"status": result.status, "reason": result.reason, "exit_code": result.exit_code, "message": result.message}
    stages = [[stage.name, stage.code] for stage in result.stages]
    print(json.dumps({**told, "stages": stages}), file=sys.stderr)
    return 0 if result.status == "success" else 1


if __name__ == "__main__":
    sys.exit(main())
