"""A sandbox image that is built anew under the same name, while the keeper runs."""

import io
from collections.abc import Callable, Iterator

import docker
import pytest

from sandbox.template import LABEL_INSTALLATION
from tests.e2e.conftest import Keeper, run, start
from tests.waiting import until

NAME = "sandbox-refresh-test:latest"


@pytest.fixture
def build(docker_client: docker.DockerClient, sandbox_image: str) -> Iterator[Callable[[str], str]]:
    """Builds an image under the test's name from the sandbox's and another line; returns its id."""
    built: list[str] = []

    def build(line: str) -> str:
        dockerfile = io.BytesIO(f"FROM {sandbox_image}\n{line}\n".encode())
        image, _ = docker_client.images.build(fileobj=dockerfile, tag=NAME, rm=True)
        built.append(str(image.id))
        return built[-1]

    yield build
    for image in built:
        docker_client.images.remove(image, force=True)


@pytest.fixture
def keeper(new_keeper: Callable[..., Keeper], build: Callable[[str], str]) -> Iterator[Keeper]:
    build("LABEL release=1")
    keeper = new_keeper(warm=1, image=NAME)
    keeper.start()
    yield keeper
    keeper.stop()


def test_a_new_image_is_taken_up_between_jobs_and_a_bad_one_is_refused(
    keeper: Keeper, docker_client: docker.DockerClient, build: Callable[[str], str]
) -> None:
    mine = {"label": f"{LABEL_INSTALLATION}={keeper.client.listing().installation}"}

    def images() -> set[str]:
        return {container["ImageID"] for container in docker_client.api.containers(filters=mine)}

    job = start(keeper, "sleep 3")
    second = build("LABEL release=2")
    until("only the new image is left", lambda: images() == {second})
    _, stderr = job.communicate()
    assert job.returncode == 0, stderr
    build('ENTRYPOINT ["false"]')
    until("it is refused", lambda: "is not fit" in keeper.client.listing().trouble)
    build('ENTRYPOINT ["/of/no/such/name"]')
    until("it is refused too", lambda: "/of/no/such/name" in keeper.client.listing().trouble)
    assert images() == {second}
    assert run(keeper, "docker version --format ok").stdout == "ok\n"
