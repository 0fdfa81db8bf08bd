"""Leases: the right of one attempt to one sandbox. The contract between the runner and whoever makes sandboxes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from socket import socket
from typing import Protocol

from runner.placement import Profiles


@dataclass(frozen=True, slots=True)
class Access:
    """The way into a sandbox's SSH server."""

    socket: socket
    """Connected to the sandbox's port 22. Who opens a session with it owns it, and closes it also on failure."""
    user: str
    host_key: str
    """The only host key that is accepted, in the format of a `.pub` file."""
    client_key: str = field(repr=False)
    """An OpenSSH private key without passphrase."""


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """What a source of leases tells of one sandbox. Nothing of it is secret."""

    name: str
    generation: int
    """How often it was recreated, or lent where nobody can tell: the same name with another number is another one."""
    profile: str | None
    """As the keeper's configuration names it; None where there are no profiles."""
    state: str
    """Where it is in its life. A keeper has more words for this than a register of addresses."""
    seconds_in_state: float | None
    """How long it has been so; None where nobody can tell."""
    trust_key: str | None
    """Whose leftovers may be in it; None while nobody used it."""
    attempt: str | None
    """Which attempt has it leased."""
    reason: str | None
    """Why it is not lent, as far as there is something to say."""


def new_token() -> str:
    """Return the secret by which an attempt's lease is known. Whoever has it has the sandbox."""
    return secrets.token_urlsafe(24)


class LeaseSource(Protocol):
    """Lends sandboxes.

    The course of an attempt: `lend`, then `renew` at least once per term and `resume` after every loss of the way in,
    then exactly one of `give_back` and `condemn`; `kill` any number of times before that. Whoever cannot have the lease
    back ends it by its `handle`. Calls for different attempts may run at the same time.
    """

    async def profiles(self) -> Profiles:
        """Return the labels of each profile that `lend` knows, in the order in which they are tried.

        Errors: LeaseUnreachableError when nobody answers now; LeaseError when this source does not tell.
        """
        ...

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        """Return a sandbox for this attempt, with an SSH server that was seen to answer.

        The token (`new_token`) is chosen by the caller, who can keep it before there is a lease. Idempotent by attempt:
        asking again for the same attempt with the same token returns the same lease with a fresh connection, or the
        error it ended with. Waits up to `wait` seconds for a sandbox to become free. `patience` is how many seconds
        beyond its term a lease that is not renewed is kept to be resumed. Being cancelled gives the request up: a lease
        that is granted all the same must be returned by the source, not by the caller.

        Errors: LeaseError when there is no sandbox to be had; the message says why and what to do.
        """
        ...

    async def resume(self, attempt: str, token: str) -> Lease:
        """Return the lease of an attempt again, with a full new term and a fresh way in.

        Errors: LeaseLostError when it is over for good; LeaseError when that could not be done now (try again): it has
        no new term then.
        """
        ...

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        """Return what ends the lease of an attempt, whether its sandbox answers or not. Asks nobody yet."""
        ...


class LeaseHandle(Protocol):
    """What can be done about a lease by its token alone. Every call has a deadline of its own inside."""

    @property
    def attempt(self) -> str:
        """The attempt that the lease is for."""
        ...

    async def kill(self) -> None:
        """End every process in the sandbox that was not there when it became ready, and verify that from outside.

        Idempotent. The session to the sandbox does not survive it. Errors: LeaseError when something may be left.
        """
        ...

    async def give_back(self, *, used: bool) -> None:
        """Return the sandbox. What the job left is inspected and cleaned by the source, in its own time.

        `used` is False only when certainly nothing of a job was sent to it. Idempotent, and without effect after
        `condemn`. Errors: LeaseLostError when it was taken away before, or never was; LeaseError, the source then
        finds out by the term.
        """
        ...

    async def condemn(self, reason: str) -> None:
        """Return the sandbox as broken: it is never lent again. `reason` is a sentence and is kept.

        Idempotent, and may follow a failed `give_back`. Errors: as for `give_back`.
        """
        ...


class Lease(LeaseHandle, Protocol):
    """One sandbox, for one attempt."""

    @property
    def sandbox(self) -> str:
        """The sandbox's name, for people."""
        ...

    @property
    def generation(self) -> int:
        """Fences the lease: a recreated sandbox has a higher one."""
        ...

    @property
    def runtime(self) -> str:
        """The container runtime that the sandbox runs under, for people."""
        ...

    @property
    def caveat(self) -> str:
        """What the source cannot do for a job here, as sentences for people; empty when there is nothing to say."""
        ...

    @property
    def access(self) -> Access:
        """The way in, good for one session."""
        ...

    @property
    def term(self) -> float:
        """Seconds after a renewal in which the lease is safe without another."""
        ...

    async def renew(self) -> None:
        """Start a new term.

        Errors: LeaseError when it could not be asked for (the caller tries again); LeaseLostError when the lease is
        gone for good.
        """
        ...
