"""The store has threads of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.job import Job
from runner.outcome import Succeeded
from tests.runner.service.state import State
from tests.runner.service.test_records import MARKER

pytestmark = pytest.mark.anyio


async def test_a_name_server_that_hangs_keeps_no_job_from_its_outcome(tmp_path: Path) -> None:
    """The trap: names are looked up on asyncio's own threads. The store used those too, and nothing was written."""
    over, few = threading.Event(), ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(few)
    hanging = asyncio.create_task(asyncio.to_thread(over.wait, 60))
    records = State(tmp_path).records
    async with asyncio.timeout(20):
        await records.add(Job(b"true"))
        record = await records.claim(1)
        assert record
        await record.mark(MARKER)
        await record.settle(Succeeded())
        await record.finish()
    over.set()
    assert await hanging
