"""A simulator of gitlab-runner's manager with the custom executor: what it calls and when, and what it makes of it.

It follows gitlab-runner's code and what the real binary (17.9 and 19.4) was seen to do, where that differs from its
documentation. It is a fake at a seam, so this is what it leaves out: GitLab itself (a job comes from a file, a cancel
from `Manager.status`), the masking of a secret while the log is written (it is masked at the end), time stamps in the
log, and the length of the pauses between attempts. Graces are settings, because tests cannot wait for minutes.

By hand, with the hooks of config.toml's shape given as one program that takes the hook's name first:

    python -m tests.gitlab.manager job.json -- runner gitlab
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tests.gitlab import hook
from tests.gitlab.hook import Graces, Scope, Why
from tests.gitlab.job import Folders, Response, Variables, complete
from tests.gitlab.scripts import Scripts

BUILD_FAILURE: Final = 1
SYSTEM_FAILURE: Final = 2
PREPARE_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class Config:
    """What config.toml says, in seconds. The real defaults are in the comments."""

    hooks: Sequence[str]
    """The program, to which `config`, `prepare`, `run SCRIPT STAGE` or `cleanup` is added."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    graces: Graces = field(default_factory=Graces)  # graceful_kill_timeout 600, force_kill_timeout 10
    config_timeout: float = 60.0  # 3600
    prepare_timeout: float = 60.0  # 3600
    cleanup_timeout: float = 60.0  # 3600
    retry_pause: float = 0.0  # 3
    finish_timeout: float = 10.0  # 300: how long a cancelled stage is waited for before cleanup
    output_limit: int = 4 * 1024 * 1024
    temp: Path = Path(tempfile.gettempdir())


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


class JobFailedError(Exception):
    """A job's end that is no success: the reason that GitLab is told, and the exit code where there is one."""

    def __init__(self, reason: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


@dataclass(frozen=True)
class Stage:
    """One call of a hook: `config`, `prepare`, `cleanup`, or run_exec's stage."""

    name: str
    code: int | None
    """Negative for a signal; None when it was never started or was abandoned."""
    group: int
    """The process group that it had."""


@dataclass(frozen=True)
class Result:
    """What GitLab is told at the end."""

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

    def codes(self, name: str) -> list[int | None]:
        return [stage.code for stage in self.stages if stage.name == name]


class Log:
    """The job's log, cut at a limit as the real one is."""

    def __init__(self, limit: int) -> None:
        self.kept = bytearray()
        self.total = 0
        self._limit = limit
        self.watchers: list[Callable[[bytes], object]] = []

    def write(self, data: bytes) -> None:
        room = self._limit - len(self.kept)
        if 0 < room <= len(data):
            notice = (
                f"\nJob's log exceeded limit of {self._limit} bytes.\n"
                "Job execution will continue but no more output will be collected.\n"
            )
            self.kept += data[:room] + notice.encode()
        elif room > 0:
            self.kept += data
        self.total += len(data)
        for watcher in self.watchers:
            watcher(data)

    def line(self, text: str) -> None:
        self.write(text.encode() + b"\n")

    def text(self, masked: Sequence[str]) -> str:
        text = self.kept.decode(errors="replace")
        for secret in sorted(masked, key=len, reverse=True):
            text = text.replace(secret, "[MASKED]")
        return text


class Executor:
    """One prepare attempt and, if it succeeds, the job: a temporary folder, what config_exec said, the calls."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._config = manager.config
        self._job_env: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="custom-executor", dir=manager.config.temp))
        response = self.folder / "response.json"
        response.touch(0o600)
        response.write_text(json.dumps(manager.job))
        self.scripts: Scripts | None = None

    async def prepare(self, scope: Scope) -> None:
        said = bytearray()
        await self._hook("config", (), Scope(scope, self._config.config_timeout), out=said.extend)
        self._configure(bytes(said))
        await self._hook("prepare", (), Scope(scope, self._config.prepare_timeout))

    def _configure(self, said: bytes) -> None:
        """Raises ValueError for bad JSON, which the manager tries again, and JobFailedError for folders missing."""
        document: dict[str, Any] = json.loads(said) if said.strip() else {}
        self._job_env = {str(key): str(value) for key, value in document.get("job_env", {}).items()}
        if "builds_dir" not in document or "cache_dir" not in document:
            raise JobFailedError("runner_configuration_error", "the builds_dir is not configured")
        driver = document.get("driver", {})
        named = f" with driver {driver['name']} {driver.get('version', '')}".rstrip() if driver.get("name") else ""
        self._manager.log.line(f"Using Custom executor{named}...")
        project = str(self._manager.job["job_info"]["project_full_path"])
        if document.get("builds_dir_is_shared"):
            project = f"simulated/0/{project}"
        folders = Folders(document["builds_dir"], document["cache_dir"], project)
        self._manager.variables = Variables(self._manager.job, folders)
        self.scripts = Scripts(self._manager.job, folders, self._manager.variables)

    async def run(self, stage: str, scope: Scope) -> bool:
        """Run a stage. False when it has nothing to do; raises JobFailedError."""
        assert self.scripts is not None
        script = self.scripts.script(stage)
        if script is None:
            return False
        folder = Path(tempfile.mkdtemp(prefix="script", dir=self.folder))
        file = folder / "script"
        file.touch(0o700)
        file.write_bytes(script)
        await self._hook("run", (str(file), stage), scope, stage)
        return True

    async def cleanup(self) -> None:
        """Never cancelled, never counted; then the folder goes."""
        try:
            await self._hook("cleanup", (), Scope(seconds=self._config.cleanup_timeout), out=self._manager.admin.extend)
        except JobFailedError as error:
            self._manager.admin.extend(f"Cleanup script failed: {error}\n".encode())
        finally:
            _remove(self.folder)

    async def _hook(
        self, name: str, words: tuple[str, ...], scope: Scope, stage: str | None = None, out: hook.Sink | None = None
    ) -> None:
        log, admin = self._manager.log.write, self._manager.admin.extend
        self._manager.starting(stage or name)
        ended = await hook.call(
            (*self._config.hooks, name, *words), self.folder, self._environment(), scope, self._config.graces,
            out or log, admin if name == "cleanup" else log,
        )  # fmt: skip
        self._manager.stages.append(Stage(stage or name, ended.code, ended.group))
        self._judge(ended)

    def _environment(self) -> dict[str, str]:
        file = self.folder / "build_exit_code"
        return {
            **self._config.environment,
            "TMPDIR": str(self.folder),
            "BUILD_FAILURE_EXIT_CODE": str(BUILD_FAILURE),
            "SYSTEM_FAILURE_EXIT_CODE": str(SYSTEM_FAILURE),
            "BUILD_EXIT_CODE_FILE": str(file),
            "JOB_RESPONSE_FILE": str(self.folder / "response.json"),
            **self._job_env,
            **{f"CUSTOM_ENV_{v['key']}": v["value"] for v in self._manager.variables.values()},
        }

    def _judge(self, ended: hook.Call) -> None:
        """What an exit code means; the file with the script's own code is never cleared by the manager."""
        if ended.code == 0:
            return
        if ended.code == BUILD_FAILURE:
            raise self._build_failure()
        if ended.code == SYSTEM_FAILURE:
            raise JobFailedError("runner_system_failure", "exit status 2")
        if ended.code is None:
            raise JobFailedError("runner_system_failure", ended.error)
        code = ended.code if ended.code > 0 else -1
        raise JobFailedError("runner_system_failure", f"unknown Custom executor executable exit code {code}")

    def _build_failure(self) -> JobFailedError:
        try:
            text = (self.folder / "build_exit_code").read_text()
        except FileNotFoundError:
            return JobFailedError("script_failure", "exit status 1", 1)
        try:
            code = int(text.partition("\n")[0])
        except ValueError:
            return JobFailedError("unknown_failure", "the file with the exit code cannot be parsed")
        return JobFailedError("script_failure", f"exit status {code}", code)


class Manager:
    """One job from its answer to its end. `status` and `terminate` are what happens to it from outside."""

    def __init__(self, config: Config, job: Mapping[str, Any]) -> None:
        self.config = config
        self.job: Response = complete(job)
        self.variables = Variables(self.job, None)
        self.log = Log(config.output_limit)
        self.admin = bytearray()
        self.stages: list[Stage] = []
        self.on_stage: Callable[[str], None] = lambda _: None
        self._phase = Phase.BEFORE
        self._scope: Scope | None = None
        self._script_scope: Scope | None = None
        self._cause: JobFailedError | None = None
        self._left: asyncio.Future[None] | None = None

    def starting(self, stage: str) -> None:
        self.on_stage(stage)

    def status(self, status: Status) -> None:
        """What GitLab says to an update of the log: `canceling` ends what the phase says, the others everything."""
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
        self._scope = Scope(seconds=float(self.job["runner_info"]["timeout"]))
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
        for step in self.job["steps"]:
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
        state = {None: "success", "job_canceled": "canceled"}.get(failure.reason if failure else None, "failed")
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


def _remove(folder: Path) -> None:
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(path, name).unlink()
        for name in folders:
            Path(path, name).rmdir()
    folder.rmdir()


async def _by_hand(job: Mapping[str, Any], hooks: Sequence[str]) -> Result:
    manager = Manager(Config(hooks), job)
    manager.log.watchers.append(lambda data: os.write(sys.stdout.fileno(), data))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, manager.terminate)
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
