"""A sandbox that is leased and logged in to before there is a job, so that the next job waits for neither.

All jobs, including those of GitLab, share one such sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from runner.errors import RunnerError
from runner.execution.lease import LeaseSource
from runner.execution.options import DEFAULTS, Settings
from runner.execution.prepare import Prepared, prepare, profile_for
from runner.logs import Action, Events
from runner.placement import Wanted
from runner.service.lasting import lasting

_events = Events(__name__)

_INTERVAL: Final = 1.0
"""Seconds between two looks for spare sandboxes."""
_SPARE: Final = 2
"""How many sandboxes must be ready before one is taken in advance: the other is for other clients of the keeper."""
PATIENCE: Final = 24 * 3600.0
"""Seconds to keep the sandbox of a job without timeout while no runner is heard of."""
_LEND_WAIT: Final = 5.0
"""Seconds to wait for a sandbox: one was ready a moment ago, and a job may wait for this one meanwhile."""


class Standby:
    """Keeps one prepared sandbox for another job like the last one, while other sandboxes are ready besides.

    It gives the sandbox back as soon as no other is ready: a sandbox that is held for a future job must never keep a
    present one waiting.
    """

    def __init__(
        self, leases: LeaseSource, ready: Callable[[str], Awaitable[int]], settings: Settings = DEFAULTS
    ) -> None:
        """`ready` returns how many sandboxes of a profile nobody has leased. Needs a running event loop."""
        self._settings = replace(settings, lend_wait=_LEND_WAIT, patience=PATIENCE, source_deadline=0.0)
        self._leases = leases
        self._ready = ready
        self._wanted = Wanted("default")
        self._held: _Held | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        self._keeping = lasting("the look for a sandbox in advance", self._keep)

    async def take(self, wanted: Wanted) -> Prepared | None:
        """Return the prepared sandbox if it suits; the caller owns it then.

        If a sandbox is being prepared, wait for it unless it will not suit. Cancellation ends the wait at once, and
        nothing stays leased in the end.
        """
        held, self._held = self._held, None
        self._wanted = wanted
        if held is None:
            return None
        if held.wanted != wanted and not held.task.done():
            self._drop(held)
            return None
        try:
            prepared = await _result(held)
        except asyncio.CancelledError:
            self._drop(held)
            raise
        if prepared is None or (prepared.usable and held.wanted == wanted):
            return prepared
        await asyncio.wait([self._drop(held)])  # the keeper may lend this very sandbox next
        return None

    async def close(self) -> None:
        """Give back the prepared sandbox. Idempotent."""
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        await self._release()
        if self._dropping:
            await asyncio.wait(self._dropping)

    async def _keep(self) -> None:
        trouble = ""
        while True:
            try:
                spare, said = await self._ready(await self._profile()), ""
            except RunnerError as error:
                spare, said = 0, str(error)
            if said and said != trouble:  # log the trouble once, even if the keeper is away for an hour
                _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {said}")
            trouble = said
            if self._held is None and spare >= _SPARE:
                self._held = self._prepare(self._wanted)
            elif self._held is not None and self._held.task.done() and (spare == 0 or not _usable(self._held)):
                await self._release()
            await asyncio.sleep(_INTERVAL)

    async def _profile(self) -> str:
        """Return the profile of the sandbox that is held, or will be, to count it. Errors: BadJobError; LeaseError."""
        if self._held is not None and self._held.task.done() and self._held.task.exception() is None:
            return self._held.task.result().profile
        return await profile_for(self._leases, self._wanted)

    def _prepare(self, wanted: Wanted) -> _Held:
        return _Held(wanted, asyncio.create_task(prepare(self._leases, wanted, settings=self._settings)))

    def _drop(self, held: _Held) -> asyncio.Task[None]:
        """Cancel a preparation and release its lease, in the background: a keeper that is away takes its time."""
        dropping = asyncio.create_task(_dropped(held.task))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)
        return dropping

    async def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None and (prepared := await _result(held)) is not None:
            await prepared.release()


@dataclass(frozen=True, slots=True)
class _Held:
    """A sandbox that is prepared, or will be."""

    wanted: Wanted
    task: asyncio.Task[Prepared]


def _usable(held: _Held) -> bool:
    return held.task.exception() is None and held.task.result().usable


async def _dropped(preparing: asyncio.Task[Prepared]) -> None:
    preparing.cancel()
    await asyncio.wait([preparing])
    if not preparing.cancelled() and preparing.exception() is None:
        await preparing.result().release()


async def _result(held: _Held) -> Prepared | None:
    """Return the result of a preparation; None when it failed."""
    await asyncio.wait([held.task])
    if error := held.task.exception():
        _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {error}")
        return None
    return held.task.result()
