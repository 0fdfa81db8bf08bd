"""Leases from the keeper, over its unix socket. The one place where the runner speaks with the keeper."""

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
from runner.execution.late import Late
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
"""Requests for a sandbox that may wait at once, and calls about one: more than any runner has slots."""
_ASKING = 4
"""Questions that wait at once for a keeper that hangs: no more of them, on threads of their own."""
ASKED_DEADLINE = 5.0
"""Seconds for the keeper to tell what it measures, and which sandboxes there are: somebody waits for the answer."""

_T = TypeVar("_T")
_Granted: TypeAlias = asyncio.Future[tuple[protocol.LeaseGrant, socket]]


@dataclass(frozen=True, slots=True)
class KeeperState:
    """How the keeper says it is."""

    host: HostState
    trouble: str
    """Its own sentence about what fails, and whether sandboxes are still made; empty when nothing is wrong."""
    ready: Mapping[str, int]
    made: Mapping[str, int]
    """Sandboxes of each profile that are ready, and all that there are."""


def look_at(socket: Path) -> KeeperState:
    """Ask a keeper how it is; blocks for as long as it takes to answer. Errors: LeaseUnreachableError."""
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
        # A request waits for minutes, and a keeper that hangs holds up every call: on the threads that all else shares,
        # six of them would take all. So requests take none of the renewals' threads, and neither takes the disk's.
        self._lending = ThreadPoolExecutor(_LEASES, thread_name_prefix="lend")
        self._holding = ThreadPoolExecutor(_LEASES, thread_name_prefix="lease")
        self._asking = ThreadPoolExecutor(_ASKING, thread_name_prefix="ask")
        self._late = Late()

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
            withdrawal.withdraw()  # a thread that waits on would hold up this process's end as well
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

    async def ready(self, profile: str) -> int:
        """How many sandboxes of a profile are ready and not leased. Errors: LeaseError."""
        listing = await _ask(self._holding, self._client.listing)
        return sum(sandbox.state is State.READY and sandbox.profile == profile for sandbox in listing.sandboxes)

    async def sandboxes(self) -> list[SandboxFacts]:
        """Every sandbox of the keeper, whoever has it. Errors: LeaseError."""
        listing = await _ask(self._asking, lambda: self._client.listing(ASKED_DEADLINE))
        return [_facts(sandbox) for sandbox in listing.sandboxes]

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`; the order is that of the keeper's file."""
        offered = await _ask(self._asking, lambda: self._client.profiles(ASKED_DEADLINE))
        return {name: frozenset(labels) for name, labels in offered.items()}

    async def metrics(self) -> str:
        """What the keeper measures, in Prometheus's text format. Errors: LeaseError."""
        return await _ask(self._asking, lambda: self._client.metrics(ASKED_DEADLINE))

    def _lease(self, attempt: str, granted: tuple[protocol.LeaseGrant, socket]) -> "KeeperLease":
        grant, connection = granted
        access = Access(connection, grant.user, grant.host_key, grant.client_key)
        return KeeperLease(self._client, self._holding, attempt, grant, access, self._late)

    async def _return_unwanted(self, asked: "_Granted") -> None:
        """Nobody waits for this lease any more. If even this fails, the keeper takes it back after its term."""
        with suppress(LeaseError):
            grant, connection = await asked
            connection.close()
            await _ask(self._holding, lambda: self._client.give_back(grant.token, used=False))


class KeeperLease:
    """See `Lease`."""

    caveat = ""

    def __init__(
        self,
        client: KeeperClient,
        threads: ThreadPoolExecutor,
        attempt: str,
        grant: protocol.LeaseGrant,
        access: Access,
        late: Late,
    ) -> None:
        self.attempt = attempt
        self.sandbox = grant.sandbox
        self.generation = grant.generation
        self.runtime = grant.runtime
        self.term = grant.term
        self.access = access
        self._client = client
        self._threads = threads
        self._token = grant.token
        self._late = late
        self._over = False

    async def renew(self) -> None:
        """See `Lease.renew`."""
        try:
            await _ask(self._threads, lambda: self._client.renew(self._token), refused=LeaseLostError)
        except LeaseLostError:
            self._over = True
            raise

    async def kill(self) -> None:
        """See `Lease.kill`."""
        await _ask(self._threads, lambda: self._client.kill(self._token))

    async def give_back(self, *, used: bool) -> None:
        """See `Lease.give_back`."""
        await self._end(lambda: self._client.give_back(self._token, used=used))

    async def condemn(self, reason: str) -> None:
        """See `Lease.condemn`."""
        await self._end(lambda: self._client.condemn(self._token, reason))

    def hand_in_later(self, broken: str | None, *, used: bool) -> None:
        """See `Lease.hand_in_later`."""
        self._late.hand_in(self, broken, used=used)

    async def _end(self, act: Callable[[], None]) -> None:
        if not self._over:
            await _ask(self._threads, act, refused=LeaseLostError)
            self._over = True


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
