"""One hook's turn with its job: does the requested work in the job's sandbox, and streams its output to the hook."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from runner.errors import BadJobError, DetachedError
from runner.execution.cancellation import Cancellation
from runner.execution.ending import remarks_on_log
from runner.execution.flight import first
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import Note
from runner.gitlab import stages
from runner.gitlab.record import Record, StageNote, State
from runner.gitlab.stages import Stage
from runner.gitlab.tenancy import Attempt, Tenancy
from runner.gitlab.wire import Done, End
from runner.job import MAX_TIMEOUT, Job
from runner.outcome import BadRequest, Cancelled, Outcome, RunnerStopped, SandboxLost, TimedOut

REST: Final = 1.0
"""Seconds for the rest of a cancelled stage's output: a flooded log must not delay the end."""
SWEEP: Final = 10.0
"""Seconds for Docker to end the job's container once more."""
_NOTHING: Final = 1 << 62
"""An offset beyond all output."""
_MAX_REMARKS: Final = 20
_MAX_TEXT: Final = 2000
"""The most of the runner's own sentences that are kept for one stage, and the longest one, in characters."""


class Listener(Protocol):
    """Takes the output for one hook. If the hook is gone, the output is lost."""

    async def out(self, data: bytes) -> None:
        """Send the stage's output to the job's log, unchanged."""

    async def aside(self, data: bytes) -> None:
        """Send other output, which is not repeated when a stage is requested again."""

    async def tell(self, sentence: str) -> None:
        """Send a sentence of the runner's own to the job's log."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One hook's turn, in which no other hook uses the job."""

    record: Record
    tenancy: Tenancy
    hook: Listener
    cancellation: Cancellation
    """Requests for the end, from gitlab-runner or from the service."""
    environment: Mapping[str, str]
    """The environment of every script."""
    log_limit: int
    """Bytes of a stage's output that are kept."""
    sweep: bytes
    """A script that ends the job's container, in case an ended stage left it running; empty without a container."""

    async def first(self, call: str, stage: Stage) -> End:
        """Run a stage. Errors: DetachedError; GitLabError."""
        log = self.record.new_log(call, self.log_limit)
        remarks: list[str] = []

        def on_start(marker: Marker) -> None:
            note = StageNote(call=call, name=stage.name, marker=marker.to_json())
            self.record.move(State.RUNNING, stage=note)

        attempt = self._attempt(call, log, remarks)
        passing = self._pass_on(log, 0, self.hook.out)
        outcome = await self._live(log, passing, self._launch(attempt, stages.direct(stage.script), on_start))
        return await self._conclude(call, outcome, remarks + _remarks(log))

    async def again(self, note: StageNote, offset: int) -> End:
        """Report a stage's end, or follow a stage of an earlier life to its end. Errors: DetachedError; GitLabError."""
        marker = Marker.from_json(note.marker)
        log = self.record.old_log(note.call, marker.log_limit)
        if note.end is not None:
            log.shut()
            await self._pass_on(log, offset, self.hook.out)
            return await self._tell(note)
        if not self.tenancy.held:
            return await self._conclude(note.call, SandboxLost(self.record.note.lost), [])
        remarks: list[str] = []
        following = self.tenancy.follow(self._attempt(note.call, log, remarks), marker)
        outcome = await self._live(log, self._pass_on(log, offset, self.hook.out), following)
        return await self._conclude(note.call, outcome, remarks + _remarks(log))

    async def give_up(self, note: StageNote) -> None:
        """End a stage of an earlier life that no hook waits for. Errors: DetachedError; GitLabError."""
        cancellation = Cancellation()
        cancellation.request("the end of its hook")
        await replace(self, cancellation=cancellation).again(note, _NOTHING)

    async def aside(self, script: bytes, timeout: float = MAX_TIMEOUT) -> End:
        """Run a script of our own, not a stage, in the sandbox. Errors: DetachedError; GitLabError."""
        call = secrets.token_hex(16)
        log = self.record.aside_log(self.log_limit)
        attempt = self._attempt(call, log, [])
        passing = self._pass_on(log, 0, self.hook.aside)
        return stages.end_of(await self._live(log, passing, self._launch(attempt, script, lambda _: None, timeout)))

    def _attempt(self, call: str, log: Log, remarks: list[str]) -> Attempt:
        def note(news: Note) -> None:
            if news.action in ("remark", "lost"):
                remarks.append(news.text[:_MAX_TEXT])

        return Attempt(call, log, self.cancellation, note)

    async def _launch(
        self, attempt: Attempt, script: bytes, on_start: Callable[[Marker], None], timeout: float = MAX_TIMEOUT
    ) -> Outcome:
        """Run a script, unless it is already cancelled. Errors: DetachedError."""
        if self.cancellation.cause:
            return self.cancellation.cause
        if self.cancellation.detached:
            raise DetachedError("The runner left.")
        try:
            job = Job(script, environment=self.environment, timeout=min(self.record.job.timeout, timeout))
        except BadJobError as error:
            return BadRequest(str(error))
        return await self.tenancy.launch(attempt, job, on_start)

    async def _live(self, log: Log, pass_on: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Follow an attempt to its outcome while the hook gets the output.

        Errors: DetachedError, also when the runner leaves before a slow hook has all of the output.
        """
        passing = asyncio.create_task(pass_on)
        try:
            outcome = await work
            log.shut()  # a later life may read the file, and would take a line of ours for output
            await first(passing, self.cancellation.wait())
            if self.cancellation.detached and not passing.done():
                raise DetachedError("The runner left.")
            await asyncio.wait([passing], timeout=REST)
        finally:
            passing.cancel()
        return outcome

    async def _pass_on(self, log: Log, offset: int, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass the output on to the hook, from an offset on."""
        try:
            async for data in log.follow(offset):
                await take(data)
        except OSError as error:
            await self.hook.tell(f"The rest of the output could not be read: {error.strerror}.")

    async def _conclude(self, call: str, outcome: Outcome, remarks: list[str]) -> End:
        """Report how a stage ended, and note it."""
        outcome = await self._swept(outcome)
        end = stages.end_of(outcome)
        lost = outcome.why[:_MAX_TEXT] if isinstance(outcome, SandboxLost) else ""
        note = self.record.note.stage
        if self.record.state is State.OVER:
            return end
        if note is None or note.call != call:  # the stage was not sent
            self.record.change(lost=lost)
            return end
        note = note.model_copy(update={"end": stages.to_text(end), "remarks": tuple(remarks[-_MAX_REMARKS:])})
        self.record.move_soon(State.PREPARED, stage=note, lost=lost)
        return await self._tell(note)

    async def _swept(self, outcome: Outcome) -> Outcome:
        """Return a stage's outcome; if the stage was ended, first make sure that nothing runs in the job's container.

        The program that should end the container may have been killed before. The container's processes are no children
        of the stage's.
        """
        ended = isinstance(outcome, Cancelled | RunnerStopped | TimedOut)
        if not self.sweep or not ended or self.record.state is State.OVER:  # the end of a job sweeps the whole sandbox
            return outcome
        end = await replace(self, cancellation=Cancellation()).aside(self.sweep, SWEEP)
        return outcome if isinstance(end, Done) else SandboxLost("A cancelled stage's container could not be ended.")

    async def _tell(self, note: StageNote) -> End:
        for remark in note.remarks:
            await self.hook.tell(remark)
        return stages.from_text(note.end or "")


def _remarks(log: Log) -> list[str]:
    return remarks_on_log(log.dropped, log.limit, log.failure)
