"""A defect does not end work that the service needs for all its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import pytest

from runner.job import Job
from runner.outcome import Limit, TimedOut
from runner.service import lasting
from runner.service.service import Service
from runner.service.signing import key_of
from runner.service.standby import Standby
from runner.service.webhooks import Webhooks
from tests.runner.conftest import FakeLeases, Sandbox
from tests.runner.service.conftest import DEADLINE, Host
from tests.runner.service.state import service_of
from tests.runner.service.test_webhooks import SECRET, end, receiving, state_of
from tests.waiting import eventually

pytestmark = pytest.mark.anyio
_P = ParamSpec("_P")
_T = TypeVar("_T")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "_PAUSE", 0.01)


def defective(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """The call, which meets a defect the first time."""
    calls = iter([True])

    def once(*args: _P.args, **options: _P.kwargs) -> _T:
        if next(calls, False):
            raise RuntimeError("A defect.")
        return call(*args, **options)

    return once


@asynccontextmanager
async def working(service: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(service.work())
    try:
        yield
    finally:
        service.abort("the test is over.")
        await asyncio.wait_for(task, DEADLINE)


async def test_jobs_that_wait_for_too_long_are_ended_nevertheless(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with host.life() as life:
        monkeypatch.setattr(life.service.records.jobs, "unwanted", defective(life.service.records.jobs.unwanted))
        await life.service.drain("me")
        job = await life.service.submit(Job(b"true", queue_timeout=0.01))
        assert await life.outcome(job.id) == TimedOut(Limit.QUEUE)
    assert "a defect in the runner; the look for expired jobs goes on in 0.01 s" in caplog.text
    assert "A defect." in caplog.text


async def test_old_jobs_are_looked_for_nevertheless(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    service, looks = host.new_service(), list[None]()
    monkeypatch.setattr(service.housekeeper, "sweep", defective(lambda: looks.append(None)))
    async with working(service):
        await eventually(lambda: looks)


async def test_what_an_earlier_life_was_lent_is_returned_nevertheless(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = host.new_service()
    lease = await earlier._leases.lend("0" * 32, "t0ken" * 6, "default", "default", 1.0, 60.0)
    lease.access.socket.close()
    monkeypatch.setattr(host.leases, "resume", defective(host.leases.resume))
    async with working(host.new_service()):
        await eventually(lambda: host.leases.calls == ["give_back:used"])


async def test_webhooks_are_sent_nevertheless(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as receiver:
        state, jobs = state_of(host.state, receiver)
        end(jobs)
        monkeypatch.setattr(state.deliveries, "due", defective(state.deliveries.due))
        told = Webhooks(state.deliveries, [receiver.url], key_of(SECRET), timeout=5.0, give_up=3600.0)
        async with working(service_of(state, host.leases, settings=host.settings, webhooks=told)):
            await eventually(lambda: receiver.got)


async def test_a_sandbox_is_taken_in_advance_nevertheless(sandbox: Sandbox) -> None:
    async def two(profile: str) -> int:
        return 2

    standby = Standby(FakeLeases(sandbox.access), defective(two))
    await eventually(lambda: standby._held is not None)
    await standby.close()
