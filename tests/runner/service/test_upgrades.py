"""Drains, stops and upgrades in the middle of many jobs: no job is lost or runs twice, and every log is whole."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest

from runner.job import Job
from runner.outcome import Succeeded
from runner.service.mode import Mode
from runner.store.states import JobState
from tests.runner.service.conftest import DEADLINE, Host, Life
from tests.waiting import eventually

pytestmark = pytest.mark.anyio
LINES = 5000


def numbered(number: int, starts: Path) -> Job:
    """A job that notes its start, and prints so much that an interruption finds it in the middle."""
    halves = f"seq {number}00000 {number}{LINES // 2:05}; sleep 0.2; seq {number}{LINES // 2 + 1:05} {number}{LINES:05}"
    return Job(f"echo {number} >>{starts}; {halves}".encode(), trust_key="default")


def log_of(number: int) -> bytes:
    lines = "".join(f"{number}{line:05}\n" for line in range(LINES + 1))
    return f"{lines}runner: The script succeeded.\n".encode()


async def upgrade(life: Life) -> None:
    await life.detach()


async def upgrade_while_drained(life: Life) -> None:
    await life.service.drain("ops")
    await life.detach()


async def drain_to_the_end(life: Life) -> None:
    await life.service.drain("ops")
    await eventually(lambda: life.service.running == 0, DEADLINE)
    await life.detach()


async def drain_for_a_moment(life: Life) -> None:
    await life.service.drain("ops")
    await life.service.resume()
    await life.detach()


async def stop(life: Life) -> None:
    life.service.stop()
    await asyncio.wait_for(life.working, DEADLINE)


EVENTS = (upgrade, upgrade_while_drained, drain_for_a_moment, stop, drain_to_the_end)


async def test_none_is_lost_none_runs_twice_and_every_log_is_whole(host: Host, tmp_path: Path) -> None:
    starts, numbers = tmp_path / "starts", count(1)
    jobs: dict[int, str] = {}
    for happens in (*EVENTS, *reversed(EVENTS)):
        async with host.life(slots=3, standby=True) as life:
            if life.service.mode is Mode.DRAINING:
                await life.service.resume()
            for number in (next(numbers), next(numbers)):
                jobs[number] = (await life.service.submit(numbered(number, starts))).id
            await eventually(lambda life=life: life.service.running > 0, DEADLINE)  # type: ignore[misc]
            await happens(life)
    async with host.life(slots=3) as last:
        await last.service.resume()
        for number, job in jobs.items():
            assert await last.outcome(job) == Succeeded()
            assert (await last.job(job)).state is JobState.FINISHED
            assert await last.log(job) == log_of(number)
    assert sorted(map(int, starts.read_text().split())) == sorted(jobs)
