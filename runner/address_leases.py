"""Leases of sandboxes that someone else started, given by address, host key and login key. Needs no Docker.

This module does from inside the sandbox, as far as possible, what a keeper does from outside. In doubt it takes a
sandbox for broken: it condemns the sandbox, and does not lend it again until somebody recreates it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runner.addresses import ssh
from runner.addresses.address import Address
from runner.addresses.record import TERM, Lent, Record
from runner.addresses.register import Entry, Register
from runner.errors import InputError, LeaseError, LeaseLostError, LeaseUnreachableError, SandboxError
from runner.execution.cancellation import see_through
from runner.execution.lease import Access, SandboxFacts
from runner.job import DEFAULT_PROFILE
from runner.logs import Action, Events
from runner.placement import ONLY_DEFAULT, Profiles

_events = Events(__name__)

POLL: Final = 0.5
"""Seconds between two looks for sandboxes that other runners on this host have returned."""
REST: Final = 10.0
"""Seconds until a sandbox that could not be reached is tried again."""

CAVEAT: Final = (
    "Someone else started this sandbox: it cannot be recreated, nor looked at or ended from outside. What the job "
    "leaves running is ended from inside, which a job that became root can prevent; the files that it leaves are there "
    "for the next job of its trust key."
)

_OVER: Final = "The lease is over: none of the addresses is lent to this attempt any more."


class _Refused(Exception):
    """This sandbox cannot be lent; the text is the rest of a sentence."""


class _Busy(_Refused):
    """The sandbox is busy, and will be free some time."""


class _Unreachable(_Refused):
    """The sandbox does not answer now, but may some time."""


class AddressLeases:
    """The `LeaseSource` of a runner without a keeper."""

    def __init__(
        self, addresses: Sequence[Address], host_keys: Sequence[str], client_key: str, folder: Path, attempts: str
    ) -> None:
        """Take one host key for each address, and the folder for the records of the sandboxes.

        `attempts` is as in `Settings`. Errors: InputError.
        """
        _check_apart(addresses, host_keys)
        register = Register(folder)
        pairs = zip(addresses, host_keys, strict=True)
        self._places = [_Place(address, key, client_key, attempts, register.entry(key)) for address, key in pairs]

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`."""
        return ONLY_DEFAULT

    async def lend(
        self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float
    ) -> AddressLease:
        """See `LeaseSource.lend`."""
        if profile != DEFAULT_PROFILE:
            raise LeaseError(
                f"There is no profile {profile} here: profiles are a keeper's, and these sandboxes are what someone "
                "made them. Leave the profile out."
            )
        deadline = _now() + wait
        while True:
            refusals = []
            for place in await self._in_order(trust_key):
                try:
                    return await place.lend(attempt, token, trust_key, patience)
                except _Refused as refusal:
                    refusals.append((place, refusal))
            if not any(isinstance(refusal, _Busy) for _, refusal in refusals) or _now() >= deadline:
                kind = LeaseUnreachableError if _may_pass(refusals) else LeaseError
                raise kind(" ".join(f"{place.address} {str(refusal).rstrip('.')}." for place, refusal in refusals))
            await asyncio.sleep(min(POLL, max(0.0, deadline - _now())))

    async def resume(self, attempt: str, token: str) -> AddressLease:
        """See `LeaseSource.resume`."""
        for place in self._places:
            if (lease := await place.resume(attempt, token)) is not None:
                return lease
        raise LeaseLostError(_OVER)

    def handle(self, attempt: str, token: str) -> AddressHandle:
        """See `LeaseSource.handle`."""
        return AddressHandle(self._places, attempt, token)

    async def sandboxes(self) -> list[SandboxFacts]:
        """Return the facts of every address from the records, without asking the sandboxes. Errors: LeaseError."""
        return [place.facts(await place.record()) for place in self._places]

    async def _in_order(self, trust_key: str) -> list[_Place]:
        """Return the places that served the trust key before, then the others: fresh ones stay free for other keys."""
        served = {place: (await place.record()).trust_key == trust_key for place in self._places}
        return sorted(self._places, key=lambda place: not served[place])


def _check_apart(addresses: Sequence[Address], host_keys: Sequence[str]) -> None:
    """Check that no two addresses are one sandbox: two jobs must not meet in it. Errors: InputError."""
    found: dict[str, Address] = {}
    for address, key in zip(addresses, host_keys, strict=True):
        if (other := found.setdefault(key, address)) is not address:
            raise InputError(
                f"{other} and {address} have the same host key, so they are the same sandbox, or copies that cannot be "
                "told apart. Name it once; give copies host keys of their own."
            )


def _may_pass(refusals: Sequence[tuple[_Place, _Refused]]) -> bool:
    return any(isinstance(refusal, _Unreachable) for _, refusal in refusals)


@dataclass(eq=False)
class _Place:
    """One sandbox. At most one task at a time changes its record."""

    address: Address
    host_key: str
    client_key: str = field(repr=False)
    attempts: str
    entry: Entry
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _resting: tuple[float, str] = (0.0, "")

    async def record(self) -> Record:
        """Read the sandbox's record. Errors: LeaseError."""
        return await asyncio.to_thread(self.entry.read)

    async def write(self, record: Record) -> None:
        """Write the record to disk, even if the caller is cancelled. Errors: LeaseError."""
        await see_through(asyncio.to_thread(self.entry.write, record))

    async def lend(self, attempt: str, token: str, trust_key: str, patience: float) -> AddressLease:
        """Lend the sandbox, or return the attempt's lease again. Raises `_Refused` if the sandbox cannot be lent."""
        async with self._turn:
            record = await self.record()
            if attempt in record.ended:
                raise LeaseError("The lease of this attempt is over.")
            if record.lent and record.lent.attempt == attempt:
                if (record.lent.token, record.trust_key) != (token, trust_key):
                    raise LeaseError("That attempt has a sandbox already, and not by this request.")
                return await self._again(record.lent, record)
            return await self._holding(lambda: self._lend(attempt, token, trust_key, patience))

    async def resume(self, attempt: str, token: str) -> AddressLease | None:
        """Return the attempt's lease with a new term; None if it has no lease here. Errors: LeaseError."""
        async with self._turn:
            record = await self.record()
            lent = record.lent_to(attempt, token)
            return await self._again(lent, record) if lent else None

    def facts(self, record: Record) -> SandboxFacts:
        """Return the facts about the sandbox."""
        resting = self._resting[1] if _now() < self._resting[0] and record.state == "ready" else ""
        return SandboxFacts(
            name=str(self.address),
            generation=record.generation,
            profile=None,
            state="unreachable" if resting else record.state,
            seconds_in_state=None,
            trust_key=record.trust_key,
            attempt=record.lent.attempt if record.lent else None,
            reason=record.condemned or resting or None,
        )

    async def access(self) -> Access:
        """Open a fresh way into the sandbox. Errors: ConnectError."""
        return Access(await ssh.dial(self.address), self.address.user, self.host_key, self.client_key)

    async def renew(self, attempt: str, token: str) -> None:
        """See `Lease.renew`."""

        async def renewed(record: Record, _: Lent) -> Record:
            return record.renew()

        await self._changed(attempt, token, renewed, over=False)

    async def kill(self, attempt: str, token: str) -> None:
        """End the job's processes from inside, over a separate session. See `LeaseHandle.kill`."""

        async def ended(record: Record, lent: Lent) -> Record:
            try:
                await ssh.sweep(await self.access(), lent.before, ())
            except SandboxError as error:
                raise LeaseError(f"What the job started may still run. {error}") from error
            return record.renew()

        await self._changed(attempt, token, ended, over=False)

    async def give_back(self, attempt: str, token: str, *, used: bool) -> None:
        """See `LeaseHandle.give_back`. Condemns the sandbox unless it is certain that no process of the job runs.

        While the sandbox cannot be reached at all, the lease stays, and LeaseUnreachableError is raised.
        """

        async def ended(record: Record, lent: Lent) -> Record:
            if not used:
                return record.end(used=False)
            try:
                access = await self.access()
            except SandboxError as error:
                raise self._unreachable(error) from error
            try:
                await self._clean(access, lent)
            except SandboxError as error:
                return self._condemned(record, str(error))
            return record.end(used=True)

        await self._changed(attempt, token, ended, over=True)

    async def condemn(self, attempt: str, token: str, reason: str) -> None:
        """See `LeaseHandle.condemn`."""

        async def condemned(record: Record, _: Lent) -> Record:
            return self._condemned(record, reason)

        await self._changed(attempt, token, condemned, over=True)

    async def _changed(
        self, attempt: str, token: str, move: Callable[[Record, Lent], Coroutine[Any, Any, Record]], *, over: bool
    ) -> None:
        """Change the record while the lease exists. `over`: release the lock then. Errors: LeaseError."""
        async with self._turn:
            keep = not self._take_lock()
            try:
                record = await self.record()
                if not (lent := record.lent_to(attempt, token)):
                    raise LeaseLostError(f"The lease of {self.address} is over.")
                changed = await move(record, lent)
                keep = not over  # the next owner of the lock notices a failed write
                await self.write(changed)
            finally:
                if not keep:
                    self.entry.unlock()

    def _take_lock(self) -> bool:
        """Take the lock unless it is ours, and return whether it was not. Errors: LeaseError."""
        if self.entry.is_ours:
            return False
        if not self.entry.lock():
            raise LeaseError(f"Another process of this host is at {self.address}.")
        return True

    async def _clean(self, access: Access, lent: Lent) -> None:
        """End the job's leftover processes, check that they ended, and remove its folder. Errors: SandboxError."""
        await ssh.sweep(access, lent.before, (f"{self.attempts}/{lent.attempt}",))

    def _condemned(self, record: Record, reason: str) -> Record:
        """Return the condemned record, and log the reason and the remedy."""
        what = f"condemned and not lent again: {reason} {self._remedy}"
        _events.warning(Action.CONDEMNED, what, sandbox=str(self.address))
        return record.condemn(reason)

    def _unreachable(self, error: SandboxError) -> LeaseUnreachableError:
        return LeaseUnreachableError(f"There is no way into {self.address} now. {error}")

    async def _holding(self, act: Callable[[], Coroutine[Any, Any, AddressLease]]) -> AddressLease:
        """Call `act` with the lock, and keep the lock only if `act` returns a lease."""
        if not self.entry.lock():  # not on a thread: a cancelled caller would not know that it holds the lock
            raise _Busy("is busy")
        try:
            return await act()
        except BaseException:
            self.entry.unlock()
            raise

    async def _again(self, lent: Lent, record: Record) -> AddressLease:
        """Return the existing lease to the owner of its token."""
        fresh, access = self._take_lock(), None
        try:
            access = await self.access()
            await self.write(record.renew())
        except BaseException as error:
            if access:
                access.socket.close()
            if fresh:
                self.entry.unlock()
            if isinstance(error, SandboxError):
                raise self._unreachable(error) from error
            raise
        return AddressLease(self, lent, record.generation, access)

    async def _lend(self, attempt: str, token: str, trust_key: str, patience: float) -> AddressLease:
        record = await self.record()  # again: the lock's last owner may have changed it
        if refusal := record.refusal(trust_key):
            raise _Refused(f"{refusal.rstrip('.')}. {self._remedy}")
        if record.lent:
            record = await self._after_another(record, record.lent)
        if _now() < self._resting[0]:
            raise _Unreachable(self._resting[1])
        try:
            before = await ssh.look(await self.access())
            access = await self.access()
        except SandboxError as error:
            said = f"is not fit for a job now: {str(error).rstrip('.')}"
            self._resting = (_now() + REST, said)
            raise _Unreachable(said) from error
        lent = record.lend(attempt, token, trust_key, patience, before)
        try:
            await self.write(lent)
        except BaseException as error:
            access.socket.close()
            if isinstance(error, asyncio.CancelledError):  # the record is written by now
                await see_through(self.write(lent.end(used=False)))
            raise
        assert lent.lent
        return AddressLease(self, lent.lent, lent.generation, access)

    async def _after_another(self, record: Record, lent: Lent) -> Record:
        """Take over from a runner that is gone, once the time that its lease is kept is over."""
        if lent.renewed.is_of_another_boot:  # nobody knows how long ago: the lease gets its full time again
            await self.write(record.renew())
        if lent.renewed.is_of_another_boot or not lent.is_over:
            raise _Busy("is kept for a job whose runner is not heard of")
        try:
            await self._clean(await self.access(), lent)
        except SandboxError as error:
            reason = f"A runner that is gone left a job in it. {error}"
            await self.write(self._condemned(record, reason))
            raise _Refused(f"was condemned: {reason} {self._remedy}") from error
        ended = record.end(used=True)
        await self.write(ended)
        return ended

    @property
    def _remedy(self) -> str:
        return (
            "Recreate it with a new host key and put that into known_hosts; where it was made anew and kept its key, "
            f"remove {self.entry.path}."
        )


class AddressHandle:
    """See `LeaseHandle`."""

    def __init__(self, places: Sequence[_Place], attempt: str, token: str) -> None:
        """Take the places, one of which has the lease."""
        self.attempt = attempt
        self._places = places
        self._token = token
        self._over = False

    async def kill(self) -> None:
        """See `LeaseHandle.kill`."""
        await (await self._place()).kill(self.attempt, self._token)

    async def give_back(self, *, used: bool) -> None:
        """See `LeaseHandle.give_back`."""
        if not self._over:
            await (await self._place()).give_back(self.attempt, self._token, used=used)
            self._over = True

    async def condemn(self, reason: str) -> None:
        """See `LeaseHandle.condemn`."""
        if not self._over:
            await (await self._place()).condemn(self.attempt, self._token, reason)
            self._over = True

    async def _place(self) -> _Place:
        for place in self._places:
            if (await place.record()).lent_to(self.attempt, self._token):
                return place
        raise LeaseLostError(_OVER)


class AddressLease(AddressHandle):
    """See `Lease`."""

    runtime = "not known"
    term = TERM
    caveat = CAVEAT

    def __init__(self, place: _Place, lent: Lent, generation: int, access: Access) -> None:
        super().__init__([place], lent.attempt, lent.token)
        self.sandbox = str(place.address)
        self.generation = generation
        self.access = access

    async def renew(self) -> None:
        """See `Lease.renew`."""
        await (await self._place()).renew(self.attempt, self._token)


def _now() -> float:
    return asyncio.get_running_loop().time()
