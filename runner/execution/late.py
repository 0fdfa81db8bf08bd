"""Leases that nobody answered for while their attempts waited: they are handed in as soon as somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runner.errors import LeaseError, LeaseLostError
from runner.execution.lease import Lease
from runner.logs import Action, Events

_events = Events(__name__)

INTERVAL: Final = 5.0
"""Seconds between two tries to hand in a lease while its source does not answer."""


class Late:
    """What a source of leases still has to take back. It ends with the event loop, however much is left then."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def hand_in(self, lease: Lease, broken: str | None, *, used: bool) -> None:
        """Try again in the background until there is an answer. Needs a running event loop."""

        async def end() -> None:
            await (lease.condemn(broken) if broken else lease.give_back(used=used))
            _events.info(Action.LEASE_RETURNED, "returned late", sandbox=lease.sandbox, attempt=lease.attempt)

        task = asyncio.create_task(until_over(lease.attempt, end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def until_over(attempt: str, end: Callable[[], Awaitable[None]]) -> None:
    """End a lease with `end`, again and again until its source has answered, be it that it is over already."""
    told = ""
    while True:
        try:
            return await end()
        except LeaseLostError:
            return None
        except LeaseError as error:
            if told != (told := str(error)):  # a keeper that is away for a night is told once
                what = f"a sandbox that was left leased cannot be returned yet: {told}"
                _events.info(Action.LEASE_CALL_FAILED, what, attempt=attempt)
        await asyncio.sleep(INTERVAL)
