"""Before there is a job: a leased sandbox with a launcher that waits; and the sandbox's way back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from runner.errors import LeaseError, SandboxError
from runner.execution.cancellation import see_through
from runner.execution.heartbeat import Heartbeat
from runner.execution.lease import Lease, LeaseSource
from runner.execution.options import DEFAULTS, Note, Notes, Settings, no_notes
from runner.execution.session import Session
from runner.job import new_attempt_id

_logger = logging.getLogger(__name__)

#: Seconds that a source of leases may take beyond the wait that it was given.
_LEND_SLACK = 30.0


class Prepared:
    """A leased sandbox with a launcher that waits for a job. End it with `attempt.run` or `release`."""

    def __init__(self, lease: Lease, session: Session, heartbeat: Heartbeat, settings: Settings) -> None:
        """For `prepare` only."""
        self.lease = lease
        self.session = session
        self.heartbeat = heartbeat
        self.settings = settings

    @property
    def usable(self) -> bool:
        """Whether it can take a job, as far as is known."""
        return self.session.usable and not self.heartbeat.is_lost

    async def release(self) -> None:
        """Give the sandbox back unused, or condemn it when it broke while it waited. Never fails."""
        broken = None if self.usable else "The sandbox broke while it waited for a job."
        await see_through(self.hand_in(broken, used=False))

    async def hand_in(self, broken: str | None, *, used: bool) -> None:
        """End the session and the lease: give the sandbox back, or condemn it with the reason. Never fails.

        `used` as in `Lease.give_back`. Not to be cancelled.
        """
        await self.session.close()
        await _hand_in(self.lease, broken, self.settings, used=used)
        await self.heartbeat.stop()


async def prepare(
    leases: LeaseSource,
    profile: str,
    trust_key: str,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    new_attempt: Callable[[], str] = new_attempt_id,
) -> Prepared:
    """Lease a sandbox and have a launcher wait in it. A broken sandbox is condemned and another one tried.

    Each try is a new attempt with an id from `new_attempt`. Being cancelled leaves nothing leased.
    Errors: LeaseError when no sandbox is to be had; SandboxError when the last one tried was broken too.
    """
    for _ in range(settings.tries - 1):
        try:
            return await _prepare_once(leases, profile, trust_key, settings, notes, new_attempt())
        except SandboxError as error:
            notes(Note("retry", f"{error} Nothing of the job was sent; another sandbox is tried."))
    return await _prepare_once(leases, profile, trust_key, settings, notes, new_attempt())


async def _prepare_once(
    leases: LeaseSource, profile: str, trust_key: str, settings: Settings, notes: Notes, attempt: str
) -> Prepared:
    notes(Note("lending", f"Waiting for a sandbox of profile {profile}.", {"attempt": attempt}))
    try:
        async with asyncio.timeout(settings.lend_wait + _LEND_SLACK):
            lease = await leases.lend(attempt, profile, trust_key, settings.lend_wait)
    except TimeoutError:
        raise LeaseError(f"No answer came to the request for a sandbox within {settings.lend_wait:g} s.") from None
    heartbeat = Heartbeat(lease)
    try:
        session = await Session.open(lease.access, settings.open_deadline)
    except BaseException as error:
        # Cancelled is not broken: the sandbox only heard a login.
        broken = str(error) if isinstance(error, SandboxError) else None
        await see_through(_hand_in(lease, broken, settings, used=False))
        await heartbeat.stop()
        raise
    facts: dict[str, str | int] = {"sandbox": lease.sandbox, "generation": lease.generation, "runtime": lease.runtime}
    notes(Note("leased", f"Sandbox {lease.sandbox} (runtime {lease.runtime}) is ready.", facts))
    return Prepared(lease, session, heartbeat, settings)


async def _hand_in(lease: Lease, broken: str | None, settings: Settings, *, used: bool) -> None:
    if broken is None and await attempted("give back", lease.give_back(used=used), lease, settings.return_deadline):
        return
    reason = broken or "The sandbox could not be given back."
    await attempted("condemn", lease.condemn(reason), lease, settings.return_deadline)


async def attempted(what: str, call: Coroutine[Any, Any, None], lease: Lease, deadline: float) -> bool:
    """Do one thing with a lease within `deadline` seconds, and return whether it worked. Failure is logged."""
    try:
        async with asyncio.timeout(deadline):
            await call
    except Exception as error:  # whatever it is, the attempt comes to its end
        _logger.warning(
            "Sandbox %s, %s: %s",
            lease.sandbox,
            what,
            str(error) or f"no answer within {deadline:g} s",
            exc_info=None if isinstance(error, LeaseError | OSError) else error,
            extra={"action": "lease_call_failed", "call": what, "attempt": lease.attempt},
        )
        return False
    return True
