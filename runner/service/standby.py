"""A sandbox that is leased and logged in to before there is a job, so that the next job does not wait for either.

One for all jobs, those of GitLab among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from runner.errors import RunnerError
from runner.execution.cancellation import see_through
from runner.execution.lease import LeaseSource
from runner.execution.options import DEFAULTS, Settings
from runner.execution.prepare import Prepared, prepare
from runner.logs import Action, Events

_events = Events(__name__)

#: Seconds between two looks at what there is to spare.
_INTERVAL: Final = 1.0
#: Ready sandboxes there must be before one is taken in advance: the other is for whoever else asks the keeper.
_SPARE: Final = 2
#: Seconds that a sandbox is kept for a job without timeout while no runner is heard of.
PATIENCE: Final = 24 * 3600.0
#: Seconds to wait for a sandbox: there was one to spare a moment ago, and a job may wait for us meanwhile.
_LEND_WAIT: Final = 5.0


class Standby:
    """Keeps one prepared sandbox for the profile and trust key of the last job, while others are ready besides.

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
        self._wanted = ("default", "default")
        self._held: asyncio.Task[Prepared] | None = None
        self._keeping = asyncio.create_task(self._keep())

    async def take(self, profile: str, trust_key: str) -> Prepared | None:
        """Return the prepared sandbox when there is one that suits; it is the caller's then.

        Being cancelled leaves nothing leased.
        """
        held, self._held = self._held, None
        self._wanted = (profile, trust_key)
        try:
            prepared = await _result(held)
        except asyncio.CancelledError:
            await see_through(_drop(held))
            raise
        if prepared is None or (prepared.usable and self._wanted == (prepared.profile, prepared.trust_key)):
            return prepared
        await prepared.release()
        return None

    async def close(self) -> None:
        """Give back what is held. Idempotent."""
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        await self._release()

    async def _keep(self) -> None:
        while True:
            try:
                spare = await self._ready(self._wanted[0])
            except RunnerError as error:
                _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {error}")
                spare = 0
            if self._held is None and spare >= _SPARE:
                self._held = asyncio.create_task(prepare(self._leases, *self._wanted, settings=self._settings))
            elif self._held is not None and self._held.done() and (spare == 0 or not _usable(self._held)):
                await self._release()
            await asyncio.sleep(_INTERVAL)

    async def _release(self) -> None:
        held, self._held = self._held, None
        if (prepared := await _result(held)) is not None:
            await prepared.release()


def _usable(held: asyncio.Task[Prepared]) -> bool:
    return held.exception() is None and held.result().usable


async def _drop(held: asyncio.Task[Prepared] | None) -> None:
    """Have a preparation end with nothing leased."""
    if held is not None:
        held.cancel()
        await asyncio.wait([held])
        if not held.cancelled() and held.exception() is None:
            await held.result().release()


async def _result(held: asyncio.Task[Prepared] | None) -> Prepared | None:
    """What the preparation came to, None when it failed."""
    if held is None:
        return None
    await asyncio.wait([held])
    if error := held.exception():
        _events.info(Action.STANDBY_FAILED, f"no sandbox in advance: {error}")
        return None
    return held.result()
