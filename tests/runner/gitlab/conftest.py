"""A GitLab server half in this process, real hooks as processes, and a real SSH server that stands in for a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runner.config.model import Config
from runner.gitlab import hook
from runner.gitlab.jobs import Jobs
from runner.gitlab.options import Options
from runner.gitlab.server import Server
from runner.metrics import Metrics
from runner.placement import Wanted
from runner.serve import gitlab_options
from runner.service.standby import Standby
from tests.runner.conftest import FakeLeases, Sandbox
from tests.waiting import eventually

DEADLINE = 60.0
"""A minute is for a machine that is busy with everything else."""
REPOSITORY = "https://gitlab-ci-token:secret@gitlab.example/group/project.git"
KEY = "gitlab-bf08810b-3-protected"
"""The trust key of a job that is as `response` makes it: eight digits of the SHA-256 of https://gitlab.example."""
HOOK = (sys.executable, "-I", "-S", hook.__file__)
OPTIONS = gitlab_options(Config())
"""As they are by default."""


def response(job: int = 7, **changes: object) -> dict[str, Any]:
    """Return a job response as gitlab-runner passes it on."""
    return {
        "id": job,
        "token": f"token-of-{job}",
        "job_info": {"project_id": 3, "project_full_path": "group/project"},
        "git_info": {"repo_url": REPOSITORY, "ref": "main", "protected": True},
        "runner_info": {"timeout": 3600},
        "variables": [],
        "image": {"name": ""},
        "services": None,
        "credentials": None,
        **changes,
    }


@dataclass
class Ended:
    """What a hook came to, for gitlab-runner."""

    code: int
    out: bytes
    err: str

    @property
    def said(self) -> str:
        """All of it."""
        return self.out.decode(errors="replace") + self.err


@dataclass
class Manager:
    """As much of gitlab-runner as one job needs."""

    folder: Path
    socket: Path
    response: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    said: str = ""
    """What `prepare` wrote."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "response.json").write_text(json.dumps(self.response))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a hook."""
        return await self.execute(*HOOK, *arguments)

    async def execute(self, *command: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        """Start a program with a hook's environment."""
        given = {
            "RUNNER_GITLAB_SOCKET": str(self.socket),
            "JOB_RESPONSE_FILE": str(self.folder / "response.json"),
            "BUILD_EXIT_CODE_FILE": str(self.folder / "build_exit_code"),
            "BUILD_FAILURE_EXIT_CODE": "1",
            "SYSTEM_FAILURE_EXIT_CODE": "2",
        }
        return await asyncio.create_subprocess_exec(
            *command,
            env={"PATH": os.environ["PATH"], **given, **self.environment},
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )

    async def hook(self, *arguments: str) -> Ended:
        """Run a hook to its end."""
        return await ended(await self.start(*arguments))

    async def config(self) -> Ended:
        """Run `config`, and keep what it says for the later hooks."""
        end = await self.hook("config")
        if end.code == 0:
            self.environment = dict(json.loads(end.out)["job_env"])
        return end

    def script(self, text: str) -> str:
        """Return the path of a script as gitlab-runner makes it."""
        path = self.folder / f"script{os.urandom(4).hex()}"
        path.write_text("#!/usr/bin/env bash\n" + text)
        return str(path)

    async def run(self, text: str, stage: str = "build_script") -> Ended:
        """Run a stage to its end."""
        return await self.hook("run", self.script(text), stage)

    @property
    def exit_code(self) -> str:
        """What the last failed stage wrote down."""
        return (self.folder / "build_exit_code").read_text()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a hook's end, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out, err.decode())


def terminate(process: asyncio.subprocess.Process) -> None:
    """Do as gitlab-runner does at a cancel."""
    os.killpg(process.pid, signal.SIGTERM)


@dataclass
class Lab:
    """A service, as far as GitLab is concerned, over as many lives as a test wants."""

    folder: Path
    sandbox: Sandbox
    leases: FakeLeases
    options: Options
    jobs: Jobs = field(init=False)
    server: Server = field(init=False)

    @property
    def socket(self) -> Path:
        """Where hooks find it."""
        assert self.options.socket
        return self.options.socket

    standby: Standby | None = None

    def begin(self) -> None:
        """Begin a life."""
        self.jobs = Jobs(self.leases, self.folder / "jobs", self.options, standby=self.standby)
        self.server = Server(self.socket, self.jobs, Metrics())
        self.server.open()
        self.working = asyncio.create_task(self.jobs.work())

    def hold(self, why: str) -> None:
        """Have no job start."""
        self.jobs._held = lambda: why

    async def stand_by(self, trust_key: str) -> None:
        """Have a sandbox prepared for jobs of that trust key, in another life."""

        async def ready(_: str) -> int:
            return 0 if self.leases.leases else 2

        await self.leave()
        self.standby = Standby(self.leases, ready)
        self.standby._wanted = Wanted(trust_key, "default")
        self.begin()
        await eventually(lambda: bool(self.standby and self.standby._held and self.standby._held.task.done()))

    async def leave(self) -> None:
        """End a life as a restart does, with everything left running."""
        self.jobs.detach()
        await self.working
        await self.jobs.leave()
        self.server.close()

    def die(self) -> None:
        """End a life as `kill -9` does, as far as that goes within one process."""
        self.working.cancel()
        for task in (*self.jobs._tasks, *(live._regaining for live in self.jobs.live)):
            task.cancel()
        self.server.close()

    def sweep_after(self, seconds: float) -> None:
        """Have jobs be over when no hook came for so long."""
        object.__setattr__(self.options, "idle", seconds)
        self.jobs.sweep()

    async def end(self) -> None:
        """End the last life, and all jobs with it."""
        self.jobs.abort("the test ended")
        await asyncio.wait_for(self.working, DEADLINE)
        await self.jobs.leave()
        self.server.close()

    def manager(self, job: int = 7, **changes: object) -> Manager:
        """Return one job's manager."""
        return Manager(self.folder / f"manager-{os.urandom(4).hex()}", self.socket, response(job, **changes))

    async def prepared(self, job: int = 7, **changes: object) -> Manager:
        """Return the manager of a job that has its sandbox."""
        manager = self.manager(job, **changes)
        assert (await manager.config()).code == 0
        end = await manager.hook("prepare")
        assert end.code == 0
        manager.said = end.out.decode()
        return manager


@pytest.fixture
async def lab(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Lab]:
    """A service that lends the stand-in."""
    settings = sandbox.settings(grace=1.0, reconnect_deadline=20.0)
    options = replace(OPTIONS, socket=tmp_path / "gitlab.sock", settings=settings, home=str(tmp_path / "home"))
    lab = Lab(tmp_path, sandbox, FakeLeases(sandbox.access), options)
    lab.begin()
    yield lab
    with contextlib.suppress(asyncio.CancelledError):
        await lab.end()
    if lab.standby:
        await lab.standby.close()
