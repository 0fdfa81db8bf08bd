"""One attempt in its sandbox, over as many sessions as needed: launched once, then followed by byte offset."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from runner.errors import (
    AttemptLostError,
    ConnectError,
    ConnectionLostError,
    LaunchRefusedError,
    LeaseError,
    LeaseLostError,
    ProtocolError,
)
from runner.execution import wire
from runner.execution.ending import remarks_on_end
from runner.execution.lease import Access, Lease, LeaseSource
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import Note, Notes, Settings, StepNote
from runner.execution.prepare import LEND_SLACK
from runner.execution.session import Session
from runner.job import Job
from runner.logs import Action
from runner.steps import StepProgress, StepState

PAUSE: Final = 1.0
"""Seconds between the starts of two sessions, so that a job that ends each session does not make the runner spin."""
STABLE: Final = 10.0
PROGRESS: Final = 64 * 1024
"""Seconds that a session must last, or bytes of output that it must bring, to count as a way into the sandbox."""
CATCH_UP: Final = 60.0
"""Seconds of an unbroken session after which an end that happened before the session has certainly arrived."""

_GO_ON: Final = frozenset({StepState.WAITING, StepState.RUNNING})
"""The states of a step that has not ended."""

_T = TypeVar("_T")


class Pursuit:
    """Follows an attempt to its end. If a session breaks, another one continues where it stopped.

    The caller must keep the lease alive meanwhile.
    """

    def __init__(
        self, leases: LeaseSource, marker: Marker, log: Log, settings: Settings, notes: Notes, session: Session | None
    ) -> None:
        """Own `session`, whose launcher waits for the job; it is None for an attempt of an earlier life."""
        self._leases = leases
        self.marker = marker
        """The marker of the followed attempt."""
        self._log = log
        self.settings = settings
        self._notes = notes
        self._session = session
        self._access: Access | None = None
        self._received = log.received
        self._steps: list[StepProgress] = []
        self._sent = asyncio.Event()
        self._opened, self._began_at = -math.inf, self._received
        self._reached = _now()
        """When a new session was last opened, and the log's offset then; and when there last was a way into the sandbox
        (`STABLE`, `PROGRESS`). Times are on the loop's clock."""

    @property
    def connected(self) -> bool:
        """Whether there is a session, as far as is known."""
        return self._session is not None and self._session.usable

    async def wait_connected(self) -> None:
        """Wait until there is a session that can signal the script, as far as is known."""
        await self._sent.wait()

    @property
    def settled(self) -> bool:
        """Whether the session has lasted so long that it would have told an end of the attempt by now."""
        return self.connected and _now() - self._opened >= CATCH_UP

    async def launch(self, job: Job, *, filled: bool = False) -> wire.Ended:
        """Send the job, once, and follow it to its end. `filled`: its working folder holds its source.

        Errors: LaunchRefusedError; as for `follow`.
        """
        assert self._session
        try:
            await self._send(self._session, job, filled=filled)
            return self._conclude(await self._session.end(), job.scripts)
        except ConnectionLostError as error:
            self._lost(error)
            return await self._follow(job.scripts)

    async def regain(self) -> Lease:
        """Ask for the lease of an attempt of an earlier life until the source of leases answers.

        Errors: LeaseLostError; AttemptLostError, also after `reconnect_deadline` seconds without an answer.
        """
        lease = await self._until_answered(self._resume)
        self._access = lease.access
        return lease

    async def follow(self) -> wire.Ended:
        """Follow an attempt of an earlier life to its end, from the log's current size on.

        Errors: LeaseLostError; AttemptLostError, also after `reconnect_deadline` seconds without a way in;
        ProtocolError.
        """
        return await self._follow([])

    async def reach(self) -> Session:
        """Return the current session, or a new one if that was lost. Works after the script's end too.

        Errors: LeaseError; ConnectError; AttemptLostError.
        """
        if self._session and self._session.usable:
            return self._session
        if self._session:
            await self._session.close()
            self._session = None
        access, self._access = self._access or (await self._resume()).access, None
        session = self._session = await Session.open(access, self.settings)
        return session

    def let_go(self) -> Session | None:
        """Return the session if its launcher waits for another script. The caller owns it then."""
        session = self._session
        if session is None or not session.free:
            return None
        self._session = None
        return session

    def signal(self, number: int) -> None:
        """Ask for a signal to the script's process group. Nothing says whether it was sent."""
        if self._session:
            self._session.signal(number)

    async def close(self) -> None:
        """Disconnect from the sandbox. A running script goes on. Idempotent."""
        if self._access:
            self._access.socket.close()
            self._access = None
        if self._session:
            await self._session.close()
            self._session = None

    async def _send(self, session: Session, job: Job, *, filled: bool) -> None:
        settings, marker = self.settings, self.marker
        launch = wire.Launch(
            attempt=marker.attempt,
            args=job.args,
            environment=job.variables,
            timeout=marker.timeout,
            grace=settings.grace,
            log_limit=marker.log_limit,
            workspace=marker.workspace,
            root=marker.attempts,
            filled=filled,
            steps=tuple(map(wire.encode_step, job.steps)) or (wire.ONE_SCRIPT,),
        )
        try:
            async with asyncio.timeout(settings.launch_deadline):
                await session.launch(launch, job.scripts, self._take, self._tell)
        except TimeoutError:
            raise ConnectionLostError(f"The job could not be sent within {settings.launch_deadline:g} s.") from None
        self._sent.set()
        self._notes(Note(Action.STARTED, "The script was sent to the sandbox."))

    async def _follow(self, scripts: Sequence[bytes]) -> wire.Ended:
        while True:
            try:
                session = await self._until_answered(self._reopen)
                return self._conclude(await session.end(), scripts)
            except ConnectionLostError as error:
                self._lost(error)
            except LaunchRefusedError as error:  # else it would mean that user code certainly did not run
                raise ProtocolError(f"The sandbox refused what was sent to it before: {error}") from error

    async def _until_answered(self, act: Callable[[], Awaitable[_T]]) -> _T:
        """Call `act`, again after an error that may pass, until the deadline."""
        wait = max(0.0, self._opened + PAUSE - _now())
        while True:
            await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(LEND_SLACK + self.settings.open_deadline):
                    return await act()
            except LeaseLostError:
                raise
            except (LeaseError, ConnectError, ConnectionLostError, TimeoutError) as error:
                self._check_deadline(error)
            wait = PAUSE

    async def _resume(self) -> Lease:
        marker = self.marker
        lease = await self._leases.resume(marker.attempt, marker.token)
        if (lease.sandbox, lease.generation) != (marker.sandbox, marker.generation):
            lease.access.socket.close()
            raise AttemptLostError(f"The lease leads to {lease.sandbox} now, and the script ran in {marker.sandbox}.")
        return lease

    async def _reopen(self) -> Session:
        if self._session:
            await self._session.close()  # it must send nothing after the next session was told the offset
            self._session = None
        access, self._access = self._access or (await self._resume()).access, None
        session = self._session = await Session.open(access, self.settings)
        marker = self.marker
        if session.hello.boot_id != marker.boot_id:
            raise AttemptLostError("The sandbox's host was restarted, which ended the script.")
        follow = wire.Follow(marker.attempt, marker.attempts, self._received, marker.log_limit)
        await session.follow(follow, self._take, self._tell)
        self._sent.set()
        self._opened, self._began_at = _now(), self._received
        self._notes(Note(Action.RESUMED, "The script was found again in the sandbox."))
        return session

    def _take(self, pieces: Sequence[memoryview]) -> None:
        self._received += sum(map(len, pieces))
        if self._received > self.marker.log_limit:
            raise ProtocolError("The sandbox sent more output than was agreed.")
        self._log.append(*pieces)

    def _tell(self, progress: wire.Progress) -> None:
        """Report which steps began and ended. No step goes back, so a job that fakes its steps causes few notes."""
        self._steps += [StepProgress()] * (len(progress.steps) - len(self._steps))
        for number, (before, now) in enumerate(zip(self._steps, progress.steps, strict=False)):
            if now.state is before.state or before.state not in _GO_ON or now.state is StepState.WAITING:
                continue
            self._steps[number] = now
            self._notes(StepNote(Action.STEP, f"Step {number + 1}: {now.state.replace('_', ' ')}.", number, now))

    def _conclude(self, ended: wire.Ended, scripts: Sequence[bytes]) -> wire.Ended:
        script = scripts[ended.step] if ended.step < len(scripts) else b""
        self._log.dropped += ended.dropped
        for remark in remarks_on_end(ended, script, self._received):
            self._log.remark(remark)
            self._notes(Note(Action.REMARK, remark))
        return ended

    def _check_deadline(self, error: Exception) -> None:
        seconds = self.settings.reconnect_deadline
        if _now() >= self._reached + seconds:
            raise AttemptLostError(f"There was no way back into it for {seconds:g} s. {error}".rstrip()) from error

    def _lost(self, error: ConnectionLostError) -> None:
        self._sent.clear()
        if self._received >= self._began_at + PROGRESS or _now() >= self._opened + STABLE:
            self._reached = _now()
        self._check_deadline(error)
        self._notes(Note(Action.LOST, f"{error} The script goes on in its sandbox; a new connection is tried."))


def _now() -> float:
    return asyncio.get_running_loop().time()
