"""The pages' commands for image registries, typed in with Debian's registry in place of theirs, on this host alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import docker
import pytest

from tests.docs.pages import ROOT, Block, block_of, blocks
from tests.docs.reader import Reader
from tests.e2e.conftest import DEADLINE, RUNNER, Keeper, in_network_of_engine
from tests.e2e.test_compose import Installation
from tests.images.started import archive
from tests.waiting import until

LOOPBACK: Final = "127.0.0.1"
"""What engines take for safe without TLS."""
MIRROR: Final = "sandbox-mirror-test"
GREETING: Final = f"sandbox-mirror-test/greeting:{uuid.uuid4().hex[:8]}"
"""As no registry of this world has it."""
DOCKERFILE: Final = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY docker-registry config.yml /
ENTRYPOINT ["/docker-registry", "serve", "/config.yml"]
"""
"""For what registries publish as their own image."""
BUILD: Final = "docker build --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY"
"""A build behind a proxy is told of it by its user's `~/.docker/config.json`, which is not the tests' to write."""


def settings(images: Path, address: str) -> str:
    """A registry's configuration."""
    return f'version: 0.1\nstorage: {{filesystem: {{rootdirectory: {images}}}}}\nhttp: {{addr: "{address}"}}\n'


@contextmanager
def serving(images: Path, host: str) -> Iterator[str]:
    """Serve a folder of images in the engine's network; gives the address, with a port that was free."""
    folder = images.with_name(f"registry-at-{host}")
    folder.mkdir()
    (folder / "config.yml").write_text(settings(images, f"{host}:0"))
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*in_network_of_engine(), "docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        ) as process,
    ):
        try:
            until("the registry listens", lambda: listening(folder / "log"))
            yield f"{host}:{listening(folder / 'log')}"
        finally:
            process.terminate()


def listening(log: Path) -> str:
    """The port that a registry says it has."""
    return "".join(re.findall(r"listening on \S+:(\d+)", log.read_text()))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty one, as the engine may use it."""
    with serving(tmp_path / "images", LOOPBACK) as address:
        yield address


@pytest.fixture
def gateway(docker_client: docker.DockerClient) -> str:
    """An address of the host that containers and sandboxes know it by."""
    return str(docker_client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"])


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """One with a copy of the examples, to write in."""
    made = Reader(tmp_path, Installation(tmp_path / "run"))
    (tmp_path / "examples").unlink()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return made


@pytest.fixture
def mirror_image(docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[str]:
    """The registry as an image that takes its settings from variables."""
    program = shutil.which("docker-registry")
    assert program, "`make test-tools` installs docker-registry."
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(program, context)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "config.yml").write_text(settings(Path("/var/lib/registry"), ":5000"))
    base = os.environ.get("BASE_IMAGE", "debian:trixie-slim")
    docker_client.images.build(path=str(context), tag=MIRROR, buildargs={"BASE_IMAGE": base}, rm=True, forcerm=True)
    yield MIRROR
    docker_client.images.remove(MIRROR)


def pushed(client: docker.DockerClient, *names: str) -> None:
    """Put a small image into registries, and leave it nowhere else."""
    for name in names:
        repository, _, tag = name.rpartition(":")
        client.api.import_image_from_data(archive({"greeting": b"hello"}), repository, tag)
        assert "errorDetail" not in client.images.push(repository, tag)
        client.images.remove(name)


def test_jobs_pull_through_a_mirror(
    docker_client: docker.DockerClient,
    sandbox_runtime: str,
    sandbox_image: str,
    registry: str,
    gateway: str,
    mirror_image: str,
    reader: Reader,
) -> None:
    """The page's mirror and the page's keeper file; the images that a job gets by it are nowhere else."""
    pushed(docker_client, f"{registry}/{GREETING}")
    with serving(reader.folder / "images", gateway) as hub:
        own = {
            "--name mirror": f"--name {MIRROR}",
            "192.168.1.20:5000": f"{gateway}:",
            "https://registry-1.docker.io": f"http://{hub}",
            " registry:3": f" {mirror_image}",
        }
        try:
            reader.type(block_of("mirrors", "docker run -d --name mirror"), own)
            port = typed(reader, f"docker port {MIRROR} 5000").strip().rpartition(":")[2]
            [file] = [block.text for block in blocks("toml") if block.page.stem == "mirrors"]
            config = file.replace("192.168.1.20", gateway).replace("5000", port)
            keeper = Keeper(reader.folder, sandbox_runtime, sandbox_image, config, warm=1)
            assert f"Downloaded newer image for {GREETING}" in ran(keeper, f"docker pull {GREETING}")
        finally:
            typed(reader, f"docker rm --force --volumes {MIRROR}")


def ran(keeper: Keeper, script: str) -> str:
    """What a script prints in a sandbox of a keeper that is started for it."""
    try:
        keeper.start()
        done = subprocess.run(
            [*in_network_of_engine(), *RUNNER, "run", "--keeper", str(keeper.socket), "-"], input=script,
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
    finally:
        keeper.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_own_images_bring_images_and_are_pushed(
    docker_client: docker.DockerClient, registry: str, reader: Reader
) -> None:
    brought = f"{registry}/postgres:17"
    made = [f"{registry}/team/our-sandbox:1", f"{registry}/team/sandbox:1"]
    pushed(docker_client, brought)
    try:
        reader.type(block_of("own-images", "docker pull"), {"postgres:17": brought})
        pushing = block_of("own-images", "sandbox images build --tag registry.example/team")
        own = {"registry.example": registry, "docker build": BUILD}
        assert reader.type(pushing, own).count("digest: sha256:") == 2
        files = "ls /usr/share/sandbox/images"
        assert "postgres.tar" in typed(reader, f"docker run --rm --entrypoint sh {made[0]} -c '{files}'")
        for name in made:
            docker_client.images.remove(name)
        for name in made:
            assert docker_client.images.pull(name).tags == [name]
    finally:
        for name in (brought, *made):
            typed(reader, f"docker image rm --force {name}")


def typed(reader: Reader, text: str) -> str:
    """What comes of words that are on no page."""
    return reader.type(Block(Path(__file__), 0, "sh", text))
