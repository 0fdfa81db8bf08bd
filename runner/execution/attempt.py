"""One attempt: lease, session, launch, follow, outcome, and the sandbox's way back.

What decides between the outcomes is whether user code may have run. Until the first byte of the job was sent it
certainly did not: a broken sandbox is condemned and another one tried. From then on every loss is `SandboxLost`, and
nothing is tried again.

The job's scope and the runner's are different. Everything here runs in a task of its own that is never cancelled: a
cancelled caller becomes a request to end the job, and the clean-up takes place under its own deadlines before the
caller gets its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from runner import outcome as outcomes
from runner.errors import ConnectError, ConnectionLostError, LaunchRefusedError, ProtocolError, RunnerError
from runner.execution import wire
from runner.execution.cancellation import Cancellation, see_through
from runner.execution.ending import outcome_of, remarks_on_end, remarks_on_log
from runner.execution.lease import LeaseSource
from runner.execution.log import Log
from runner.execution.options import DEFAULTS, Note, Notes, Settings, no_notes
from runner.execution.prepare import Prepared, attempted, prepare
from runner.job import Job, new_attempt_id
from runner.outcome import Cancelled, Limit, Outcome, RunnerStopped, SandboxLost, SetupFailed, TimedOut

_logger = logging.getLogger(__name__)

#: Seconds that the runner waits beyond the moment when the launcher itself should have ended the job.
BACKSTOP: Final = 10.0
#: Seconds for the launcher to tell of an end by KILL.
KILL_REPORT: Final = 1.0


async def run(
    prepared: Prepared, job: Job, log: Log, cancellation: Cancellation, *, notes: Notes = no_notes
) -> Outcome:
    """Run a job on a prepared sandbox to its outcome, close the log, and return the sandbox.

    Being cancelled ends the job as `RunnerStopped`, cleans up, and then passes the cancellation on.
    Errors: ConnectError when the sandbox broke before anything was sent. It is condemned, the log is still open:
    prepare another one.
    """
    if not prepared.usable:
        await prepared.release()
        raise ConnectError("The sandbox broke while it waited for a job.")
    flight = _Flight(prepared, job, log, cancellation, notes)
    return await _to_the_end(flight.outcome(), log, cancellation, notes)


async def run_attempt(
    leases: LeaseSource,
    job: Job,
    log: Log,
    cancellation: Cancellation,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    new_attempt: Callable[[], str] = new_attempt_id,
) -> Outcome:
    """Lease a sandbox, run a job in it to its outcome, close the log, and return the sandbox.

    Raises nothing but the caller's cancellation, which first ends the job as `RunnerStopped` and cleans up.
    """

    async def attempt() -> Outcome:
        preparing = asyncio.create_task(
            prepare(leases, job.profile, job.trust_key, settings=settings, notes=notes, new_attempt=new_attempt)
        )
        await _first(preparing, cancellation.wait())
        if not preparing.done():
            preparing.cancel()
            await asyncio.wait([preparing])
        if preparing.cancelled():
            assert cancellation.cause
            return cancellation.cause
        if error := preparing.exception():
            return SetupFailed(_sentence(error))
        prepared = preparing.result()
        if not prepared.usable:
            await prepared.release()
            return SetupFailed("The sandbox broke before the script was sent.")
        return await _Flight(prepared, job, log, cancellation, notes).outcome()

    return await _to_the_end(attempt(), log, cancellation, notes)


async def _to_the_end(
    work: Coroutine[Any, Any, Outcome], log: Log, cancellation: Cancellation, notes: Notes
) -> Outcome:
    """See the attempt through, and close the log with how it ended."""

    async def closing() -> Outcome:
        outcome = await work
        sentence = outcomes.sentence(outcome)
        for remark in remarks_on_log(log.dropped, log.limit, log.failure):
            log.remark(remark)
            notes(Note("remark", remark))
        log.close(sentence)
        notes(Note("ended", sentence, {"outcome": outcomes.name(outcome), "log_bytes": log.output}))
        return outcome

    return await see_through(closing(), lambda: cancellation.stop_runner("Its task was cancelled."))


class _Flight:
    """One job on one prepared sandbox."""

    def __init__(self, prepared: Prepared, job: Job, log: Log, cancellation: Cancellation, notes: Notes) -> None:
        self._prepared = prepared
        self._session = prepared.session
        self._settings = prepared.settings
        self._job = job
        self._log = log
        self._cancellation = cancellation
        self._notes = notes
        self._received = 0

    async def outcome(self) -> Outcome:
        """Run the job, return the sandbox, and say how the job ended: the first cause counts."""
        if self._cancellation.cause:
            await self._prepared.hand_in(None, used=False)
            return self._cancellation.cause
        script = asyncio.create_task(self._launch_and_follow())
        try:
            outcome = await self._first_cause(script)
            if isinstance(outcome, Cancelled | RunnerStopped | TimedOut):
                broken = await self._end(script)
            else:
                broken = outcome.why if isinstance(outcome, SandboxLost | SetupFailed) else None
        finally:
            script.cancel()
            await asyncio.wait([script])
        if broken:
            self._notes(Note("condemned", f"Sandbox {self._prepared.lease.sandbox} is recreated: {broken}"))
        await self._prepared.hand_in(broken, used=True)
        return outcome

    async def _first_cause(self, script: asyncio.Task[wire.Ended]) -> Outcome:
        timeout = self._job.timeout and self._job.timeout + self._settings.grace + BACKSTOP
        await _first(script, self._cancellation.wait(), self._prepared.heartbeat.wait_lost(), timeout=timeout)
        if script.done() and not script.exception():
            return outcome_of(script.result())
        if self._cancellation.cause:
            return self._cancellation.cause
        if script.done():
            return _broken(script.exception())
        if self._prepared.heartbeat.is_lost:
            return SandboxLost("The lease was taken away while the script was running.")
        return TimedOut(Limit.JOB)

    async def _launch_and_follow(self) -> wire.Ended:
        """Send the job, and take its log until the launcher says how it ended."""
        job, settings = self._job, self._settings
        launch = wire.Launch(
            attempt=self._prepared.lease.attempt,
            args=job.args,
            environment=dict(job.environment),
            timeout=job.timeout,
            grace=settings.grace,
            log_limit=self._log.limit,
            workspace=settings.workspace,
            root=settings.attempts,
        )
        try:
            async with asyncio.timeout(settings.launch_deadline):
                await self._session.launch(launch, job.script, self._take_output)
        except TimeoutError:
            raise ConnectionLostError(f"The job could not be sent within {settings.launch_deadline:g} s.") from None
        self._notes(Note("started", "The script was sent to the sandbox.", {"attempt": launch.attempt}))
        ended = await self._session.end()
        self._log.dropped += ended.dropped
        for remark in remarks_on_end(ended, job.script, self._received):
            self._log.remark(remark)
            self._notes(Note("remark", remark))
        return ended

    def _take_output(self, pieces: Sequence[memoryview]) -> None:
        self._received += sum(map(len, pieces))
        if self._received > self._log.limit:
            raise ProtocolError("The sandbox sent more output than was agreed.")
        self._log.append(*pieces)

    async def _end(self, script: asyncio.Task[wire.Ended]) -> str | None:
        """End the script and everything it left, from inside as far as that goes and then from outside.

        Returns why the sandbox is to be condemned, None when it may be given back. The script's own end and transport
        errors no longer matter: the first cause counts.
        """
        for number, seconds in ((signal.SIGTERM, self._settings.grace), (signal.SIGKILL, KILL_REPORT)):
            if script.done():
                break
            self._session.signal(number)
            await asyncio.wait([script], timeout=seconds)
        lease = self._prepared.lease
        if await attempted("kill", lease.kill(), lease, self._settings.return_deadline):
            return None
        return "Processes of the job may be left in it."


async def _first(task: asyncio.Task[Any], *others: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    """Wait until the task or any of the others is done; the others are cancelled then."""
    watched = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait([task, *watched], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for other in watched:
            other.cancel()


def _broken(error: BaseException | None) -> Outcome:
    """Return the outcome of a script that was lost from sight."""
    if isinstance(error, LaunchRefusedError):
        return SetupFailed(str(error))
    return SandboxLost(_sentence(error))


def _sentence(error: BaseException | None) -> str:
    if isinstance(error, RunnerError):
        return str(error)
    _logger.error("An error of the runner's own ended an attempt.", exc_info=error, extra={"action": "internal_error"})
    return f"The runner met an error of its own ({type(error).__name__}). Please report it with the runner's log."
