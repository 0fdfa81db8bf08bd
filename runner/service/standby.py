"""A sandbox that is leased and logged in to before there is a job, so that the next job does not wait for either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from runner.errors import RunnerError
from runner.execution.lease import LeaseSource
from runner.execution.prepare import Prepared, prepare

_logger = logging.getLogger(__name__)

#: Seconds between two looks for a sandbox to spare.
_RETRY: Final = 1.0
#: Ready sandboxes there must be before one is taken in advance: the other is for whoever else asks the keeper.
_SPARE: Final = 2


class Standby:
    """Keeps one prepared sandbox for the profile and trust key of the last job."""

    def __init__(self, leases: LeaseSource, ready: Callable[[str], Awaitable[int]]) -> None:
        """`ready` tells how many sandboxes of a profile nobody has leased. Needs a running event loop."""
        self._leases = leases
        self._ready = ready
        self._wanted = ("default", "default")
        self._prepared: Prepared | None = None
        self._lacking = asyncio.Event()
        self._lacking.set()
        self._task = asyncio.create_task(self._keep())

    async def take(self, profile: str, trust_key: str) -> Prepared | None:
        """Return the prepared sandbox when there is one that suits; it is the caller's then."""
        prepared, self._prepared = self._prepared, None
        suits = self._wanted == (profile, trust_key)
        self._wanted = (profile, trust_key)
        self._lacking.set()
        if prepared is None or (suits and prepared.usable):
            return prepared
        await prepared.release()
        return None

    async def close(self) -> None:
        """Give back what is held. Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await prepared.release()

    async def _keep(self) -> None:
        while True:
            await self._lacking.wait()
            wanted = self._wanted
            try:
                if await self._ready(wanted[0]) >= _SPARE:
                    prepared = await prepare(self._leases, *wanted)
                    if wanted == self._wanted and self._prepared is None:
                        self._prepared = prepared
                        self._lacking.clear()
                    else:
                        await prepared.release()
                    continue
            except RunnerError as error:
                _logger.info("no sandbox in advance: %s", error)
            await asyncio.sleep(_RETRY)
