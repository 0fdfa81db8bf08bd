"""Prepares a leased sandbox with a waiting launcher before there is a job, and returns an unused one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from runner.errors import LeaseError, LeaseUnreachableError, SandboxError
from runner.execution.cancellation import see_through
from runner.execution.held import PAUSE, Held
from runner.execution.lease import Lease, LeaseSource, new_token
from runner.execution.marker import Marker, Moment
from runner.execution.options import DEFAULTS, Note, Notes, Settings, no_notes
from runner.execution.overdue_leases import hand_in_later
from runner.execution.session import Session
from runner.job import DEFAULT_PROFILE, new_attempt_id
from runner.logs import Action
from runner.placement import Wanted, choose

LEND_SLACK: Final = 30.0
"""Seconds that a source of leases may take beyond the given wait."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Prepared:
    """A leased sandbox with a launcher that waits for a job. End it with `attempt.run` or `release`."""

    leases: LeaseSource
    held: Held
    session: Session
    settings: Settings
    token: str = field(repr=False)
    profile: str
    trust_key: str

    @property
    def sentence(self) -> str:
        """The prepared sandbox, as a sentence for people."""
        lease = self.held.lease
        return f"Sandbox {lease.sandbox} (runtime {lease.runtime}) is ready."

    @property
    def usable(self) -> bool:
        """Whether the sandbox can take a job, as far as is known."""
        return self.session.usable and not self.held.heartbeat.is_lost

    def marker(self, timeout: float | None, log_limit: int) -> Marker:
        """Return the marker for a job that is about to be sent."""
        lease = self.held.lease
        return Marker(
            attempt=lease.attempt,
            token=self.token,
            profile=self.profile,
            trust_key=self.trust_key,
            sandbox=lease.sandbox,
            generation=lease.generation,
            boot_id=self.session.hello.boot_id,
            timeout=timeout,
            started=Moment.now(),
            log_limit=log_limit,
            workspace=self.settings.workspace,
            attempts=self.settings.attempts,
        )

    async def release(self, *, used: bool = False) -> None:
        """Give the sandbox back, or condemn it if it broke while it waited. Never fails.

        `used`: whether something of a job is in it.
        """
        broken = None if self.usable else "The sandbox broke while it waited for a job."
        await see_through(self._release(broken, used=used))

    async def _release(self, broken: str | None, *, used: bool) -> None:
        await self.session.close()
        await self.held.hand_in(broken, used=used)


async def prepare(
    leases: LeaseSource,
    wanted: Wanted,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    new_attempt: Callable[[], str] = new_attempt_id,
) -> Prepared:
    """Lease a sandbox and start a launcher in it. A broken sandbox is condemned, and another one tried.

    Each try is a new attempt with an id from `new_attempt` and a token of its own. A cancellation leaves
    no lease.
    Errors: BadJobError when no profile suits; LeaseError when no sandbox is available; SandboxError when the last
    sandbox tried was broken too.
    """

    async def once() -> Prepared:
        attempt, token = new_attempt(), new_token()
        # Chosen at each start: the profiles may have changed while the job waited.
        profile = await _insist(lambda: profile_for(leases, wanted), settings, notes)
        notes(Note(Action.LENDING, f"Waiting for a sandbox of profile {profile}."))
        try:
            lease = await _insist(
                lambda: _lend(leases, attempt, token, profile, wanted.trust_key, settings), settings, notes
            )
        except BaseException:
            if settings.patience:  # a lease whose answer was lost would be kept that long
                hand_in_later(leases.handle(attempt, token), None, used=False)
            raise
        held = Held(lease, settings)
        session = await _open(held, settings)
        prepared = Prepared(leases, held, session, settings, token, profile, wanted.trust_key)
        notes(Note(Action.LEASED, prepared.sentence))
        if lease.caveat:
            notes(Note(Action.CAVEAT, lease.caveat))
        return prepared

    for _ in range(settings.tries - 1):
        try:
            return await once()
        except SandboxError as error:
            notes(Note(Action.RETRY, f"{error} Nothing of the job was sent; another sandbox is tried."))
    return await once()


async def profile_for(leases: LeaseSource, wanted: Wanted) -> str:
    """Ask which profiles there are, and choose one. Errors: BadJobError when none suits; LeaseUnreachableError."""
    try:
        there = await leases.profiles()
    except LeaseUnreachableError:
        raise
    except LeaseError:  # a keeper of an earlier release tells no profiles: only the runner's own labels count
        there = {wanted.profile or DEFAULT_PROFILE: frozenset[str]()}
    return choose(wanted, there)


async def _insist(ask: Callable[[], Awaitable[_T]], settings: Settings, notes: Notes) -> _T:
    """Ask a source of leases, and repeat that while nobody answers. Errors: LeaseError."""
    loop = asyncio.get_running_loop()
    deadline, told = math.inf, ""
    while True:
        try:
            return await ask()
        except LeaseUnreachableError as error:
            deadline = min(deadline, loop.time() + settings.source_deadline)
            if loop.time() >= deadline:
                raise
            if told != (told := str(error)):
                notes(Note(Action.UNAVAILABLE, f"{told} It is asked again."))
        await asyncio.sleep(PAUSE)


async def _lend(
    leases: LeaseSource, attempt: str, token: str, profile: str, trust_key: str, settings: Settings
) -> Lease:
    """Request a lease. A source that restarted gives the same lease to the same request."""
    try:
        async with asyncio.timeout(settings.lend_wait + LEND_SLACK):
            return await leases.lend(attempt, token, profile, trust_key, settings.lend_wait, settings.patience)
    except TimeoutError:
        raise LeaseError(f"No answer came to the request for a sandbox within {settings.lend_wait:g} s.") from None


async def _open(held: Held, settings: Settings) -> Session:
    try:
        return await Session.open(held.lease.access, settings)
    except BaseException as error:
        # A cancellation does not make the sandbox broken: it only saw a login.
        broken = str(error) if isinstance(error, SandboxError) else None
        await see_through(held.hand_in(broken, used=False))
        raise
