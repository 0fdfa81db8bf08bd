"""Ask for the end of an attempt, or ask the runner to leave it; and finish work although its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from runner.outcome import Cancelled, Limit, RunnerStopped, TimedOut

_T = TypeVar("_T")


class Cancellation:
    """A request for the end of one attempt. The first request counts; later ones change nothing."""

    def __init__(self) -> None:
        self._cause: Cancelled | RunnerStopped | TimedOut | None = None
        self._detached = False
        self._requested = asyncio.Event()

    @property
    def cause(self) -> Cancelled | RunnerStopped | TimedOut | None:
        """Why the attempt must end; None while nobody asked for its end."""
        return self._cause

    def request(self, by: str) -> None:
        """Ask for the end; `by` completes the sentence "the script was cancelled by …"."""
        self._request(Cancelled(by))

    def stop_runner(self, why: str) -> None:
        """Ask for the end because the runner itself stops; `why` is a sentence."""
        self._request(RunnerStopped(why))

    def expire(self, limit: Limit) -> None:
        """Ask for the end because a time limit ran out."""
        self._request(TimedOut(limit))

    def detach(self) -> None:
        """Ask the runner to leave without ending the job: the attempt ends with DetachedError.

        Has no effect after somebody asked for the end.
        """
        self._detached = self._cause is None
        self._requested.set()

    @property
    def detached(self) -> bool:
        """Whether the runner must leave the job running; a later request for its end then has no effect."""
        return self._detached

    async def wait(self) -> None:
        """Wait until somebody asks for the end or for the runner to leave."""
        await self._requested.wait()

    def _request(self, cause: Cancelled | RunnerStopped | TimedOut) -> None:
        if not self._detached:
            self._cause = self._cause or cause
            self._requested.set()


async def see_through(work: Coroutine[Any, Any, _T], on_cancel: Callable[[], None] = lambda: None) -> _T:
    """Run `work` to its own end even when the caller is cancelled, even repeatedly; then pass the cancellation on.

    `on_cancel` is called at each cancellation, to tell the work that it should end. The work limits its own time.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    if cancelled:
        if not task.cancelled():
            task.exception()  # the caller gets the cancellation instead
        raise cancelled
    return task.result()
