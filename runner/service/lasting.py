"""Background work that must not end before the service does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runner.logs import Action, Events

_events = Events(__name__)

_PAUSE: Final = 5.0
"""Seconds before work that a defect ended is begun again."""


def lasting(name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Begin some work. If a defect ends it, log the defect and begin again."""
    return asyncio.create_task(_last(name, work))


async def _last(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await work()
        except Exception as error:  # noqa: BLE001 - nobody would hear of it, nor do the work, before the next restart
            what = f"a defect in the runner; {name} goes on in {_PAUSE:g} s"
            _events.error(Action.DEFECT, what, error=error)
        await asyncio.sleep(_PAUSE)
