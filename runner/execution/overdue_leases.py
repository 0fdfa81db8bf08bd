"""Leases that could not be handed in because their source did not answer: the runner keeps trying."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runner.errors import LeaseError, LeaseLostError
from runner.execution.lease import LeaseHandle
from runner.logs import Action, Events

_events = Events(__name__)
_tasks: Final[set[asyncio.Task[None]]] = set()
"""References to the tasks; the loop itself keeps only weak ones."""

INTERVAL: Final = 5.0
"""Seconds between two tries to hand in a lease while its source does not answer."""


def hand_in_later(lease: LeaseHandle, broken: str | None, *, used: bool) -> None:
    """Give back the sandbox, or condemn it with the reason, as soon as the source answers, while this process lives.

    For a caller that has tried for as long as an attempt may wait. Needs a running event loop, and ends with it.
    """

    async def end() -> None:
        await (lease.condemn(broken) if broken else lease.give_back(used=used))
        _events.info(Action.LEASE_RETURNED, "returned late", attempt=lease.attempt)

    task = asyncio.create_task(until_over(lease.attempt, end))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def until_over(attempt: str, end: Callable[[], Awaitable[None]]) -> None:
    """Call `end` for a lease until the lease's source answers; the answer may be that the lease is over already."""
    told = ""
    while True:
        try:
            return await end()
        except LeaseLostError:
            return None
        except LeaseError as error:
            if told != (told := str(error)):  # a keeper that is away for a night is logged once
                what = f"a sandbox that was left leased cannot be returned yet: {told}"
                _events.info(Action.LEASE_CALL_FAILED, what, attempt=attempt)
        await asyncio.sleep(INTERVAL)
