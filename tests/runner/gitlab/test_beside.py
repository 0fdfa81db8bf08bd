"""GitLab's jobs and the service's own, under one roof."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runner.gitlab import beside as beside_module
from runner.gitlab.beside import beside
from runner.gitlab.options import Options
from runner.gitlab.store import CacheStore
from tests.runner.api.test_app import new_service
from tests.runner.conftest import FakeLeases, Sandbox
from tests.runner.gitlab.test_cache import DISK, LIMIT, OURS, Disk, put
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_caches_give_way_while_the_service_works(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_module, "_LOOK", 0.05)
    disk = Disk()
    caches = CacheStore(tmp_path / "caches", LIMIT, look=disk.look)
    put(caches, b"x")
    options = Options(socket=tmp_path / "gitlab.sock", caches=caches)
    together = beside(new_service(tmp_path), FakeLeases(sandbox.access), tmp_path / "gitlab", options)
    working = asyncio.create_task(together.work())
    await eventually(options.socket.exists)  # type: ignore[union-attr]
    assert caches.entries(OURS)
    disk.others = DISK
    await eventually(lambda: not caches.entries(OURS))
    together.stop()
    await asyncio.wait_for(working, 20)
    caches.close()
