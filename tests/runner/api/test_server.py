"""The API and the service come and go together."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import cast

import pytest

from runner.api.app import make_app
from runner.api.server import serve
from runner.api.token import Token
from runner.errors import StateError
from runner.execution.lease import Lease
from runner.job import Job
from runner.service.leases import NotedLeases
from runner.service.service import Service
from runner.store.states import JobState
from tests.runner.service.state import State

pytestmark = pytest.mark.anyio


class NoSandbox:
    """Never lends anything."""

    async def lend(self, *request: object) -> Lease:
        await asyncio.Event().wait()
        raise AssertionError

    async def resume(self, attempt: str, token: str) -> Lease:
        return await self.lend()


async def test_a_port_that_is_taken_is_told_and_ends_no_job(tmp_path: Path) -> None:
    """The trap: a restart that fails would end the jobs that a crash had left running."""
    state = State(tmp_path)
    service = Service(NotedLeases(NoSandbox(), state.leases, 1), state.records, 1, None)
    job = await service.submit(Job(b"true"))
    app = make_app(service, Token(tmp_path / "token"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = cast(int, taken.getsockname()[1])
        with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{port}"):
            await serve(service, app, "127.0.0.1", port)
    again = State(tmp_path).records.get(job.id)
    assert again
    assert (again.state, again.cancellation.cause) == (JobState.QUEUED, None)
