"""A lease that must be handed in, and a lease that is also kept alive until then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from runner.errors import LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution.heartbeat import Heartbeat
from runner.execution.lease import Lease, LeaseHandle
from runner.execution.options import Settings
from runner.execution.overdue_leases import hand_in_later
from runner.logs import Action, Events, Subject

_events = Events(__name__)

PAUSE: Final = 0.5
"""Seconds until a source of leases that did not answer is asked again."""


class Owed:
    """A lease that must be handed in, whether or not its sandbox answers. No method ever fails."""

    def __init__(self, lease: LeaseHandle, settings: Settings) -> None:
        self._lease = lease
        self._deadline = settings.return_deadline
        self._subject: Subject = {"attempt": lease.attempt}

    async def kill(self) -> bool:
        """End every process of the attempt from outside, and return whether that was verified."""
        return await self._attempted("kill", self._lease.kill)

    async def hand_in(self, broken: str | None, *, used: bool) -> None:
        """End the lease: give the sandbox back, or condemn it with the reason.

        If nobody answers, the tries go on in the background: a sandbox that stays leased would be kept for hours for
        an attempt that is over. `used` as in `LeaseHandle.give_back`. Must not be cancelled.
        """
        if broken or not await self._attempted("give back", lambda: self._lease.give_back(used=used)):
            reason = broken or "The sandbox could not be given back."
            if not await self._attempted("condemn", lambda: self._lease.condemn(reason)):
                hand_in_later(self._lease, broken, used=used)

    async def _attempted(self, what: str, call: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Make one call about the lease within the deadline, and return whether it worked. A failure is logged."""
        try:
            await _answered(call, self._deadline)
        except LeaseLostError as error:  # taken away before: there is nothing left to hand in
            _events.info(Action.LEASE_CALL_FAILED, f"{what}: {error}", **self._subject)
        except Exception as error:  # noqa: BLE001 - no error may keep the attempt from its end
            expected = isinstance(error, LeaseError | OSError)
            why = str(error) or f"no answer within {self._deadline:g} s"
            _events.warning(
                Action.LEASE_CALL_FAILED, f"{what}: {why}", error=None if expected else error, **self._subject
            )
            return False
        return True


class Held(Owed):
    """A lease and its heartbeat. End it with `hand_in`, or with `leave` if somebody will resume it."""

    def __init__(self, lease: Lease, settings: Settings) -> None:
        """Keep the lease from now on. Needs a running event loop."""
        super().__init__(lease, settings)
        self.lease = lease
        self.heartbeat = Heartbeat(lease)
        self._subject = {"sandbox": lease.sandbox, "attempt": lease.attempt}

    async def hand_in(self, broken: str | None, *, used: bool) -> None:
        """Hand the lease in as `Owed.hand_in` does, and stop its heartbeat."""
        await super().hand_in(broken, used=used)
        await self.heartbeat.stop()

    async def leave(self) -> None:
        """Let the lease run out unless somebody resumes it."""
        await self.heartbeat.stop()


async def _answered(call: Callable[[], Coroutine[Any, Any, None]], deadline: float) -> None:
    """Repeat a call until somebody answers: a restart of the source of leases must not leave a job running.

    Errors: as for the call; TimeoutError.
    """
    last: LeaseUnreachableError | None = None
    try:
        async with asyncio.timeout(deadline):
            while True:
                try:
                    return await call()
                except LeaseUnreachableError as error:
                    last = error
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        raise last or TimeoutError from None
