"""The demo at the top of the README."""

from __future__ import annotations

import subprocess
from typing import Final

import docker

from tests.docs.pages import ROOT, block_of
from tests.e2e.test_compose import volumes

PROJECT: Final = "sandbox-demo"
"""As examples/demo.sh has it."""
DEADLINE: Final = 240.0


def test_it_shows_what_it_says_and_leaves_nothing(docker_client: docker.DockerClient) -> None:
    """All of it but for building the images: those are there, and other tests use them."""
    shown = block_of("README", "make demo").text
    typed = shown.replace("make demo", "make --assume-old=images demo")
    done = subprocess.run(
        ["bash", "-euc", typed], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello from a container in the sandbox" in done.stdout
    assert "-> exit code 75" in done.stdout
    assert "thrown away so far: 1" in done.stdout
    assert docker_client.containers.list(all=True, filters={"name": PROJECT}) == []
    assert volumes(docker_client, PROJECT) == set()
