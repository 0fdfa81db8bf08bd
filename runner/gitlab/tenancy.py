"""One job's hold on its sandbox: a lease and a session that stay from stage to stage.

Each stage is an attempt of its own, which starts at most once and is found again after a lost connection or a restart
of the runner. All of them are attempts on one lease.
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
"""Seconds for the supervisor to end what a stage left, and to tell of it."""
WAY_BACK: Final = 10.0
"""Seconds for a way into the sandbox where a stage is to be ended and there is none."""

QUICK: Final = 0.3
"""Seconds until the keeper is asked whether the sandbox is still there: SSH would wait for an answer much longer."""

OnAsk = Callable[[str, str], None]
"""Told the attempt and the token of a lease before it is asked for. Raises RunnerError."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One stage as an attempt."""

    id: str
    log: Log
    cancellation: Cancellation
    notes: Callable[[Note], None]


class Tenancy:
    """A sandbox from `take` or `regain` to `end` or `leave`."""

    def __init__(self, leases: LeaseSource, settings: Settings) -> None:
        self._leases = _OneLease(leases)
        self._settings = settings
        self._boot_id = ""
        self._held: Held | None = None
        self._session: Session | None = None

    @property
    def held(self) -> bool:
        """Whether there is a lease."""
        return self._held is not None

    async def take(self, wanted: Wanted, on_ask: OnAsk, notes: Callable[[Note], None]) -> None:
        """Lease a sandbox and have a launcher wait in it. Being cancelled leaves nothing leased.

        Errors: BadJobError when there is no such profile; LeaseError; SandboxError.
        """
        self._leases.on_ask = on_ask
        prepared = await prepare(self._leases, wanted, settings=self._settings, notes=notes)
        self._held, self._session = prepared.held, prepared.session
        self._know(prepared.session)
        prepared.held.heartbeat.beat()

    async def adopt(self, prepared: Prepared, on_ask: OnAsk) -> None:
        """Have the sandbox that was prepared in advance. It is given back where that fails.

        The session would tell seconds later that the sandbox is gone, so its keeper is asked.
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
            return  # a stage opens one when it needs one, and says what is wrong then
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
        """See a script of an earlier life to its outcome."""
        assert self._held
        await self._close()
        pursuit = Pursuit(self._leases, marker, attempt.log, self._settings, attempt.notes, None)
        return await self._fly(self._held, pursuit, attempt, pursuit.follow())

    async def session(self) -> Session:
        """Return the way into the sandbox between two stages. It stays the tenancy's own. Errors: RunnerError."""
        self._session = await self._ready()
        return self._session

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Have the keeper asked, should this take longer, whether the sandbox is there: see `wait_lost`."""
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
        """Let go, for the next life to `regain` it. Idempotent."""
        await self._close()
        held, self._held = self._held, None
        if held:
            await held.leave()

    def _marker(self, attempt: Attempt, timeout: float | None) -> Marker:
        """Return the marker of a stage that is sent now."""
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
        """Return the session, or another one when it broke meanwhile. Errors: RunnerError."""
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
        """Log in anew, also where the keeper restarts meanwhile."""
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
    """Errors: LeaseLostError. When nobody answers now, the sandbox stays all the same."""
    try:
        await lease.renew()
    except LeaseLostError:
        raise
    except LeaseError:
        return


class _OneLease:
    """The source of leases as one job sees it: it asks for one, and all its stages ask for ways into that."""

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

    async def resume(self, attempt: str, token: str) -> Lease:  # noqa: ARG002 - of a stage
        return await self._leases.resume(self.attempt, token)

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        return self._leases.handle(attempt, token)
