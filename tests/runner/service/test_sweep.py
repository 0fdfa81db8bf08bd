"""Jobs that wait although nobody wants them any more."""

from __future__ import annotations

import pytest

from runner.job import Job
from runner.outcome import Limit, TimedOut
from runner.service import service as service_module
from runner.service.record import Record
from tests.runner.service.conftest import Host
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_of_the_jobs_that_have_waited_for_too_long_one_at_a_time_is_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a night's thousands of them were all in memory, each with its script, before the first was ended."""
    monkeypatch.setattr(service_module, "_SWEPT", 2)
    earlier = host.new_service()
    jobs = [(await earlier.submit(Job(b"true", queue_timeout=0.01))).id for _ in range(3)]
    await earlier.drain("me")
    async with host.life() as life:
        records, course = life.service.records, []
        get, take = records.get, records.take

        async def noted_get(job_id: str) -> Record | None:
            course.append(job_id)
            return await get(job_id)

        async def noted_take(record: Record) -> bool:
            course.append(record.id)
            return await take(record)

        monkeypatch.setattr(records, "get", noted_get)
        monkeypatch.setattr(records, "take", noted_take)
        await eventually(lambda: len(course) >= 6)
        assert course[:6] == [job for job in jobs for _ in ("read", "ended")]
        assert [await life.outcome(job) for job in jobs] == [TimedOut(Limit.QUEUE)] * 3
