"""While there is no sandbox at all, jobs wait: a night without a keeper must not end a whole queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.errors import LeaseUnreachableError
from runner.execution import prepare
from runner.job import Job
from runner.outcome import Cancelled, Succeeded
from runner.store.states import JobState
from tests.runner.service.conftest import Host
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

WHY = "The keeper is stopping and lends no more sandboxes."


async def away() -> None:
    raise LeaseUnreachableError(WHY)


@pytest.fixture(autouse=True, params=["profiles", "lend"])
def question(request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the keeper does not answer."""
    monkeypatch.setattr(prepare, "PAUSE", 0.02)
    host.settings = replace(host.settings, source_deadline=3600.0)
    host.leases.trouble[request.param] = away
    return str(request.param)


async def test_one_job_asks_again_and_those_after_it_wait_in_the_queue(host: Host, question: str) -> None:
    async with host.life(slots=2) as life:
        first = await life.service.submit(Job(b"echo first"))
        await eventually(lambda: WHY in life.service.held)
        second = await life.service.submit(Job(b"echo second"))
        assert (second.state, life.service.running) == (JobState.QUEUED, 1)
        del host.leases.trouble[question]
        assert [await life.outcome(job.id) for job in (first, second)] == [Succeeded()] * 2
        assert life.service.held == ""


async def test_a_job_that_waits_for_a_sandbox_can_be_cancelled(host: Host) -> None:
    async with host.life() as life:
        job = await life.service.submit(Job(b"true"))
        await eventually(lambda: WHY in life.service.held)
        await life.service.cancel(job, "its user")
        assert await life.outcome(job.id) == Cancelled("its user")
        assert life.service.held == ""


@pytest.mark.parametrize("first", ["the keeper", "the runner"])
async def test_a_runner_that_stops_leaves_it_to_its_next_life(host: Host, question: str, first: str) -> None:
    """The trap: whoever stops both would wait for a job that waits for a keeper that has stopped."""
    async with host.life() as life:
        if first == "the runner":
            asked = []

            async def slow() -> None:
                asked.append(life)
                await eventually(lambda: not life.service.mode.takes)
                await away()

            host.leases.trouble[question] = slow
            job = await life.service.submit(Job(b"echo hello"))
            await eventually(lambda: asked != [])
        else:
            job = await life.service.submit(Job(b"echo hello"))
            await eventually(lambda: WHY in life.service.held)
        life.service.stop()
        await life.working
    del host.leases.trouble[question]
    async with host.life() as again:
        assert await again.outcome(job.id) == Succeeded()
