"""The tutorial, typed in from its beginning to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import docker
import pytest

from tests.docs.pages import ROOT, blocks_of
from tests.e2e.test_compose import Installation, volumes

PROJECT: Final = "sandbox-tutorial-test"
DEADLINE: Final = 300.0
#: `docker compose` as this machine has it, on a project of its own, with the images that `make images` has built.
_DOCKER: Final = """#!/bin/bash
[ "$1" = compose ] || exec {docker} "$@"
exec {compose} --project-directory {root} {files} "${{@:2}}"
"""


class Reader:
    """Somebody who copies and pastes."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self._folder = folder
        self._blocks = (block for block in blocks_of(ROOT / "docs" / "tutorial.md") if block.language == "sh")
        (folder / "bin").mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        program = folder / "bin" / "docker"
        here = Path(sys.executable).parent
        files = " ".join(f"--file={file}" for file in installation.files)
        program.write_text(
            _DOCKER.format(docker=shutil.which("docker"), compose=here / "docker-compose", root=ROOT, files=files)
        )
        program.chmod(0o755)
        self._environment = {**installation.environment, "SANDBOX_WARM": "2"}
        self._environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"

    def next(self) -> str:
        """Type in what comes next, and read what it printed."""
        block = next(self._blocks)
        text = block.text.replace("--build", "--no-build")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self._folder, env=self._environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @property
    def is_through(self) -> bool:
        return next(self._blocks, None) is None


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "run", PROJECT, 18098)
    yield made
    made.compose("down", "--volumes")


def test_it_works_as_written(tmp_path: Path, installation: Installation, docker_client: docker.DockerClient) -> None:
    reader = Reader(tmp_path, installation)
    reader.next()
    assert len(reader.next().splitlines()) == 2
    assert "Hello from" in reader.next()
    assert "exit code 3" in reader.next()
    assert "Hello from a container in the sandbox" in reader.next()
    assert "exit code 75" in reader.next()
    assert "Hello from" in reader.next()
    assert "thrown away" in reader.next()
    log = reader.next()
    assert "token is 16 characters long: [masked]" in log
    assert "do-not-show-this" not in log
    later = reader.next()
    assert later.count("[masked]") == 1
    assert "succeeded" in later
    reader.next()
    assert reader.is_through
    assert volumes(docker_client, PROJECT) == set()
