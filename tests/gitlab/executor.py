"""The custom executor of gitlab-runner: one prepare attempt and, if it succeeds, the stages of the job.

It follows `executors/custom/custom.go` and `command/command.go` in gitlab-runner. `manager` calls it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.gitlab import hook
from tests.gitlab.hook import Graces, Scope
from tests.gitlab.job import Folders, Response, Variables, complete
from tests.gitlab.scripts import Scripts

BUILD_FAILURE: Final = 1
SYSTEM_FAILURE: Final = 2


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
    update_interval: float = (
        0.0  # 3: how often GitLab is sent what is new in the log, and answers what became of the job
    )
    keep_alive: float = 0.0  # 30: how often it is asked that while nothing is new
    shutdown_timeout: float = 30.0  # how long the process of a manager is there after TERM
    finish_timeout: float = 10.0  # 300: how long a cancelled stage is waited for before cleanup
    piped_scripts: bool = False
    """Whether scripts have the shape that they had up to 19.0."""
    object_store: str = ""
    """Of `[runners.cache]`: the address that caches go to."""
    output_limit: int = 4 * 1024 * 1024
    temp: Path = Path(tempfile.gettempdir())


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
    ending: float | None = None
    """Seconds that it took to end after it was to end; None when it was not."""
    took: float = 0.0
    """Seconds in all."""


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


class Build:
    """What is known of one job while it runs, over all its executors."""

    def __init__(self, config: Config, job: Mapping[str, Any]) -> None:
        self.config = config
        self.job: Response = complete(job)
        self.variables = Variables(self.job, None)
        self.log = Log(config.output_limit)
        self.admin = bytearray()
        self.stages: list[Stage] = []
        self.on_stage: Callable[[str], None] = lambda _: None


class Executor:
    """One prepare attempt and, if it succeeds, the job: a temporary folder, what config_exec said, the calls."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._config = build.config
        self._job_env: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="custom-executor", dir=build.config.temp))
        response = self.folder / "response.json"
        response.touch(0o600)
        response.write_text(json.dumps(build.job))
        self.scripts: Scripts | None = None

    async def prepare(self, scope: Scope) -> None:
        said = bytearray()
        await self._hook("config", (), Scope(scope, self._config.config_timeout), out=said.extend)
        self._configure(bytes(said))
        await self._hook("prepare", (), Scope(scope, self._config.prepare_timeout))

    def _configure(self, said: bytes) -> None:
        """Raises ValueError for bad JSON, which the manager tries again, and JobFailedError for folders missing."""
        document = _object(said)
        self._job_env = {str(key): str(value) for key, value in document.get("job_env", {}).items()}
        if "builds_dir" not in document or "cache_dir" not in document:
            raise JobFailedError("runner_configuration_error", "the builds_dir is not configured")
        driver = document.get("driver", {})
        named = f" with driver {driver['name']} {driver.get('version', '')}".rstrip() if driver.get("name") else ""
        self._build.log.line(f"Using Custom executor{named}...")
        project = str(self._build.job["job_info"]["project_full_path"])
        if document.get("builds_dir_is_shared"):
            project = f"simulated/0/{project}"
        folders = Folders(document["builds_dir"], document["cache_dir"], project)
        self._build.variables = Variables(self._build.job, folders)
        config, job, variables = self._build.config, self._build.job, self._build.variables
        self.scripts = Scripts(job, folders, variables, piped=config.piped_scripts, object_store=config.object_store)

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
            await self._hook("cleanup", (), Scope(seconds=self._config.cleanup_timeout), out=self._build.admin.extend)
        except JobFailedError as error:
            self._build.admin.extend(f"Cleanup script failed: {error}\n".encode())
        finally:
            _remove(self.folder)

    async def _hook(
        self, name: str, words: tuple[str, ...], scope: Scope, stage: str | None = None, out: hook.Sink | None = None
    ) -> None:
        log, admin = self._build.log.write, self._build.admin.extend
        self._build.on_stage(stage or name)
        ended = await hook.call(
            (*self._config.hooks, name, *words), self.folder, self._environment(), scope, self._config.graces,
            out or log, admin if name == "cleanup" else log,
        )  # fmt: skip
        self._build.stages.append(Stage(stage or name, ended.code, ended.group, ended.ending, ended.took))
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
            "CUSTOM_ENV_CI_JOB_SERVICES": self._services(),
            **{f"CUSTOM_ENV_{v['key']}": v["value"] for v in self._build.variables.values()},
        }

    def _services(self) -> str:
        """With the first alias only."""
        services = self._build.job["services"] or ()
        keys = ("name", "alias", "entrypoint", "command")
        return json.dumps([{key: service.get(key) for key in keys} for service in services]) if services else ""

    def _judge(self, ended: hook.Call) -> None:
        """What an exit code means; the file with the script's own code is never cleared by the build."""
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


def _object(said: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object."""
    document = json.loads(said) if said.strip() else {}
    if not isinstance(document, dict):
        raise ValueError("json: cannot unmarshal it into a Go value")  # noqa: TRY004 - as bad JSON is
    return document


def _remove(folder: Path) -> None:
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(path, name).unlink()
        for name in folders:
            Path(path, name).rmdir()
    folder.rmdir()
