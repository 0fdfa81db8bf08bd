"""Leases that a later life of the service can return: their tokens are on disk before they are asked for.

A sandbox is kept for an attempt whose runner is not heard of, for hours. The marker of a job names the attempt that is
followed again. Between the request for a lease and the marker, and between the outcome and the return of the sandbox,
only this note knows of the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from runner.errors import LeaseUnreachableError, StateError
from runner.execution.cancellation import see_through
from runner.execution.late import until_over
from runner.execution.lease import Lease, LeaseHandle, LeaseSource
from runner.logs import Action, Events
from runner.placement import Profiles
from runner.store.leases import LeaseNotes

_events = Events(__name__)

_PER_SLOT: Final = 8
"""Leases that are remembered for each job at once: one that ends, one taken in advance, and those that broke."""


class NotedLeases:
    """A source of leases that notes each request, and can return what an earlier life was lent."""

    def __init__(self, leases: LeaseSource, notes: LeaseNotes, slots: int) -> None:
        self._leases = leases
        self._notes = notes
        self._earlier = notes.all()
        self._kept = 0
        self.follow(slots)

    def follow(self, slots: int) -> None:
        """Remember leases for so many jobs at once."""
        self._kept = max(self._kept, len(self._earlier), _PER_SLOT * (slots + 1))  # notes are not forgotten for this

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`."""
        return await self._leases.profiles()

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        """See `LeaseSource.lend`. Errors: LeaseUnreachableError also while the request cannot be noted."""
        await see_through(self._note(attempt, token))
        return await self._leases.lend(attempt, token, profile, trust_key, wait, patience)

    async def resume(self, attempt: str, token: str) -> Lease:
        """See `LeaseSource.resume`."""
        return await self._leases.resume(attempt, token)

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        """See `LeaseSource.handle`."""
        return self._leases.handle(attempt, token)

    def keep(self, attempts: Collection[str]) -> None:
        """Somebody else goes on with these: they are not `return_earlier`'s."""
        self._earlier = [(attempt, token) for attempt, token in self._earlier if attempt not in attempts]

    async def return_earlier(self, followed: Collection[str]) -> None:
        """Return what an earlier life was lent, but for the attempts that are followed. Asks until it is answered."""
        async with asyncio.TaskGroup() as returning:
            for attempt, token in self._earlier:
                if attempt not in followed:
                    returning.create_task(self._return(attempt, token))

    async def _note(self, attempt: str, token: str) -> None:
        try:
            await asyncio.to_thread(self._notes.note, attempt, token, self._kept)
        except StateError as error:
            raise LeaseUnreachableError(str(error)) from error  # jobs wait for that as they do for the keeper

    async def _return(self, attempt: str, token: str) -> None:
        async def end() -> None:
            # Used: its job may have ended just before its runner did, or have closed its sandbox to whoever asks.
            await self._leases.handle(attempt, token).give_back(used=True)
            _events.info(Action.LEASE_RETURNED, "left leased, and returned", attempt=attempt)

        await until_over(attempt, end)
        await self._forget(attempt)

    async def _forget(self, attempt: str) -> None:
        try:
            await asyncio.to_thread(self._notes.forget, attempt)
        except StateError as error:  # the next life asks again, and is told that it is over
            _events.info(Action.STORE_FAILED, str(error), attempt=attempt)
