"""Leases that a later life of the service can return: their tokens are on disk before they are requested.

For hours, the source keeps a sandbox for an attempt whose runner is silent. The marker of a job names the attempt to
follow again. Between the request for a lease and the marker, and between the outcome and the return of the sandbox,
only this note records the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from runner.errors import LeaseLostError, LeaseUnreachableError, StateError
from runner.execution.cancellation import see_through
from runner.execution.lease import Lease, LeaseHandle, LeaseSource
from runner.execution.overdue_leases import until_over
from runner.logs import Action, Events
from runner.placement import Profiles
from runner.store.leases import LeaseNotes
from runner.store.threads import writing

_events = Events(__name__)


class NotedLeases:
    """A source of leases that notes each request until its lease is over, and returns an earlier life's leases."""

    def __init__(self, leases: LeaseSource, notes: LeaseNotes) -> None:
        self._leases = leases
        self._notes = notes
        self._earlier = notes.all()

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`."""
        return await self._leases.profiles()

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        """See `LeaseSource.lend`. Errors: LeaseUnreachableError also while the request cannot be noted."""
        await see_through(self._note(attempt, token))
        lease = await self._leases.lend(attempt, token, profile, trust_key, wait, patience)
        return _NotedLease(lease, self._forget)

    async def resume(self, attempt: str, token: str) -> Lease:
        """See `LeaseSource.resume`."""
        return _NotedLease(await self._leases.resume(attempt, token), self._forget)

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        """See `LeaseSource.handle`."""
        return _NotedHandle(self._leases.handle(attempt, token), self._forget)

    def keep(self, attempts: Collection[str]) -> None:
        """Exclude these attempts, which somebody else continues, from `return_earlier`."""
        self._earlier = [(attempt, token) for attempt, token in self._earlier if attempt not in attempts]

    async def return_earlier(self, followed: Collection[str]) -> None:
        """Return the leases of an earlier life, except those of followed attempts. Asks until the source answers."""
        async with asyncio.TaskGroup() as returning:
            for attempt, token in self._earlier:
                if attempt not in followed:
                    returning.create_task(self._return(attempt, token))

    async def _note(self, attempt: str, token: str) -> None:
        try:
            await writing(self._notes.note, attempt, token)
        except StateError as error:
            raise LeaseUnreachableError(str(error)) from error  # jobs then wait as they do for the keeper

    async def _return(self, attempt: str, token: str) -> None:
        async def end() -> None:
            # Used: the job may have ended just before its runner did, or may have closed its sandbox.
            await self.handle(attempt, token).give_back(used=True)
            _events.info(Action.LEASE_RETURNED, "left leased, and returned", attempt=attempt)

        await until_over(attempt, end)

    async def _forget(self, attempt: str) -> None:
        try:
            await writing(self._notes.forget, attempt)
        except StateError as error:  # the next life asks again, and learns that the lease is over
            _events.info(Action.STORE_FAILED, str(error), attempt=attempt)


class _NotedHandle:
    """See `LeaseHandle`. When the lease is over, its note is removed."""

    def __init__(self, lease: LeaseHandle, forget: Callable[[str], Awaitable[None]]) -> None:
        self.attempt = lease.attempt
        self.kill = lease.kill
        self._lease = lease
        self._forget = forget

    async def give_back(self, *, used: bool) -> None:
        """See `LeaseHandle.give_back`."""
        await self._over(self._lease.give_back(used=used))

    async def condemn(self, reason: str) -> None:
        """See `LeaseHandle.condemn`."""
        await self._over(self._lease.condemn(reason))

    async def _over(self, ending: Awaitable[None]) -> None:
        try:
            await ending
        except LeaseLostError:
            await self._forget(self.attempt)
            raise
        await self._forget(self.attempt)


class _NotedLease(_NotedHandle):
    """See `Lease`."""

    def __init__(self, lease: Lease, forget: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(lease, forget)
        self.sandbox, self.generation = lease.sandbox, lease.generation
        self.runtime, self.caveat = lease.runtime, lease.caveat
        self.access, self.term = lease.access, lease.term
        self.renew = lease.renew
