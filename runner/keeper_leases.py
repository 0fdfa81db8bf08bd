"""Leases from the keeper, over its unix socket. Only this module of the runner speaks with the keeper."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TypeAlias, TypeVar

from runner.errors import LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution.cancellation import see_through
from runner.execution.lease import Access, SandboxFacts
from runner.placement import Profiles
from sandbox import places
from sandbox.errors import KeeperError, KeeperRefused
from sandbox.health import HostState
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient, Withdrawal
from sandbox.state import State

DEFAULT_KEEPER = Path(places.DEFAULT_SOCKET)

_LEASES = 1100
"""Requests for a lease that may wait at once, and calls about leases: more than any runner has slots."""
_ASKING = 4
"""The most questions that may wait at once for a keeper that hangs, on threads of their own."""
ASKED_DEADLINE = 5.0
"""Seconds for the keeper to return its metrics or its sandboxes: somebody waits for the answer."""

_T = TypeVar("_T")
_Granted: TypeAlias = asyncio.Future[tuple[protocol.LeaseGrant, socket]]


@dataclass(frozen=True, slots=True)
class KeeperState:
    """The keeper's state, by its own word."""

    host: HostState
    trouble: str
    """The keeper's sentence about what fails, and whether it still makes sandboxes; empty when nothing is wrong."""
    ready: Mapping[str, int]
    made: Mapping[str, int]
    """The numbers of each profile's ready sandboxes, and of all its sandboxes."""


def look_at(socket: Path) -> KeeperState:
    """Ask a keeper for its state. Blocks until the keeper answers. Errors: LeaseUnreachableError."""
    try:
        listing = KeeperClient(socket).listing()
    except KeeperError as error:
        raise LeaseUnreachableError(str(error)) from error
    ready = Counter(sandbox.profile for sandbox in listing.sandboxes if sandbox.state is State.READY)
    return KeeperState(listing.host, listing.trouble, ready, Counter(one.profile for one in listing.sandboxes))


class KeeperLeases:
    """The `LeaseSource` of a runner beside a keeper. Blocking calls run on threads; each has the client's deadline."""

    def __init__(self, socket: Path = DEFAULT_KEEPER) -> None:
        self._client = KeeperClient(socket)
        # A request waits for minutes, and a keeper that hangs blocks every call: on the shared threads, six such calls
        # could block everything. So requests do not use the threads of renewals, and neither uses the disk's threads.
        self._lending = ThreadPoolExecutor(_LEASES, thread_name_prefix="lend")
        self._holding = ThreadPoolExecutor(_LEASES, thread_name_prefix="lease")
        self._asking = ThreadPoolExecutor(_ASKING, thread_name_prefix="ask")

    async def lend(
        self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float
    ) -> "KeeperLease":
        """See `LeaseSource.lend`."""
        request = protocol.Lend(
            attempt=attempt, token=token, profile=profile, trust_key=trust_key, wait=wait, patience=patience
        )
        withdrawal = Withdrawal()
        asked = asyncio.ensure_future(_ask(self._lending, lambda: self._client.lend(request, withdrawal)))
        try:
            return self._lease(attempt, await asyncio.shield(asked))
        except asyncio.CancelledError:
            withdrawal.withdraw()  # else the waiting thread would also delay the end of this process
            await see_through(self._return_unwanted(asked))
            raise

    async def resume(self, attempt: str, token: str) -> "KeeperLease":
        """See `LeaseSource.resume`."""
        asked = asyncio.ensure_future(_ask(self._holding, lambda: self._client.resume(token), refused=LeaseLostError))
        try:
            return self._lease(attempt, await asyncio.shield(asked))
        except asyncio.CancelledError:
            asked.add_done_callback(_close_unwanted)
            raise

    def handle(self, attempt: str, token: str) -> "KeeperHandle":
        """See `LeaseSource.handle`."""
        return KeeperHandle(self._client, self._holding, attempt, token)

    async def ready(self, profile: str) -> int:
        """Return how many sandboxes of a profile are ready and not leased. Errors: LeaseError."""
        listing = await _ask(self._holding, self._client.listing)
        return sum(sandbox.state is State.READY and sandbox.profile == profile for sandbox in listing.sandboxes)

    async def sandboxes(self) -> list[SandboxFacts]:
        """Return every sandbox of the keeper, whoever leased it. Errors: LeaseError."""
        listing = await _ask(self._asking, lambda: self._client.listing(ASKED_DEADLINE))
        return [_facts(sandbox) for sandbox in listing.sandboxes]

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`. The order is that of the keeper's configuration file."""
        offered = await _ask(self._asking, lambda: self._client.profiles(ASKED_DEADLINE))
        return {name: frozenset(labels) for name, labels in offered.items()}

    async def metrics(self) -> str:
        """Return the keeper's metrics in Prometheus's text format. Errors: LeaseError."""
        return await _ask(self._asking, lambda: self._client.metrics(ASKED_DEADLINE))

    def _lease(self, attempt: str, granted: tuple[protocol.LeaseGrant, socket]) -> "KeeperLease":
        grant, connection = granted
        access = Access(connection, grant.user, grant.host_key, grant.client_key)
        return KeeperLease(self._client, self._holding, attempt, grant, access)

    async def _return_unwanted(self, asked: "_Granted") -> None:
        """Give back a lease that nobody waits for any more. If that fails, the keeper takes it back after its term."""
        with suppress(LeaseError):
            grant, connection = await asked
            connection.close()
            await _ask(self._holding, lambda: self._client.give_back(grant.token, used=False))


class KeeperHandle:
    """See `LeaseHandle`."""

    def __init__(self, client: KeeperClient, threads: ThreadPoolExecutor, attempt: str, token: str) -> None:
        self.attempt = attempt
        self._client = client
        self._threads = threads
        self._token = token
        self._over = False

    async def kill(self) -> None:
        """See `LeaseHandle.kill`."""
        await _ask(self._threads, lambda: self._client.kill(self._token))

    async def give_back(self, *, used: bool) -> None:
        """See `LeaseHandle.give_back`."""
        await self._end(lambda: self._client.give_back(self._token, used=used))

    async def condemn(self, reason: str) -> None:
        """See `LeaseHandle.condemn`."""
        await self._end(lambda: self._client.condemn(self._token, reason))

    async def _end(self, act: Callable[[], None]) -> None:
        if not self._over:
            await _ask(self._threads, act, refused=LeaseLostError)
            self._over = True


class KeeperLease(KeeperHandle):
    """See `Lease`."""

    caveat = ""

    def __init__(
        self,
        client: KeeperClient,
        threads: ThreadPoolExecutor,
        attempt: str,
        grant: protocol.LeaseGrant,
        access: Access,
    ) -> None:
        super().__init__(client, threads, attempt, grant.token)
        self.sandbox = grant.sandbox
        self.generation = grant.generation
        self.runtime = grant.runtime
        self.term = grant.term
        self.access = access

    async def renew(self) -> None:
        """See `Lease.renew`."""
        try:
            await _ask(self._threads, lambda: self._client.renew(self._token), refused=LeaseLostError)
        except LeaseLostError:
            self._over = True
            raise


def _facts(report: protocol.SandboxReport) -> SandboxFacts:
    return SandboxFacts(
        name=report.name,
        generation=report.generation,
        profile=report.profile,
        state=report.state,
        seconds_in_state=report.seconds_in_state,
        trust_key=report.trust_key,
        attempt=report.attempt,
        reason=report.reason,
    )


def _close_unwanted(asked: _Granted) -> None:
    """Close the connection of an answer that nobody waits for."""
    if not asked.cancelled() and not asked.exception():
        _, connection = asked.result()
        connection.close()


async def _ask(threads: ThreadPoolExecutor, act: Callable[[], _T], refused: type[LeaseError] = LeaseError) -> _T:
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, act)
    except KeeperRefused as error:
        raise refused(str(error)) from error
    except KeeperError as error:
        raise LeaseUnreachableError(str(error)) from error
