"""A state folder, and successive lives of the service on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.execution.options import Settings
from runner.outcome import Outcome
from runner.service.limits import Limits
from runner.service.record import Record
from runner.service.service import Service
from runner.service.standby import Standby
from tests.runner.conftest import FakeLeases, Sandbox
from tests.runner.service.state import State, service_of

DEADLINE = 60.0
"""Seconds for anything that a job comes to."""


@dataclass
class Life:
    """One life of the service, from its start to its end."""

    service: Service
    working: asyncio.Task[None]

    async def job(self, job_id: str) -> Record:
        record = await self.service.records.get(job_id)
        assert record is not None
        return record

    async def outcome(self, job_id: str) -> Outcome:
        record = await self.job(job_id)
        await asyncio.wait_for(record.finished.wait(), DEADLINE)
        assert record.outcome is not None
        return record.outcome

    async def log(self, job_id: str, offset: int = 0) -> bytes:
        """The log to its end."""
        async with asyncio.timeout(DEADLINE):
            return b"".join([data async for data in (await self.job(job_id)).follow(offset)])

    async def detach(self) -> None:
        self.service.detach()
        await asyncio.wait_for(self.working, DEADLINE)


@dataclass
class Host:
    """A state folder, a sandbox, and one life of the service after another."""

    state: Path
    sandbox: Sandbox
    leases: FakeLeases
    settings: Settings

    def new_service(self, slots: int = 2, *, standby: bool = False, per_key: int | None = None) -> Service:
        ahead = (lambda noted: Standby(noted, self._ready, self.settings)) if standby else None
        limits = Limits(slots, per_key)
        return service_of(State(self.state), self.leases, limits, settings=self.settings, standby=ahead)

    async def _ready(self, profile: str) -> int:
        return 2

    @asynccontextmanager
    async def life(self, slots: int = 2, *, standby: bool = False, per_key: int | None = None) -> AsyncIterator[Life]:
        service = self.new_service(slots, standby=standby, per_key=per_key)
        working = asyncio.create_task(service.work())
        try:
            yield Life(service, working)
        finally:
            service.abort("the test is over.")
            await asyncio.wait_for(working, DEADLINE)


@pytest.fixture
def host(sandbox: Sandbox, tmp_path: Path) -> Host:
    (tmp_path / "state").mkdir()
    return Host(tmp_path / "state", sandbox, FakeLeases(sandbox.access), sandbox.settings(grace=1.0))


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that the scripts of these tests wait for."""
    return tmp_path / "gate"
