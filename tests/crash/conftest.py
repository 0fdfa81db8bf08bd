"""Fixtures: one keeper with one sandbox that lives through every crash, and a fresh runner for each."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.crash.lab import CrashKeeper, CrashRunner, Lab, small_disk
from tests.e2e.conftest import left_of


@pytest.fixture(scope="module")
def crash_keeper(
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_runtime: str,
    sandbox_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[CrashKeeper]:
    """Has one sandbox, so that the runner takes none in advance, and the next cell finds what this one left."""
    keeper = CrashKeeper(tmp_path_factory.mktemp("keeper"), sandbox_runtime, sandbox_image, warm=1)
    keeper.start()
    yield keeper
    keeper.stop()
    assert left_of(docker_client, (keeper.folder / "home" / "installation").read_text().strip()) == []


@pytest.fixture
def lab(crash_keeper: CrashKeeper, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[Lab]:
    """A runner whose state is on a small disk and whose logs are on another, and the one sandbox ready."""
    assert crash_keeper.process is not None
    if crash_keeper.process.poll() is not None:  # a cell that failed left it killed
        crash_keeper.restart()
    crash_keeper.settle()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with small_disk(tmp_path / "state") as state, small_disk(state / "logs"):
        lab = Lab(docker_client, crash_keeper, CrashRunner(crash_keeper, state, port))
        try:
            lab.runner.start()
            yield lab
        finally:
            lab.close()
