"""The tutorial, typed in from its beginning to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import docker
import pytest

from tests.docs.pages import ROOT, blocks_of
from tests.docs.reader import Reader
from tests.e2e.test_compose import Installation, volumes

PROJECT: Final = "sandbox-tutorial-test"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "run", PROJECT, 18098)
    made.environment["SANDBOX_WARM"] = "2"
    yield made
    made.compose("down", "--volumes")


def test_it_works_as_written(tmp_path: Path, installation: Installation, docker_client: docker.DockerClient) -> None:
    reader = Reader(tmp_path, installation)
    shown = (block for block in blocks_of(ROOT / "docs" / "tutorial.md") if block.language == "sh")

    def next_block() -> str:
        return reader.type(next(shown))

    next_block()
    assert len(next_block().splitlines()) == 2
    assert "Hello from" in next_block()
    assert "exit code 3" in next_block()
    assert "Hello from a container in the sandbox" in next_block()
    assert "exit code 75" in next_block()
    assert "Hello from" in next_block()
    assert "thrown away" in next_block()
    log = next_block()
    assert "token is 16 characters long: [masked]" in log
    assert "do-not-show-this" not in log
    later = next_block()
    assert later.count("[masked]") == 1
    assert "succeeded" in later
    next_block()
    assert next(shown, None) is None
    assert volumes(docker_client, PROJECT) == set()
