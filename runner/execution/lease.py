"""Leases: the right of one attempt to one sandbox. The contract between the runner and the maker of sandboxes."""

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
    """Connected to the sandbox's port 22. Code that opens a session owns the socket, and closes it also on failure."""
    user: str
    host_key: str
    """The only accepted host key, in the format of a `.pub` file."""
    client_key: str = field(repr=False)
    """An OpenSSH private key without passphrase."""


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """The facts that a source of leases tells of one sandbox. None of them is secret."""

    name: str
    generation: int
    """How often it was recreated or, if that is unknown, lent. Each number is another sandbox of the same name."""
    profile: str | None
    """The profile's name in the keeper's configuration; None without profiles."""
    state: str
    """The sandbox's state. A keeper knows more states than a register of addresses."""
    seconds_in_state: float | None
    """How long the sandbox has been in that state; None if unknown."""
    trust_key: str | None
    """The trust key whose leftovers may be in the sandbox; None while nobody used it."""
    attempt: str | None
    """The attempt that has leased the sandbox."""
    reason: str | None
    """Why the sandbox is not lent, if there is a reason."""


def new_token() -> str:
    """Return a secret that identifies an attempt's lease. It gives access to the sandbox."""
    return secrets.token_urlsafe(24)


class LeaseSource(Protocol):
    """Lends sandboxes.

    The course of an attempt: `lend`, then `renew` at least once per term and `resume` after every loss of the way in,
    then exactly one of `give_back` and `condemn`; `kill` any number of times before that. A caller that cannot resume
    the lease ends it by its `handle`. Calls for different attempts may run at the same time.
    """

    async def profiles(self) -> Profiles:
        """Return the labels of each profile that `lend` knows, in the order in which they are tried.

        Errors: LeaseUnreachableError when nobody answers now; LeaseError when this source does not know.
        """
        ...

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        """Return a sandbox for this attempt. Its SSH server has been seen to answer.

        The caller chooses the token (`new_token`), and can store it before there is a lease. Idempotent by attempt: a
        second call for the same attempt with the same token returns the same lease with a fresh connection, or the
        error that ended it. Waits up to `wait` seconds for a sandbox to become free. `patience` is the number of
        seconds beyond its term for which a lease that is not renewed can be resumed. A cancellation withdraws the
        request: if a lease is granted nevertheless, the source must return it, not the caller.

        Errors: LeaseError when no sandbox is available; the message says why and what to do.
        """
        ...

    async def resume(self, attempt: str, token: str) -> Lease:
        """Return the lease of an attempt again, with a full new term and a fresh way in.

        Errors: LeaseLostError when it is over for good; LeaseError when that could not be done now (try again): then it
        gets no new term.
        """
        ...

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        """Return a handle that ends an attempt's lease, whether or not its sandbox answers. Sends no request yet."""
        ...


class LeaseHandle(Protocol):
    """The calls that need only a lease's token. Every call limits its own time."""

    @property
    def attempt(self) -> str:
        """The attempt that has the lease."""
        ...

    async def kill(self) -> None:
        """End every process in the sandbox that was not there when it became ready, and verify that from outside.

        Idempotent. Also ends the session to the sandbox. Errors: LeaseError when a process may be left.
        """
        ...

    async def give_back(self, *, used: bool) -> None:
        """Return the sandbox. The source inspects and cleans it, in its own time.

        `used` is False only when certainly nothing of a job was sent to it. Idempotent, and without effect after
        `condemn`. Errors: LeaseLostError when the lease was taken away before, or never existed; LeaseError, after
        which the source notices the end when the term is over.
        """
        ...

    async def condemn(self, reason: str) -> None:
        """Return the sandbox as broken, so that it is never lent again. `reason` is a sentence; the source keeps it.

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
        """The number that fences the lease: a recreated sandbox has a higher one."""
        ...

    @property
    def runtime(self) -> str:
        """The container runtime that the sandbox runs under, for people."""
        ...

    @property
    def caveat(self) -> str:
        """Sentences for people on what the source cannot do for a job here; empty if nothing is missing."""
        ...

    @property
    def access(self) -> Access:
        """The way into the sandbox, for one session."""
        ...

    @property
    def term(self) -> float:
        """Seconds after a renewal for which the lease needs no other renewal."""
        ...

    async def renew(self) -> None:
        """Start a new term.

        Errors: LeaseError when the source could not be asked (the caller tries again); LeaseLostError when the lease is
        gone for good.
        """
        ...
