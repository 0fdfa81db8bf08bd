"""The data that survives when a sandbox is started again or thrown away, and the images that it brings."""

import re
import uuid
from collections.abc import Iterator

import docker
import pytest

from sandbox.identity import KeyPair
from tests.images.started import HELLO, Start, archive

STATE = "/var/lib/sandbox"
DOCKER_DATA = "/var/lib/docker"
BROUGHT = "/usr/share/sandbox/images"


@pytest.fixture
def volumes(docker_client: docker.DockerClient) -> Iterator[list[str]]:
    names = [f"sandbox-test-{uuid.uuid4().hex[:8]}-{what}" for what in ("docker", "state")]
    yield [f"{names[0]}:{DOCKER_DATA}", f"{names[1]}:{STATE}"]
    for name in names:
        docker_client.volumes.get(name).remove(force=True)


def test_kept_volumes_keep_inner_images_and_the_host_key(volumes: list[str], start: Start) -> None:
    first = start(volumes=volumes)
    first.await_docker()
    first.sh(HELLO)
    key = first.host_key()
    first.remove()
    second = start(volumes=volumes)
    second.await_docker()
    assert second.sh("docker run --rm hello").strip() == "hello"
    assert second.host_key() == key


@pytest.fixture(scope="module")
def own_image(docker_client: docker.DockerClient, sandbox_image: str, brought_image: bytes) -> Iterator[str]:
    """An image on ours that brings an inner image, and a file that is none."""
    number = uuid.uuid4().hex[:8]
    box = docker_client.containers.create(sandbox_image)
    try:
        box.put_archive(BROUGHT, archive({"brought.tar": brought_image, "broken.tar": b"nothing"}))
        box.commit("sandbox-test", number)
    finally:
        box.remove(v=True)
    yield f"sandbox-test:{number}"
    docker_client.images.remove(f"sandbox-test:{number}")


@pytest.mark.parametrize("docker_start", ["eager", "lazy"])
def test_an_image_that_is_brought_is_there_for_the_first_client(
    start: Start, own_image: str, client_key: KeyPair, docker_start: str
) -> None:
    """The trap: a client that got through while images are loaded would not find them, and pull."""
    environment = {"AUTHORIZED_KEYS": client_key.public, "SANDBOX_DOCKER": docker_start}
    sandbox = start(image=own_image, environment=environment)
    first = "for i in $(seq 600); do docker images -q brought 2> /dev/null && exit; sleep 0.05; done; exit 1"
    assert re.fullmatch(r"[0-9a-f]{12}\n", sandbox.sh(first))
    log = sandbox.log()
    assert f"{BROUGHT}/brought.tar: Loaded image" in log
    assert re.search(f"{BROUGHT}/broken.tar could not be loaded: .*[a-z]", log)


def test_it_is_loaded_once_and_loading_can_be_stopped(start: Start, own_image: str) -> None:
    sandbox = start(image=own_image)
    sandbox.await_log("containerd")  # somewhere in the middle
    sandbox.container.stop()
    assert sandbox.await_end() == 0
    assert "killed" not in sandbox.log()
    for _ in range(2):
        sandbox.container.restart()
        sandbox.await_docker()
    assert sandbox.sh("docker images -q brought").strip()
    assert sandbox.log().count("brought.tar: Loaded image") == 1
