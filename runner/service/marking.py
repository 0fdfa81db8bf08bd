"""The marker of a job on its way to the disk, right before the first byte of the job is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runner.errors import DetachedError, StateError
from runner.execution.marker import Marker
from runner.logs import Action, Events
from runner.service.record import Record

_events = Events(__name__)

RETRY: Final = 1.0
"""Seconds between two tries to write it down."""


async def marked(record: Record, marker: Marker, stopping: Callable[[], bool]) -> None:
    """Have the marker on disk, however long that takes: nothing was sent, and the sandbox waits with the job.

    Errors: StateError or DetachedError when the job is to end before that, or is left to the next life, as it is when
    the runner is `stopping`.
    """
    while not await _written(record, marker):
        if stopping():
            record.cancellation.detach()
        if await _within(record.cancellation.wait(), RETRY):
            raise StateError("The start could not be written down before the job was to end.")
    if record.cancellation.detached:  # what is sent by half when the runner leaves would be lost
        await _taken_back(record)


async def _written(record: Record, marker: Marker) -> bool:
    """Whether the marker is on disk."""
    try:
        await record.mark(marker)
    except StateError as error:
        what = f"{error} Nothing of the job was sent; it is tried again."
        _events.error(Action.STORE_FAILED, what, job=record.id)
        return False
    return True


async def _taken_back(record: Record) -> None:
    """Errors: DetachedError when the job waits for the next life; else it counts as started, and is sent."""
    try:
        await record.unmark()
    except StateError as error:
        _events.error(Action.STORE_FAILED, str(error), job=record.id)
    else:
        raise DetachedError("The runner left before anything was sent.")


async def _within(event: Awaitable[None], seconds: float) -> bool:
    """Wait for an event for so long, and return whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        return False
    return True
