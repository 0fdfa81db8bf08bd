"""One attempt: lease, session, launch, follow, outcome, and the sandbox's way back.

The outcome depends on whether user code may have run. Until the first byte of the job is sent, it certainly did not:
a broken sandbox is condemned, and another one tried. From then on no script is started again: if a session breaks,
another session follows the same script, and a script that cannot be found again is `SandboxLost`.

The job's scope and the runner's are different. An attempt runs in a task of its own that is never cancelled: the
caller's cancellation becomes a request to end the job, and the clean-up runs under its own deadlines before the caller
gets its cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from runner import outcome as outcomes
from runner.errors import BadJobError, ConnectError, DetachedError, SourceError
from runner.execution import wire
from runner.execution.cancellation import Cancellation, see_through
from runner.execution.ending import remarks_on_log
from runner.execution.files.bring_in import bring_in
from runner.execution.files.jobs import NO_FILES, JobFiles
from runner.execution.files.take_out import take_out
from runner.execution.flight import Flight, first, sentence, stop
from runner.execution.held import Held, Owed
from runner.execution.lease import LeaseSource
from runner.execution.log import Log
from runner.execution.marker import Marker, Moment
from runner.execution.options import DEFAULTS, Note, Notes, Settings, no_notes
from runner.execution.prepare import Prepared, prepare
from runner.execution.pursuit import Pursuit
from runner.job import Job, new_attempt_id
from runner.logs import Action
from runner.outcome import (
    BadRequest,
    BadSource,
    Cancelled,
    Outcome,
    RunnerStopped,
    SandboxLost,
    SetupFailed,
    TimedOut,
)
from runner.placement import Wanted

KILL_REPORT: Final = 1.0
"""Seconds for the launcher to report an end by KILL."""

OnStart = Callable[[Marker], Awaitable[None]]
"""Awaited right before the first byte of the job is sent. May take long, but must return when somebody asks for the
end. After a RunnerError nothing is sent: the outcome is `SetupFailed`, unless somebody asked for the end."""
OnEnd = Callable[[Outcome], Awaitable[None]]
"""Awaited once for every outcome, when the log has all of the output and the sandbox is still leased: a caller that
stores the outcome here cannot lose it to a crash. May take long. Raises only DetachedError."""


async def keep_no_marker(marker: Marker) -> None:
    """Store no marker: nobody will look for the attempt later."""


async def keep_no_outcome(outcome: Outcome) -> None:
    """Store no outcome: the return value is enough."""


async def run(
    prepared: Prepared,
    job: Job,
    log: Log,
    cancellation: Cancellation,
    *,
    notes: Notes = no_notes,
    on_start: OnStart = keep_no_marker,
    on_end: OnEnd = keep_no_outcome,
    files: JobFiles = NO_FILES,
) -> Outcome:
    """Run a job on a prepared sandbox to its outcome, and return the sandbox. The log stays open.

    A cancellation ends the job as `RunnerStopped`, cleans up, and is then passed on.
    Errors: ConnectError when the sandbox broke before anything was sent. It is condemned: prepare another one.
    DetachedError as `Cancellation.detach` says; nothing was sent if `on_start` was not called.
    """
    if not prepared.usable:
        await prepared.release()
        raise ConnectError("The sandbox broke while it waited for a job.")
    course = _Course(cancellation, files, _Report(log, notes, on_end))
    return await _to_the_end(course, _start(course, prepared, job, log, on_start))


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
    files: JobFiles = NO_FILES,
    new_attempt: Callable[[], str] = new_attempt_id,
    labels: frozenset[str] = frozenset(),
) -> Outcome:
    """Lease a sandbox, run a job in it to its outcome, and return the sandbox. The log stays open.

    `labels` are the runner's own, which every sandbox has. Raises only DetachedError, as for `run`, and the caller's
    cancellation, which first ends the job as `RunnerStopped` and cleans up.
    """

    async def attempt() -> Outcome:
        preparing = asyncio.create_task(
            prepare(leases, Wanted.by(job, labels), settings=settings, notes=notes, new_attempt=new_attempt)
        )
        await first(preparing, cancellation.wait())
        if not preparing.done():
            preparing.cancel()
            await asyncio.wait([preparing])
        if preparing.cancelled():
            return _unstarted(cancellation)
        match preparing.exception():
            case None:
                prepared = preparing.result()
            case BadJobError() as error:
                return BadRequest(str(error))
            case error:
                return SetupFailed(sentence(error))
        if not prepared.usable:
            await prepared.release()
            return SetupFailed("The sandbox broke before the script was sent.")
        return await _start(course, prepared, job, log, on_start)

    course = _Course(cancellation, files, _Report(log, notes, on_end))
    return await _to_the_end(course, attempt())


async def resume_attempt(
    leases: LeaseSource,
    marker: Marker,
    log: Log,
    cancellation: Cancellation,
    *,
    settings: Settings = DEFAULTS,
    notes: Notes = no_notes,
    on_end: OnEnd = keep_no_outcome,
    files: JobFiles = NO_FILES,
) -> Outcome:
    """Find an attempt of an earlier life again, follow it from the log's current size on, and end as `run` does.

    The log must hold only the attempt's output (`Log.reopen`). Errors as for `run_attempt`.
    """

    async def attempt() -> Outcome:
        pursuit = Pursuit(leases, marker, log, settings, notes, None)
        regaining = asyncio.create_task(pursuit.regain())
        await first(regaining, cancellation.wait())
        if regaining.done() and not regaining.exception():
            return await _fly(course, pursuit, Held(regaining.result(), settings), pursuit.follow())
        await stop(regaining)
        await pursuit.close()
        if cancellation.detached:
            raise DetachedError(_DETACHED)
        outcome = cancellation.cause or SandboxLost(sentence(regaining.exception()))
        return await _end_unseen(course, Owed(leases.handle(marker.attempt, marker.token), settings), marker, outcome)

    course = _Course(cancellation, files, _Report(log, notes, on_end))
    return await _to_the_end(course, attempt())


_DETACHED: Final = "The runner left."
_DEFECT: Final = "An error of the runner's own ended the attempt in it."


class _Report:
    """Reports once how an attempt ended."""

    def __init__(self, log: Log, notes: Notes, on_end: OnEnd) -> None:
        self.notes = notes
        self._log = log
        self._on_end: OnEnd | None = on_end

    def remark(self, *sentences: str) -> None:
        """Add sentences to the log's end."""
        for remark in sentences:
            self._log.remark(remark)
            self.notes(Note(Action.REMARK, remark))

    async def tell(self, outcome: Outcome) -> None:
        """Complete the log's remarks and report the outcome. Only the first call counts. Errors: DetachedError."""
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        log = self._log
        self.remark(*remarks_on_log(log.dropped, log.limit, log.failure))
        try:
            await on_end(outcome)
        except DetachedError:
            raise
        except Exception as error:  # noqa: BLE001 - the sandbox is still returned, and the caller gets the outcome
            sentence(error)
        self.notes(Note(Action.ENDED, outcomes.sentence(outcome)))


@dataclass(frozen=True, slots=True)
class _Course:
    """The objects that an attempt uses from its beginning to its end."""

    cancellation: Cancellation
    files: JobFiles
    report: _Report


async def _to_the_end(course: _Course, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run the attempt to its end, and report the outcome."""

    async def telling() -> Outcome:
        outcome = await work
        await course.report.tell(outcome)
        return outcome

    return await see_through(telling(), lambda: course.cancellation.stop_runner("Its task was cancelled."))


async def _start(course: _Course, prepared: Prepared, job: Job, log: Log, on_start: OnStart) -> Outcome:
    """Run a job on a prepared sandbox, unless somebody asked for the end before."""
    cancellation, filled = course.cancellation, course.files.source is not None
    refusal = await _fill(course, prepared) if filled else None
    if refusal or cancellation.cause or cancellation.detached:
        await prepared.release(used=filled)
        return refusal or _unstarted(cancellation)
    marker = prepared.marker(job.timeout, log.limit)
    try:
        await on_start(marker)
    except Exception as error:  # noqa: BLE001 - after any error, nothing was sent and the sandbox is returned
        await prepared.release(used=filled)
        wanted = cancellation.cause or cancellation.detached
        return _unstarted(cancellation) if wanted else SetupFailed(sentence(error))
    marker = replace(marker, started=Moment.now())  # waiting for a full disk must not shorten the timeout
    prepared.held.heartbeat.beat()
    pursuit = Pursuit(prepared.leases, marker, log, prepared.settings, course.report.notes, prepared.session)
    return await _fly(course, pursuit, prepared.held, pursuit.launch(job, filled=filled))


async def _fill(course: _Course, prepared: Prepared) -> Outcome | None:
    """Fill the working folder with the job's source. Return why that failed; None also if somebody asks for the end."""
    filling = asyncio.create_task(bring_in(prepared.session, course.files, prepared.settings.workspace))
    await first(filling, course.cancellation.wait())
    if not filling.done():
        await stop(filling)
        return None
    match filling.exception():
        case None:
            return None
        case SourceError() as error:
            return BadSource(str(error))
        case error:
            return SetupFailed(sentence(error))


def _unstarted(cancellation: Cancellation) -> Outcome:
    """Return the outcome of a job that was not sent because somebody asked for its end."""
    if cancellation.cause is None:
        raise DetachedError(_DETACHED)
    return cancellation.cause


async def _fly(course: _Course, pursuit: Pursuit, held: Held, seeing: Coroutine[Any, Any, wire.Ended]) -> Outcome:
    """Follow the script to its end, report its outcome, and only then return the sandbox: the first cause counts."""
    report = course.report
    flight = Flight(pursuit, held.heartbeat, course.cancellation)
    script = asyncio.create_task(seeing)
    try:
        outcome = await flight.first_cause(script)
        if isinstance(outcome, Cancelled | RunnerStopped | TimedOut):
            broken = await _end(flight, script, held)
        else:
            broken = outcome.why if isinstance(outcome, SandboxLost | SetupFailed) else None
        await stop(script)
        await _keep(course, pursuit, outcome)
        await pursuit.close()  # the report may take minutes, and a running script must not send meanwhile
        await report.tell(outcome)
    except BaseException as error:
        await stop(script)
        await pursuit.close()
        if isinstance(error, DetachedError | asyncio.CancelledError):  # only the loop cancels this, at its end
            await held.leave()
        else:
            await held.hand_in(_DEFECT, used=True)
        raise
    await _hand_in(course, held, pursuit.marker, broken)
    return outcome


async def _end_unseen(course: _Course, lease: Owed, marker: Marker, outcome: Outcome) -> Outcome:
    """End a script that cannot be reached, in `_fly`'s order. The job itself may have closed its sandbox."""
    broken = outcome.why if isinstance(outcome, SandboxLost) else await _kill(lease)
    await course.report.tell(outcome)
    await _hand_in(course, lease, marker, broken)
    return outcome


async def _hand_in(course: _Course, lease: Owed, marker: Marker, broken: str | None) -> None:
    if broken:
        course.report.notes(Note(Action.CONDEMNED, f"Sandbox {marker.sandbox} is not used again: {broken}"))
    await lease.hand_in(broken, used=True)


async def _keep(course: _Course, pursuit: Pursuit, outcome: Outcome) -> None:
    """Take out the job's artifacts. Errors: DetachedError when the runner leaves before that is done."""
    files, cancellation, report = course.files, course.cancellation, course.report
    if not files.wanted(outcome):
        return
    taking = asyncio.create_task(take_out(pursuit.reach, files, outcome, pursuit.marker.workspace))
    await first(taking, cancellation.wait())
    if taking.done():
        report.remark(*taking.result())
        return
    await stop(taking)
    if cancellation.detached:
        raise DetachedError(_DETACHED)
    report.remark("The artifacts are not kept: the job was ended while they were collected.")


async def _end(flight: Flight, script: asyncio.Task[wire.Ended], held: Held) -> str | None:
    """End the script and everything it left, first from inside, as far as possible, then from outside.

    Returns why the sandbox must be condemned; None when it may be given back. The script's own end and transport errors
    no longer matter: the first cause counts.
    """
    await flight.end(script, KILL_REPORT)
    await stop(script)
    return await _kill(held)


async def _kill(lease: Owed) -> str | None:
    """End the job's processes from outside. Returns why the sandbox must be condemned, as `_end` does."""
    return None if await lease.kill() else "Processes of the job may be left in it."
