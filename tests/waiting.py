"""Waiting for events that nothing announces: another process's file, socket or container."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def until(what: str, condition: Callable[[], object], deadline: float = 60.0) -> None:
    """Wait until something is so; fails with the name of what was waited for."""
    begin = time.monotonic()
    while not condition():
        waited = time.monotonic() - begin
        assert waited < deadline, f"Not within {deadline:g} s: {what}"
        time.sleep(min(0.005 + waited / 10, 0.25))  # who is asked works for each answer, and others need the processor


async def eventually(condition: Callable[[], object], deadline: float = 20.0) -> None:
    """Wait until something is so while the loop goes on."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 - it sets no events
            await asyncio.sleep(0.01)
