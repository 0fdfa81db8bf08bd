"""Keeps a lease alive."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from runner.errors import LeaseLostError
from runner.execution.lease import Lease
from runner.logs import Action, Events

_events = Events(__name__)

ASK_DEADLINE: Final = 5.0
"""Seconds for the source of leases to answer while an outcome waits for the answer."""


class Heartbeat:
    """Renews a lease after each third of its term, and when asked to, until stopped.

    A failed renewal is tried again at the next beat, without end: the job goes on while the source of leases restarts.
    The lease is lost only when the source says that it is gone.
    """

    def __init__(self, lease: Lease) -> None:
        """Start the heartbeat. Needs a running event loop."""
        self._lease = lease
        self._lost = asyncio.Event()
        self.why = ""
        """Why the lease was lost."""
        self._asked = asyncio.Event()
        self._task = asyncio.create_task(self._beat())

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone for good."""
        return self._lost.is_set()

    async def wait_lost(self) -> None:
        """Wait until the lease is gone for good."""
        await self._lost.wait()

    def beat(self) -> None:
        """Renew now. A source may be patient only with renewed leases."""
        self._asked.set()

    async def lost_by_now(self) -> bool:
        """Ask once whether the lease is gone for good. Without an answer in time, it counts as not gone."""
        if not self.is_lost:
            with contextlib.suppress(Exception):  # the loop logs a lasting error
                async with asyncio.timeout(ASK_DEADLINE):
                    await self._renew()
        return self.is_lost

    async def stop(self) -> None:
        """Stop renewing. Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease.term / 3):  # wait_for may swallow a cancellation
                    await self._asked.wait()
            self._asked.clear()
            try:
                async with asyncio.timeout(self._lease.term):
                    await self._renew()
            except LeaseLostError:
                return
            except Exception as error:  # noqa: BLE001 - a loop that cannot die
                what = f"The lease could not be renewed: {error}"
                lease = self._lease
                _events.warning(Action.LEASE_CALL_FAILED, what, sandbox=lease.sandbox, attempt=lease.attempt)

    async def _renew(self) -> None:
        """Renew once, and note if the lease is gone for good. Errors: as for `Lease.renew`."""
        try:
            await self._lease.renew()
        except LeaseLostError as error:
            self.why = str(error)
            self._lost.set()
            raise
