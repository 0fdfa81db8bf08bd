"""One attempt: lease, session, launch, follow, outcome, and the sandbox's way back.

What decides between the outcomes is whether user code may have run. Until the first byte of the job was sent it
certainly did not: a broken sandbox is condemned and another one tried. From then on nothing is tried again: a session
that breaks is replaced by another one that follows the same script, and a script that cannot be found again is
`SandboxLost`.

The job's scope and the runner's are different. Everything here runs in a task of its own that is never cancelled: a
cancelled caller becomes a request to end the job, and the clean-up takes place under its own deadlines before the
caller gets its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from runner import outcome as outcomes
from runner.errors import ConnectError, DetachedError, LaunchRefusedError, RunnerError
from runner.execution import wire
from runner.execution.cancellation import Cancellation, see_through
from runner.execution.ending import outcome_of, remarks_on_log
from runner.execution.held import Held
from runner.execution.lease import LeaseSource
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import DEFAULTS, Note, Notes, Settings, no_notes
from runner.execution.prepare import Prepared, prepare
from runner.execution.pursuit import CATCH_UP, Pursuit
from runner.job import Job, new_attempt_id
from runner.outcome import Cancelled, Limit, Outcome, RunnerStopped, SandboxLost, SetupFailed, TimedOut

_logger = logging.getLogger(__name__)

#: Seconds that the runner waits beyond the moment when the launcher itself should have ended the job.
BACKSTOP: Final = 10.0
#: Seconds for the launcher to tell of an end by KILL.
KILL_REPORT: Final = 1.0

#: Told right before the first byte of the job is sent. A RunnerError from it is `SetupFailed`, and nothing is sent.
OnStart = Callable[[Marker], None]
#: Awaited once for every outcome, when the log has all of the output and the sandbox is still leased: who keeps the
#: outcome there cannot lose it to a crash. May take its time. Raises nothing but DetachedError.
OnEnd = Callable[[Outcome], Awaitable[None]]


def keep_no_marker(marker: Marker) -> None:
    """Nobody will look for the attempt later."""


async def keep_no_outcome(outcome: Outcome) -> None:
    """The return value is enough."""


async def run(
    prepared: Prepared,
    job: Job,
    log: Log,
    cancellation: Cancellation,
    *,
    notes: Notes = no_notes,
    on_start: OnStart = keep_no_marker,
    on_end: OnEnd = keep_no_outcome,
) -> Outcome:
    """Run a job on a prepared sandbox to its outcome, and return the sandbox. The log stays open.

    Being cancelled ends the job as `RunnerStopped`, cleans up, and then passes the cancellation on.
    Errors: ConnectError when the sandbox broke before anything was sent. It is condemned: prepare another one.
    DetachedError as `Cancellation.detach` says; nothing was sent if `on_start` was not called.
    """
    if not prepared.usable:
        await prepared.release()
        raise ConnectError("The sandbox broke while it waited for a job.")
    report = _Report(log, notes, on_end)
    return await _to_the_end(_start(prepared, job, log, cancellation, report, on_start), report, cancellation)


async def run_attempt(
    leases: LeaseSource,
    job: Job,
    log: Log,
    cancellation: Cancellation,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    on_start: OnStart = keep_no_marker,
    on_end: OnEnd = keep_no_outcome,
    new_attempt: Callable[[], str] = new_attempt_id,
) -> Outcome:
    """Lease a sandbox, run a job in it to its outcome, and return the sandbox. The log stays open.

    Raises nothing but DetachedError, as for `run`, and the caller's cancellation, which first ends the job as
    `RunnerStopped` and cleans up.
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
            return _unstarted(cancellation)
        if error := preparing.exception():
            return SetupFailed(_sentence(error))
        prepared = preparing.result()
        if not prepared.usable:
            await prepared.release()
            return SetupFailed("The sandbox broke before the script was sent.")
        return await _start(prepared, job, log, cancellation, report, on_start)

    report = _Report(log, notes, on_end)
    return await _to_the_end(attempt(), report, cancellation)


async def resume_attempt(
    leases: LeaseSource,
    marker: Marker,
    log: Log,
    cancellation: Cancellation,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    on_end: OnEnd = keep_no_outcome,
) -> Outcome:
    """Find an attempt of an earlier life again, follow it from where the log stands, and end as `run` does.

    The log holds the attempt's output and nothing else (`Log.reopen`). Errors as for `run_attempt`.
    """

    async def attempt() -> Outcome:
        pursuit = Pursuit(leases, marker, log, settings, notes, None)
        # A wish for the end waits for this: without the lease, nothing in the sandbox can be ended.
        regaining = asyncio.create_task(pursuit.regain())
        await _first(regaining, cancellation.wait())
        if cancellation.detached:
            await _stop(regaining)
            await pursuit.close()
            raise DetachedError(_DETACHED)
        await asyncio.wait([regaining])
        if error := regaining.exception():
            return cancellation.cause or SandboxLost(_sentence(error))
        flight = _Flight(pursuit, Held(regaining.result(), settings), marker, cancellation, report, settings)
        return await flight.outcome(pursuit.follow())

    report = _Report(log, notes, on_end)
    return await _to_the_end(attempt(), report, cancellation)


_DETACHED: Final = "The runner left."


class _Report:
    """Tells once how an attempt ended."""

    def __init__(self, log: Log, notes: Notes, on_end: OnEnd) -> None:
        self.notes = notes
        self._log = log
        self._on_end: OnEnd | None = on_end

    async def tell(self, outcome: Outcome) -> None:
        """Complete the log's remarks and tell. Only the first call counts. Errors: DetachedError."""
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        log = self._log
        for remark in remarks_on_log(log.dropped, log.limit, log.failure):
            log.remark(remark)
            self.notes(Note("remark", remark))
        try:
            await on_end(outcome)
        except DetachedError:
            raise
        except Exception as error:  # noqa: BLE001 - the sandbox goes back, and the caller gets the outcome all the same
            _sentence(error)
        facts: dict[str, str | int] = {"outcome": outcomes.name(outcome), "log_bytes": log.output}
        self.notes(Note("ended", outcomes.sentence(outcome), facts))


async def _to_the_end(work: Coroutine[Any, Any, Outcome], report: _Report, cancellation: Cancellation) -> Outcome:
    """See the attempt through, and have told how it ended."""

    async def telling() -> Outcome:
        outcome = await work
        await report.tell(outcome)
        return outcome

    return await see_through(telling(), lambda: cancellation.stop_runner("Its task was cancelled."))


async def _start(
    prepared: Prepared, job: Job, log: Log, cancellation: Cancellation, report: _Report, on_start: OnStart
) -> Outcome:
    """Run a job on a prepared sandbox, unless somebody asked for the end before."""
    if cancellation.cause or cancellation.detached:
        await prepared.release()
        return _unstarted(cancellation)
    marker = prepared.marker(job.timeout, log.limit)
    try:
        on_start(marker)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was sent and the sandbox goes back
        await prepared.release()
        return SetupFailed(_sentence(error))
    prepared.held.heartbeat.beat()
    settings = prepared.settings
    pursuit = Pursuit(prepared.leases, marker, log, settings, report.notes, prepared.session)
    flight = _Flight(pursuit, prepared.held, marker, cancellation, report, settings)
    return await flight.outcome(pursuit.launch(job))


def _unstarted(cancellation: Cancellation) -> Outcome:
    """Return the outcome of a job that was not sent because somebody asked for its end."""
    if cancellation.cause is None:
        raise DetachedError(_DETACHED)
    return cancellation.cause


class _Flight:
    """One job in one sandbox, from its first byte to the sandbox's way back."""

    def __init__(
        self,
        pursuit: Pursuit,
        held: Held,
        marker: Marker,
        cancellation: Cancellation,
        report: _Report,
        settings: Settings,
    ) -> None:
        self._pursuit = pursuit
        self._held = held
        self._marker = marker
        self._cancellation = cancellation
        self._report = report
        self._settings = settings

    async def outcome(self, seeing: Coroutine[Any, Any, wire.Ended]) -> Outcome:
        """See the script through, have its outcome kept, and only then return the sandbox: the first cause counts."""
        script = asyncio.create_task(seeing)
        try:
            outcome = await self._first_cause(script)
            if isinstance(outcome, Cancelled | RunnerStopped | TimedOut):
                broken = await self._end(script)
            else:
                broken = outcome.why if isinstance(outcome, SandboxLost | SetupFailed) else None
            await _stop(script)
            await self._report.tell(outcome)
        except DetachedError:
            await _stop(script)
            await self._pursuit.close()
            await self._held.leave()
            raise
        await self._pursuit.close()
        if broken:
            self._report.notes(Note("condemned", f"Sandbox {self._marker.sandbox} is not used again: {broken}"))
        await self._held.hand_in(broken, used=True)
        return outcome

    async def _first_cause(self, script: asyncio.Task[wire.Ended]) -> Outcome:
        for timeout in self._waits():
            await self._news(script, timeout)
            if script.done() and not script.exception():
                return outcome_of(script.result())
            if self._cancellation.cause:
                return self._cancellation.cause
            if self._cancellation.detached:
                raise DetachedError(_DETACHED)
            if script.done():
                return _broken(script.exception())
            if self._held.heartbeat.is_lost:
                return SandboxLost("The lease was taken away while the script was running.")
            if self._pursuit.settled:
                break
        return TimedOut(Limit.JOB)

    def _waits(self) -> list[float | None]:
        """Return for how long to wait for news, and how long again while an end could be on its way.

        The launcher enforces the timeout, so a script may well have ended in time while there was no connection.
        """
        if self._marker.timeout is None:
            return [None]
        left = self._marker.timeout + self._settings.grace + BACKSTOP - self._marker.started.elapsed()
        return [max(0.0, left), self._settings.reconnect_deadline + CATCH_UP]

    async def _news(self, script: asyncio.Task[wire.Ended], timeout: float | None) -> None:
        await _first(script, self._cancellation.wait(), self._held.heartbeat.wait_lost(), timeout=timeout)

    async def _end(self, script: asyncio.Task[wire.Ended]) -> str | None:
        """End the script and everything it left, from inside as far as that goes and then from outside.

        Returns why the sandbox is to be condemned, None when it may be given back. The script's own end and transport
        errors no longer matter: the first cause counts.
        """
        for number, seconds in ((signal.SIGTERM, self._settings.grace), (signal.SIGKILL, KILL_REPORT)):
            if script.done() or not self._pursuit.connected:
                break
            self._pursuit.signal(number)
            await asyncio.wait([script], timeout=seconds)
        await _stop(script)
        return None if await self._held.kill() else "Processes of the job may be left in it."


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task that limits its own clean-up, and wait for its end, whatever that is."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


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
