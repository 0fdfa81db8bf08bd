"""One job's hold on its sandbox: a lease and a session that last from stage to stage.

Each stage is its own attempt, which starts at most once and is found again after a lost connection or a restart of the
runner. All these attempts are on one lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from runner.errors import AttemptLostError, ConnectError, LeaseError, LeaseLostError, RunnerError
from runner.execution import wire
from runner.execution.cancellation import Cancellation
from runner.execution.flight import Flight, first, sentence, stop
from runner.execution.held import PAUSE, Held
from runner.execution.lease import Lease, LeaseHandle, LeaseSource
from runner.execution.log import Log
from runner.execution.marker import Marker, Moment
from runner.execution.options import Note, Settings
from runner.execution.prepare import Prepared, prepare
from runner.execution.pursuit import Pursuit
from runner.execution.session import Session
from runner.job import Job
from runner.outcome import Cancelled, Outcome, RunnerStopped, SandboxLost, SetupFailed, TimedOut
from runner.placement import Profiles, Wanted

KILL_REPORT: Final = 10.0
"""Seconds for the supervisor to end the processes that a stage left, and to report that."""
WAY_BACK: Final = 10.0
"""Seconds to get a connection to the sandbox when a stage has to be ended and there is none."""

QUICK: Final = 0.3
"""Seconds until the keeper is asked whether the sandbox still exists: SSH would wait much longer for an answer."""

OnAsk = Callable[[str, str], None]
"""Gets the attempt and the token of a lease before the lease is requested. Raises RunnerError."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One stage as an attempt."""

    id: str
    log: Log
    cancellation: Cancellation
    notes: Callable[[Note], None]


class Tenancy:
    """The hold on a sandbox from `take`, `adopt` or `regain` to `end` or `leave`."""

    def __init__(self, leases: LeaseSource, settings: Settings) -> None:
        self._leases = _OneLease(leases)
        self._settings = settings
        self._boot_id = ""
        self._held: Held | None = None
        self._session: Session | None = None

    @property
    def held(self) -> bool:
        """Return whether there is a lease."""
        return self._held is not None

    async def take(self, wanted: Wanted, on_ask: OnAsk, notes: Callable[[Note], None]) -> None:
        """Lease a sandbox with a launcher waiting in it. A cancellation leaves nothing leased.

        Errors: BadJobError when there is no such profile; LeaseError; SandboxError.
        """
        self._leases.on_ask = on_ask
        prepared = await prepare(self._leases, wanted, settings=self._settings, notes=notes)
        self._held, self._session = prepared.held, prepared.session
        self._know(prepared.session)
        prepared.held.heartbeat.beat()

    async def adopt(self, prepared: Prepared, on_ask: OnAsk) -> None:
        """Take the sandbox that was prepared in advance. On failure, the sandbox is given back.

        The keeper is asked whether the sandbox still exists: the session would notice only seconds later.
        Errors: LeaseLostError; what `on_ask` raises.
        """
        lease = prepared.held.lease
        try:
            await _prove(lease)
            on_ask(lease.attempt, prepared.token)
        except BaseException:
            await prepared.release()
            raise
        self._leases.attempt, self._leases.token = lease.attempt, prepared.token
        self._held, self._session = prepared.held, prepared.session
        self._know(prepared.session)

    async def regain(self, attempt: str, token: str) -> None:
        """Take up the lease of an earlier life. Errors: LeaseLostError; LeaseError (try again)."""
        self._leases.attempt, self._leases.token = attempt, token
        lease = await self._leases.resume(attempt, token)
        self._held = Held(lease, self._settings)
        try:
            self._session = await Session.open(lease.access, self._settings)
        except RunnerError:
            return  # a stage opens a session when it needs one, and reports the error then
        self._know(self._session)

    async def launch(self, attempt: Attempt, job: Job, on_start: Callable[[Marker], None]) -> Outcome:
        """Run a script to its outcome, at most once. `on_start` notes the marker before the first byte is sent."""
        assert self._held
        try:
            session = await self._ready()
        except RunnerError as error:
            return SandboxLost(sentence(error))
        marker = self._marker(attempt, job.timeout)
        try:
            on_start(marker)
        except RunnerError as error:
            self._session = session
            return SetupFailed(sentence(error))
        pursuit = Pursuit(self._leases, marker, attempt.log, self._settings, attempt.notes, session)
        return await self._fly(self._held, pursuit, attempt, pursuit.launch(job))

    async def follow(self, attempt: Attempt, marker: Marker) -> Outcome:
        """Follow a script of an earlier life to its outcome."""
        assert self._held
        await self._close()
        pursuit = Pursuit(self._leases, marker, attempt.log, self._settings, attempt.notes, None)
        return await self._fly(self._held, pursuit, attempt, pursuit.follow())

    async def session(self) -> Session:
        """Return the session for use between two stages. It still belongs to the tenancy. Errors: RunnerError."""
        self._session = await self._ready()
        return self._session

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the keeper whether the sandbox still exists, if the block takes longer: see `wait_lost`."""
        assert self._held
        question = asyncio.get_running_loop().call_later(QUICK, self._held.heartbeat.beat)
        try:
            yield
        finally:
            question.cancel()

    async def wait_lost(self) -> None:
        """Wait until the lease is gone for good."""
        assert self._held
        await self._held.heartbeat.wait_lost()

    async def end(self, broken: str | None) -> None:
        """Give the sandbox back, or condemn it with the reason. Idempotent. Never fails."""
        await self._close()
        held, self._held = self._held, None
        if held:
            await held.hand_in(broken, used=True)

    async def leave(self) -> None:
        """Let the sandbox go, so that the next life can `regain` it. Idempotent."""
        await self._close()
        held, self._held = self._held, None
        if held:
            await held.leave()

    def _marker(self, attempt: Attempt, timeout: float | None) -> Marker:
        """Return the marker of a stage that is about to be sent."""
        assert self._held
        return Marker(
            attempt=attempt.id,
            token=self._leases.token,
            profile="",
            trust_key="",
            sandbox=self._held.lease.sandbox,
            generation=self._held.lease.generation,
            boot_id=self._boot_id,
            timeout=timeout,
            started=Moment.now(),
            log_limit=attempt.log.limit,
            workspace=self._settings.workspace,
            attempts=self._settings.attempts,
        )

    async def _fly(
        self, held: Held, pursuit: Pursuit, attempt: Attempt, seeing: Coroutine[Any, Any, wire.Ended]
    ) -> Outcome:
        flight = Flight(pursuit, held.heartbeat, attempt.cancellation)
        script = asyncio.create_task(seeing)
        try:
            with self.asking():
                outcome = await flight.first_cause(script)
            if isinstance(outcome, Cancelled | RunnerStopped | TimedOut):
                await first(script, pursuit.wait_connected(), timeout=WAY_BACK)
                if not await flight.end(script, KILL_REPORT):
                    outcome = SandboxLost("What a cancelled stage started could not be ended in it.")
        finally:
            await stop(script)
            self._session = pursuit.let_go()
            await pursuit.close()
        return outcome

    async def _ready(self) -> Session:
        """Return the session, or a new one if the old one broke. Errors: RunnerError."""
        session, self._session = self._session, None
        if session and session.free:
            return session
        if session:
            await session.close()
        session = await self._reopen()
        if session.hello.boot_id != (self._boot_id or session.hello.boot_id):
            await session.close()
            raise AttemptLostError("The sandbox's host was restarted.")
        self._know(session)
        return session

    async def _reopen(self) -> Session:
        """Log in anew, even if the keeper restarts meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.open_deadline
        while True:
            try:
                lease = await self._leases.resume("", self._leases.token)
                return await Session.open(lease.access, self._settings)
            except LeaseLostError:
                raise
            except (LeaseError, ConnectError):
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(PAUSE)

    def _know(self, session: Session) -> None:
        self._boot_id = session.hello.boot_id

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.close()


async def _prove(lease: Lease) -> None:
    """Check that the lease holds. Errors: LeaseLostError. A keeper that does not answer now changes nothing."""
    try:
        await lease.renew()
    except LeaseLostError:
        raise
    except LeaseError:
        return


class _OneLease:
    """The source of leases for one job: the job requests one lease, and all its stages resume that lease."""

    def __init__(self, leases: LeaseSource) -> None:
        self._leases = leases
        self.attempt = self.token = ""
        self.on_ask: OnAsk = lambda attempt, token: None  # noqa: ARG005 - the arguments of the type

    async def profiles(self) -> Profiles:
        return await self._leases.profiles()

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        self.attempt, self.token = attempt, token
        self.on_ask(attempt, token)
        return await self._leases.lend(attempt, token, profile, trust_key, wait, patience)

    async def resume(self, attempt: str, token: str) -> Lease:  # noqa: ARG002 - a stage's own
        return await self._leases.resume(self.attempt, token)

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        return self._leases.handle(attempt, token)
