"""GitLab's jobs and the service's own, under one roof."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from runner import serve
from runner.config.model import Config
from runner.errors import CacheError
from runner.gitlab import with_service as with_service_module
from runner.gitlab.store import CacheStore
from runner.gitlab.with_service import WithService, with_service
from runner.service.leases import NotedLeases
from runner.service.service import Service
from sandbox.settings.loaded import Loaded
from tests.runner.api.test_app import new_service
from tests.runner.conftest import FakeLeases, Sandbox
from tests.runner.gitlab.conftest import OPTIONS, Manager, response
from tests.runner.gitlab.test_cache import DISK, LIMIT, OURS, Disk, put
from tests.runner.service.state import State, service_of
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_caches_give_way_while_the_service_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_service_module, "_LOOK", 0.05)
    disk = Disk()
    caches = CacheStore(tmp_path / "caches", LIMIT, look=disk.look)
    put(caches, b"x")
    options = replace(OPTIONS, socket=tmp_path / "gitlab.sock", caches=caches)
    together = with_service(new_service(tmp_path), cast(NotedLeases, object()), tmp_path / "gitlab", options)
    working = asyncio.create_task(together.work())
    await eventually(options.socket.exists)  # type: ignore[union-attr]
    assert caches.entries(OURS)
    disk.others = DISK
    await eventually(lambda: not caches.entries(OURS))
    together.stop()
    await asyncio.wait_for(working, 20)
    caches.close()


async def test_caches_follow_the_mark_that_is_read_anew(tmp_path: Path) -> None:
    disk = Disk(others=DISK - 10_000)
    caches = CacheStore(tmp_path / "caches", LIMIT, look=disk.look)
    with pytest.raises(CacheError, match="no room"):
        put(caches, b"x")
    said = Config.model_validate({"disk": {"low": 2000, "full": 1000}})
    serve._reread(new_service(tmp_path), caches, Loaded(Config()), lambda: Loaded(said))
    kept = put(caches, b"x")
    assert caches.entries(OURS) == [kept]
    caches.close()


async def test_the_lease_of_a_job_whose_note_cannot_be_read_is_returned(tmp_path: Path, sandbox: Sandbox) -> None:
    """The trap: its token was nowhere else, and the keeper keeps a sandbox of which nobody is heard for hours."""
    leases = FakeLeases(sandbox.access)
    options = replace(
        OPTIONS, socket=tmp_path / "gitlab.sock", settings=sandbox.settings(), home=str(tmp_path / "home")
    )

    def begin() -> tuple[Service | WithService, asyncio.Task[None]]:
        service = service_of(State(tmp_path), leases)
        together = with_service(service, service._leases, tmp_path / "jobs", options)
        return together, asyncio.create_task(together.work())

    together, working = begin()
    manager = Manager(tmp_path / "manager", options.socket, response())  # type: ignore[arg-type]
    assert [(await manager.config()).code, (await manager.hook("prepare")).code] == [0, 0]
    together.detach()
    await asyncio.wait_for(working, 20)
    [note] = tmp_path.glob("jobs/*/record.json")
    note.write_text(note.read_text().replace("{", '{"of_a_later_version": 1,', 1))
    together, working = begin()
    await eventually(lambda: leases.calls == ["give_back:used"])
    together.stop()
    await asyncio.wait_for(working, 20)
