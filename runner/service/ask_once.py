"""Keeps one answer for a second, so that many callers cause one question."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_FRESH: Final = 1.0
"""Seconds for which an answer is reused."""

_T = TypeVar("_T")


class AskOnce(Generic[_T]):
    """Asks one question at a time, and for `_FRESH` seconds gives the same answer. Needs a running event loop.

    An error goes to every caller that waits for that answer; a later caller asks again.
    """

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._answer: asyncio.Task[_T] | None = None
        self._old = 0.0

    async def __call__(self) -> _T:
        if self._answer is None or (self._answer.done() and time.monotonic() > self._old):
            self._answer = asyncio.create_task(self._asked())
        return await asyncio.shield(self._answer)

    async def _asked(self) -> _T:
        answer = await self._ask()
        self._old = time.monotonic() + _FRESH
        return answer
