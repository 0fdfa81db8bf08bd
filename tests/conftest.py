"""Fixtures for tests with a real Docker Engine.

They take DOCKER_HOST, SANDBOX_RUNTIME and SANDBOX_IMAGE from the environment, as `make test` and
`eval "$(sandbox evaluation env)"` set them.
"""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import docker
import pytest
from hypothesis import HealthCheck, settings

from tests.foreign import Foreign, Foreigners, foreigners

TURNS: Final = {"soak": 0, "runner": 2, "sandbox": 2}
"""What takes a minute and more by itself comes first: at the end it would keep one worker alone. The many small files
come last, and keep all of them at work until the end."""

# A shell that runs the tests in the background has them, and with them all that they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test fails for being slow: beside two other workers, even the first example's table of characters takes seconds.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: TURNS.get(item.path.relative_to(Path(__file__).parent).parts[0], 1))


def pytest_collection_finish() -> None:
    """What was loaded stays: to look through thousands of tests for garbage took an eighth of a worker's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The engine that the environment names."""
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def sandbox_runtime() -> str:
    """The runtime that sandboxes are started with."""
    return os.environ.get("SANDBOX_RUNTIME", "sysbox-runc")


@pytest.fixture(scope="session")
def sandbox_image() -> str:
    """The sandbox image."""
    return os.environ.get("SANDBOX_IMAGE", "sandbox:latest")


@pytest.fixture(scope="session")
def new_foreign(
    docker_client: docker.DockerClient,
    sandbox_image: str,
    sandbox_runtime: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Foreigners]:
    """Starts sandboxes that no keeper knows."""
    with foreigners(docker_client, sandbox_image, sandbox_runtime, tmp_path_factory.mktemp("foreign")) as starter:
        yield starter


@pytest.fixture(scope="session")
def foreign(new_foreign: Foreigners) -> tuple[Foreign, Foreign]:
    """Two of them, for tests that leave both as they were."""
    return new_foreign.start(), new_foreign.start()
