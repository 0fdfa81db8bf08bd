"""One script in one sandbox, from its first byte to its outcome: waits for the first cause of its end, and ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

from runner.errors import DetachedError, LaunchRefusedError, RunnerError
from runner.execution import wire
from runner.execution.cancellation import Cancellation
from runner.execution.ending import outcome_of
from runner.execution.heartbeat import Heartbeat
from runner.execution.pursuit import CATCH_UP, Pursuit
from runner.logs import Action, Events
from runner.outcome import Killed, Limit, Outcome, SandboxLost, ScriptFailed, SetupFailed, TimedOut

_events = Events(__name__)

BACKSTOP: Final = 10.0
"""Seconds that the runner waits after the launcher itself should have ended the job."""


class Flight:
    """Watches a script, which a task of its own follows: a `Pursuit`'s `launch` or `follow`."""

    def __init__(self, pursuit: Pursuit, heartbeat: Heartbeat, cancellation: Cancellation) -> None:
        self._pursuit = pursuit
        self._heartbeat = heartbeat
        self._cancellation = cancellation

    async def first_cause(self, script: asyncio.Task[wire.Ended]) -> Outcome:
        """Wait for the outcome: the first cause counts. Errors: DetachedError when the runner must leave."""
        for timeout in self._waits():
            await self._news(script, timeout)
            if script.done() and not script.exception():
                return await self._believed(outcome_of(script.result()))
            if self._cancellation.cause:
                return self._cancellation.cause
            if self._cancellation.detached:
                raise DetachedError("The runner left.")
            if script.done():
                return _broken(script.exception())
            if self._heartbeat.is_lost:
                return self._taken_away()
            if self._pursuit.settled:
                break
        return TimedOut(Limit.JOB)

    async def end(self, script: asyncio.Task[wire.Ended], report: float) -> bool:
        """End the script from inside: TERM, the grace, KILL, and `report` seconds for the launcher to report the end.

        Returns whether the launcher reported that the script and all its processes ended. How they ended no longer
        matters.
        """
        for number, seconds in ((signal.SIGTERM, self._pursuit.settings.grace), (signal.SIGKILL, report)):
            if script.done() or not self._pursuit.connected:
                break
            self._pursuit.signal(number)
            await asyncio.wait([script], timeout=seconds)
        ended = script.done() and not script.cancelled() and not script.exception()
        return ended and script.result().left == 0

    async def _believed(self, outcome: Outcome) -> Outcome:
        """Return SandboxLost for a failure if the lease is gone, as the sandbox may have broken; else the outcome."""
        failed = isinstance(outcome, ScriptFailed | Killed)
        return self._taken_away() if failed and await self._heartbeat.lost_by_now() else outcome

    def _taken_away(self) -> SandboxLost:
        return SandboxLost(f"The lease was taken away while the script was running. {self._heartbeat.why}")

    def _waits(self) -> list[float | None]:
        """Return how long to wait for news, and how long again while the report of an end may be on its way.

        The launcher enforces the timeout, so a script may have ended in time while there was no connection.
        """
        if self._pursuit.marker.timeout is None:
            return [None]
        left = (
            self._pursuit.marker.timeout
            + self._pursuit.settings.grace
            + BACKSTOP
            - self._pursuit.marker.started.elapsed()
        )
        return [max(0.0, left), self._pursuit.settings.reconnect_deadline + CATCH_UP]

    async def _news(self, script: asyncio.Task[wire.Ended], timeout: float | None) -> None:
        await first(script, self._cancellation.wait(), self._heartbeat.wait_lost(), timeout=timeout)


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task that limits its own clean-up, and wait for its end, whatever its result."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def first(task: asyncio.Task[Any], *others: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    """Wait until the task or any of the others is done, then cancel the others."""
    watched = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait([task, *watched], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for other in watched:
            other.cancel()


def sentence(error: BaseException | None) -> str:
    """Return an error as a sentence for users. An error that is no RunnerError goes to the runner's own log."""
    if isinstance(error, RunnerError):
        return str(error)
    _events.error(Action.DEFECT, "An error of the runner's own ended an attempt.", error=error)
    return f"The runner met an error of its own ({type(error).__name__}). Please report it with the runner's log."


def _broken(error: BaseException | None) -> Outcome:
    """Return the outcome of a script that can no longer be followed."""
    if isinstance(error, LaunchRefusedError):
        return SetupFailed(str(error))
    return SandboxLost(sentence(error))
