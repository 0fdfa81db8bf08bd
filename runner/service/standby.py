"""A sandbox that is leased and logged in to before there is a job, so that the next job does not wait for either.

One for all jobs, those of GitLab among them.
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
"""Seconds between two looks at what there is to spare."""
_SPARE: Final = 2
"""Ready sandboxes there must be before one is taken in advance: the other is for whoever else asks the keeper."""
PATIENCE: Final = 24 * 3600.0
"""Seconds that a sandbox is kept for a job without timeout while no runner is heard of."""
_LEND_WAIT: Final = 5.0
"""Seconds to wait for a sandbox: there was one to spare a moment ago, and a job may wait for us meanwhile."""


class Standby:
    """Keeps one prepared sandbox for another job that wants what the last one did, while others are ready besides.

    It is given back as soon as nobody else would find a ready one: a sandbox that is held for a job that may come must
    never keep one waiting that is there.
    """

    def __init__(
        self, leases: LeaseSource, ready: Callable[[str], Awaitable[int]], settings: Settings = DEFAULTS
    ) -> None:
        """`ready` tells how many sandboxes of a profile nobody has leased. Needs a running event loop."""
        self._settings = replace(settings, lend_wait=_LEND_WAIT, patience=PATIENCE, source_deadline=0.0)
        self._leases = leases
        self._ready = ready
        self._wanted = Wanted("default")
        self._held: _Held | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        self._keeping = lasting("the look for a sandbox in advance", self._keep)

    async def take(self, wanted: Wanted) -> Prepared | None:
        """Return the prepared sandbox when there is one that suits; it is the caller's then.

        Waits for one that is being prepared, unless it will not suit. Being cancelled ends that at once, and leaves
        nothing leased in the end.
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
        await asyncio.wait([self._drop(held)])  # it may be the one that the keeper lends next
        return None

    async def close(self) -> None:
        """Give back what is held. Idempotent."""
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
            if said and said != trouble:  # a keeper that is away for an hour is told once
                _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {said}")
            trouble = said
            if self._held is None and spare >= _SPARE:
                self._held = self._prepare(self._wanted)
            elif self._held is not None and self._held.task.done() and (spare == 0 or not _usable(self._held)):
                await self._release()
            await asyncio.sleep(_INTERVAL)

    async def _profile(self) -> str:
        """Whose sandboxes are counted: that of the one that is held, or will be. Errors: BadJobError; LeaseError."""
        if self._held is not None and self._held.task.done() and self._held.task.exception() is None:
            return self._held.task.result().profile
        return await profile_for(self._leases, self._wanted)

    def _prepare(self, wanted: Wanted) -> _Held:
        return _Held(wanted, asyncio.create_task(prepare(self._leases, wanted, settings=self._settings)))

    def _drop(self, held: _Held) -> asyncio.Task[None]:
        """Have a preparation end with nothing leased, in the background: a keeper that is away takes its time."""
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
    """What the preparation came to, None when it failed."""
    await asyncio.wait([held.task])
    if error := held.task.exception():
        _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {error}")
        return None
    return held.task.result()
