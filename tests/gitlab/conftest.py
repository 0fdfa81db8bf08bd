"""One keeper and one running `runner serve` for every scenario, and the checks after each."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from runner.gitlab import hook as hook_module
from sandbox import processes
from sandbox.keeper.protocol import SandboxReport
from sandbox.state import State
from tests.e2e.conftest import Keeper, new_keeper
from tests.e2e.test_service import Service
from tests.gitlab.hook import Graces
from tests.gitlab.manager import Config, Result
from tests.waiting import until

__all__ = ["new_keeper"]

HOOKS = (sys.executable, "-I", "-S", str(Path(hook_module.__file__)))
HELPER = Path(__file__).parent / "helper"
FIT = {State.READY, State.LEASED}
"""After its job; leased is by the standby."""


class GitLabService(Service):
    """`runner serve` with the hooks' socket."""

    @property
    def socket(self) -> Path:
        return self.state.parent / "gitlab.sock"

    @property
    def words(self) -> list[str]:
        folder = self.state.parent
        gitlab = ["--gitlab-socket", str(self.socket), "--gitlab-grace", "2", "--gitlab-helper", str(HELPER)]
        gitlab += ["--gitlab-service-wait", "5"]
        return [*super().words, *gitlab, "--gitlab-cache", str(folder / "cache")]


@dataclass(frozen=True)
class Installation:
    """What the manager's hooks talk to."""

    keeper: Keeper
    service: GitLabService
    docker: docker.DockerClient
    folder: Path

    @property
    def config(self) -> Config:
        temp = self.folder / "temp"
        temp.mkdir(exist_ok=True)
        environment = {**os.environ, "RUNNER_GITLAB_SOCKET": str(self.service.socket)}
        return Config(HOOKS, environment, Graces(term=30.0, kill=10.0), temp=temp)

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        return {
            "remove the sandbox": self.remove_the_sandbox,
            "kill the runner": self.kill_the_runner,
            "start the runner": self.service.start,
            "restart the runner": self.restart_the_runner,
            "restart the keeper": self.restart_the_keeper,
        }

    def remove_the_sandbox(self) -> None:
        """As somebody with `docker rm -f` would."""
        [sandbox] = self.lent()
        self.docker.containers.get(sandbox.name).remove(force=True)

    def kill_the_runner(self) -> None:
        assert self.service.process is not None
        self.service.process.kill()
        self.service.process.wait()

    def restart_the_runner(self) -> None:
        self.kill_the_runner()
        self.service.start()

    def restart_the_keeper(self) -> None:
        self.keeper.kill()
        self.keeper.restart()

    def lent(self) -> list[SandboxReport]:
        """The sandboxes that GitLab jobs have by the runner's own notes; its standby has another one."""
        notes = []
        for file in (self.service.state / "gitlab").glob("*/record.json"):
            with suppress(FileNotFoundError):  # the job is over
                notes.append(json.loads(file.read_text()))
        attempts = {note["lease"]["attempt"] for note in notes if note["lease"]}
        return [sandbox for sandbox in self._sandboxes() if sandbox.attempt in attempts]

    def settle(self, result: Result, lost: str | None) -> None:
        """Nothing of the job is left: no process on the manager's side, no folder, and its sandbox is as at `ready`.

        Nor does the runner remember it.

        `lost`: part of the reason for which its sandbox is thrown away instead; None when it is not.
        """
        assert list(self.config.temp.iterdir()) == []
        groups = {stage.group for stage in result.stages if stage.group}
        until("every process of the hooks has ended", lambda: not groups & _process_groups())
        jobs = self.service.state / "gitlab"
        until("the runner has forgotten the job", lambda: not [*jobs.glob(f"{result.job}-*")])
        for name in result.sandboxes:
            until(f"{name} is given back", lambda: not self.lent())
            if lost is None:
                self._as_at_ready(self._fit_again(name))
            else:
                self._is_lost(name, lost)

    def _is_lost(self, name: str, why: str) -> None:
        until(f"{name} is thrown away", lambda: self._thrown_away(name))
        assert why in self._thrown_away(name)

    def _fit_again(self, name: str) -> SandboxReport:
        """Its name is of it alone: another sandbox in its place has another one."""

        def found() -> list[SandboxReport]:
            assert not self._thrown_away(name), f"{name} was thrown away: {self._thrown_away(name)}"
            return [sandbox for sandbox in self._sandboxes() if sandbox.name == name and sandbox.state in FIT]

        until(f"{name} is there for the next job", found)
        return found()[0]

    def _thrown_away(self, name: str) -> str:
        """Why it was; empty when it was not."""
        return next((s.reason or "" for s in self.keeper.client.listing().condemned if s.name == name), "")

    def _as_at_ready(self, sandbox: SandboxReport) -> None:
        container = self.docker.containers.get(sandbox.name).id
        assert container is not None

        def alike() -> bool:  # the last process of the standby's session may need a moment to end
            return {process.pid for process in processes.at_rest(container)} == set(sandbox.processes_at_ready)

        until(f"{sandbox.name} has the processes that it had at ready", alike)

    def _sandboxes(self) -> list[SandboxReport]:
        return self.keeper.client.listing().sandboxes


def _process_groups() -> set[int]:
    return {group for entry in Path("/proc").iterdir() if entry.name.isdecimal() and (group := _group(int(entry.name)))}


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@pytest.fixture(scope="package")
def installation(
    new_keeper: Callable[..., Keeper], docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    # While a job runs there is none to spare, so the standby takes none before it is given back: a scenario's next job
    # finds what the one before has made.
    keeper = new_keeper(warm=2)
    keeper.start()
    folder = tmp_path_factory.mktemp("gitlab")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = GitLabService(keeper, folder / "state", port)
    try:
        service.start()
        yield Installation(keeper, service, docker_client, folder)
    finally:
        service.signal(signal.SIGQUIT)
        service.wait()
