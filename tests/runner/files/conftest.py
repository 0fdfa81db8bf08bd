"""A session into a sandbox, and servers for it to fetch from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runner.execution.session import Session
from tests.runner.conftest import Sandbox
from tests.runner.files.origin import Origin


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    origin = Origin(tmp_path_factory.mktemp("origin"))
    yield origin
    origin.close()


@pytest.fixture
def origin(repository: Origin) -> Origin:
    repository.asked.clear()
    repository.files.clear()
    return repository


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    session = await Session.open(sandbox.access(), sandbox.settings())
    yield session
    await session.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"
