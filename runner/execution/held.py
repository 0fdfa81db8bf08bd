"""A lease that is kept alive until it is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from runner.errors import LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution.heartbeat import Heartbeat
from runner.execution.late import hand_in_later
from runner.execution.lease import Lease
from runner.execution.options import Settings
from runner.logs import Action, Events, Subject

_events = Events(__name__)

PAUSE: Final = 0.5
"""Seconds before a source of leases that did not answer is asked again."""


class Held:
    """A lease and its heartbeat. End it with `hand_in`, or with `leave` where somebody will resume it."""

    def __init__(self, lease: Lease, settings: Settings) -> None:
        """Keep the lease from now on. Needs a running event loop."""
        self.lease = lease
        self.heartbeat = Heartbeat(lease)
        self._deadline = settings.return_deadline
        self._subject: Subject = {"sandbox": lease.sandbox, "attempt": lease.attempt}

    async def kill(self) -> bool:
        """End every process of the attempt from outside, and return whether that was seen to be done. Never fails."""
        return await self._attempted("kill", self.lease.kill)

    async def hand_in(self, broken: str | None, *, used: bool) -> None:
        """End the lease: give the sandbox back, or condemn it with the reason. Never fails.

        While nobody answers, that goes on in the background: a sandbox that stays leased is kept for hours for an
        attempt that is over. `used` as in `Lease.give_back`. Not to be cancelled.
        """
        if broken or not await self._attempted("give back", lambda: self.lease.give_back(used=used)):
            reason = broken or "The sandbox could not be given back."
            if not await self._attempted("condemn", lambda: self.lease.condemn(reason)):
                hand_in_later(self.lease, broken, used=used)
        await self.heartbeat.stop()

    async def leave(self) -> None:
        """Let the lease run out unless somebody resumes it."""
        await self.heartbeat.stop()

    async def _attempted(self, what: str, call: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Do one thing with the lease within the deadline, and return whether it worked. Failure is logged."""
        try:
            async with asyncio.timeout(self._deadline):
                await _answered(call)
        except LeaseLostError as error:  # taken away before: there is nothing left to hand in
            _events.info(Action.LEASE_CALL_FAILED, f"{what}: {error}", **self._subject)
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt comes to its end
            expected = isinstance(error, LeaseError | OSError)
            why = str(error) or f"no answer within {self._deadline:g} s"
            _events.warning(
                Action.LEASE_CALL_FAILED, f"{what}: {why}", error=None if expected else error, **self._subject
            )
            return False
        return True


async def _answered(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Call until somebody answers: a source of leases that restarts must not leave a job running."""
    while True:
        try:
            return await call()
        except LeaseUnreachableError:
            await asyncio.sleep(PAUSE)
