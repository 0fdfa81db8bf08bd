"""A real keeper on the real engine, and the real commands against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import docker
import pytest

from sandbox import places, processes
from sandbox.errors import KeeperError
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient
from sandbox.state import State
from sandbox.template import LABEL_INSTALLATION
from tests import programs
from tests.programs import PIPE, Program
from tests.waiting import until

RUNNER = (str(Path(sys.executable).with_name("runner")),)
SANDBOX = (sys.executable, "-m", "sandbox.entry")
DEADLINE = 120.0
NETNS = os.environ.get("DOCKER_NETNS")
"""Where the engine's bridges are, when that is a network namespace of its own."""


def in_network_of_engine() -> list[str]:
    """What to put before a command that must be in the engine's network namespace, where the bridges are."""
    return ["nsenter", f"--net={NETNS}"] if NETNS else []


@dataclass
class Keeper:
    """One keeper process with folders of its own."""

    folder: Path
    runtime: str
    image: str
    config: str = ""
    warm: int = 2
    engine: str | None = None
    """Where its Docker Engine is; None for the one that the environment names."""
    netns: Path | None = None
    """That engine's network namespace."""
    process: Program | None = field(default=None, repr=False)
    at_rest: ClassVar[frozenset[State]] = frozenset({State.READY})
    """The states of its sandboxes when nothing is going on."""

    @property
    def socket(self) -> Path:
        return self.folder / "run" / places.SOCKET_IN_RUN_FOLDER

    @property
    def client(self) -> KeeperClient:
        return KeeperClient(self.socket)

    @property
    def log(self) -> str:
        return (self.folder / "keeper.log").read_text()

    @property
    def words(self) -> list[str]:
        """The command's arguments."""
        return ["keeper", "--run-folder", str(self.folder / "run"), "--home", str(self.folder / "home")]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SANDBOX_RUNTIME": self.runtime,
            "SANDBOX_IMAGE": self.image,
            "SANDBOX_WARM": str(self.warm),
            **({"DOCKER_HOST": self.engine} if self.engine else {}),
        }

    def start(self) -> None:
        """Start it, and wait until every sandbox is ready."""
        options = []
        if self.config:
            (self.folder / "keeper.toml").write_text(self.config)
            options = ["--config", str(self.folder / "keeper.toml")]
        self.process = self.begin(*options)
        self.settle()

    def begin(self, *options: str) -> Program:
        with (self.folder / "keeper.log").open("ab") as log:
            return programs.start(
                programs.sandbox, *self.words, *options,
                stderr=log, environment=self.environment, netns=self.netns or NETNS,
            )  # fmt: skip

    def settle(self) -> None:
        """Wait until as many sandboxes as there should be are ready, and nothing else is going on."""

        def settled() -> bool:
            assert self.process is None or self.process.poll() is None, self.log
            try:
                states = [sandbox.state for sandbox in self.client.listing().sandboxes]
            except KeeperError:
                return False
            return len(states) >= self.warm and set(states) <= self.at_rest

        until("every sandbox is ready", settled, DEADLINE)

    def stop(self) -> None:
        """Stop it as an operator would. It removes its sandboxes."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE) == 0, self.log

    def restart(self) -> None:
        """Start it as a supervisor does, and wait until it answers: sandboxes may be lent."""
        self.process = self.begin()
        until("the keeper answers", self._answers)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            self.client.ping()
        except KeeperError:
            return False
        return True

    def ready(self) -> list[protocol.SandboxReport]:
        return [sandbox for sandbox in self.client.listing().sandboxes if sandbox.state is State.READY]

    def last_condemned(self) -> protocol.SandboxReport:
        return self.client.listing().condemned[0]


@pytest.fixture(scope="package")
def new_keeper(
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_runtime: str,
    sandbox_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[Callable[..., Keeper]]:
    """Makes keepers, and checks at the end that each has removed everything it made.

    They go with the last test of the package: a keeper at rest still takes a part of the processor.
    """
    made: list[Keeper] = []

    def new(**settings: object) -> Keeper:
        usual: dict[str, Any] = {"runtime": sandbox_runtime, "image": sandbox_image}
        keeper = Keeper(tmp_path_factory.mktemp("keeper"), **{**usual, **settings})
        made.append(keeper)
        return keeper

    yield new
    for keeper in made:
        if keeper.process is not None and keeper.process.poll() is None:
            keeper.stop()
        if (home := keeper.folder / "home" / "installation").exists():
            assert left_of(docker_client, home.read_text().strip()) == []


def left_of(client: docker.DockerClient, installation: str) -> list[str]:
    """The names of every container, network and volume of an installation."""
    by_label: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALLATION}={installation}"}
    things = [
        *client.containers.list(all=True, filters=by_label, ignore_removed=True),
        *client.networks.list(filters=by_label),
        *client.volumes.list(filters=by_label),
    ]
    return [str(thing.attrs["Name"]) for thing in things]


def until_only_these_are_left(client: docker.DockerClient, installation: str, sandboxes: Sequence[str]) -> None:
    """Wait until there is nothing but a container, a network and a volume of each, and of one made in advance."""

    def only_these() -> bool:
        things = Counter(name.removeprefix("/") for name in left_of(client, installation))
        in_advance = things.keys() - set(sandboxes)
        return set(sandboxes) <= things.keys() and set(things.values()) == {3} and len(in_advance) <= 1

    until(f"only {sandboxes} are left, and one made in advance", only_these)


@pytest.fixture(scope="package")
def shared_keeper(new_keeper: Callable[..., Keeper]) -> Keeper:
    keeper = new_keeper()
    keeper.start()
    return keeper


@pytest.fixture
def keeper(shared_keeper: Keeper) -> Keeper:
    """A keeper with two ready sandboxes."""
    shared_keeper.settle()
    return shared_keeper


def words_of_run(keeper: Keeper, *options: str) -> list[str]:
    """Of `runner run`, with the script on stdin."""
    return ["run", "--keeper", str(keeper.socket), *options, "-"]


def run(keeper: Keeper, script: str, *options: str, args: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`runner run` with the script on stdin."""
    more = ["--", *args] if args else []
    return programs.run(programs.runner, *words_of_run(keeper, *options), *more, given=script, timeout=DEADLINE)


def run_json(keeper: Keeper, script: str, *options: str) -> dict[str, object]:
    """The outcome as `runner run --json` tells it."""
    result: dict[str, object] = json.loads(run(keeper, script, "--json", *options).stdout)
    return result


def start(keeper: Keeper, script: str, *options: str) -> Program:
    """`runner run` in the background; it has printed `started` when this returns, so the script prints that first."""
    process = programs.start(programs.runner, *words_of_run(keeper, *options), stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("echo started\n" + script)
    process.stdin.close()
    process.stdin = None
    assert process.stdout.readline() == "started\n"
    return process


def leased(keeper: Keeper) -> protocol.SandboxReport:
    """The one sandbox that is lent."""
    [sandbox] = [sandbox for sandbox in keeper.client.listing().sandboxes if sandbox.state is State.LEASED]
    return sandbox


def pids_of(client: docker.DockerClient, name: str) -> list[int]:
    """The host's process ids of everything in a sandbox."""
    container_id = client.containers.get(name).id
    assert container_id is not None
    return sorted(process.pid for process in processes.of_container(container_id))
