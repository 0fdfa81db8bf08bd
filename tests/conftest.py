"""Fixtures for tests with a real Docker Engine.

They take DOCKER_HOST, SANDBOX_RUNTIME and SANDBOX_IMAGE from the environment, as `make test` and
`eval "$(sandbox evaluation env)"` set them.
"""

import os
from collections.abc import Iterator

import docker
import pytest

from tests.foreign import Foreign, Foreigners, foreigners


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute and more by itself comes first: at the end it would keep one worker alone."""
    items.sort(key=lambda item: item.path.parent.name != "soak")


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
