"""Sandboxes started by hand. `ready` is shared by all tests that leave it as it was."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import docker
import pytest

from sandbox.identity import KeyPair, new_identity
from tests.images.started import Start, Started, archive

GIVEN = "/etc/sandbox"
PROGRAMS = "/usr/local/lib/sandbox"
DOCKER_DATA = "/var/lib/docker"


@pytest.fixture(scope="session")
def client_key() -> KeyPair:
    return new_identity("test").client


@pytest.fixture
def start(
    docker_client: docker.DockerClient, sandbox_runtime: str, sandbox_image: str, client_key: KeyPair
) -> Iterator[Start]:
    with _starting(docker_client, sandbox_runtime, sandbox_image, client_key) as start:
        yield start


@pytest.fixture(scope="package")
def ready(
    docker_client: docker.DockerClient, sandbox_runtime: str, sandbox_image: str, client_key: KeyPair
) -> Iterator[Started]:
    """One sandbox for the tests that leave it as it was."""
    with _starting(docker_client, sandbox_runtime, sandbox_image, client_key) as start:
        sandbox = start()
        sandbox.await_docker()
        yield sandbox


@pytest.fixture(scope="session")
def brought_image(docker_client: docker.DockerClient) -> bytes:
    """A small image named `brought`, as `docker save` writes it."""
    name = f"brought:{uuid.uuid4().hex[:8]}"
    docker_client.api.import_image_from_data(archive({"greeting": b"hello"}), *name.split(":"))
    try:
        return b"".join(docker_client.images.get(name).save(named=True))
    finally:
        docker_client.images.remove(name)


@contextmanager
def _starting(client: docker.DockerClient, runtime: str, image: str, key: KeyPair) -> Iterator[Start]:
    started: list[Started] = []

    def start(
        given: Mapping[str, bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        runtime: str = runtime,
        volumes: Sequence[str] = (DOCKER_DATA,),
        image: str = image,
        hosts: Mapping[str, str] | None = None,
        programs: Mapping[str, bytes] | None = None,
    ) -> Started:
        if environment is None:
            environment = {"AUTHORIZED_KEYS": key.public}
        container = client.containers.create(
            image, runtime=runtime, environment=dict(environment), volumes=list(volumes), extra_hosts=dict(hosts or {})
        )
        started.append(Started(container, key.private))
        if given:
            container.put_archive(GIVEN, archive(given))
        if programs:
            container.put_archive(PROGRAMS, archive(programs))
        container.start()
        return started[-1]

    try:
        yield start
    finally:
        for sandbox in started:
            sandbox.remove()
