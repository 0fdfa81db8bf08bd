"""Whether the service lives, whether it is ready, and what it measures. Each question is asked once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar

from runner.errors import LeaseError, LeaseUnreachableError, StateError
from runner.service.ask_once import AskOnce
from runner.service.mode import Mode
from runner.service.service import Service
from runner.store.threads import reading, writing

STORE_DEADLINE: Final = 3.0
KEEPER_DEADLINE: Final = 5.0
"""Seconds for the state folder and for the keeper to answer; a scrape by Prometheus takes at most ten."""

_T = TypeVar("_T")


class Reason(StrEnum):
    """Why the service is not ready."""

    STARTING = "starting"
    """The runner looks for jobs that an earlier life left running."""
    DRAINING = "draining"
    """The runner takes jobs, but they wait until somebody resumes it."""
    STOPPING = "stopping"
    """The runner takes no more jobs."""
    DISK = "disk"
    """The disk of the state folder is too full for another job."""
    STORE = "store"
    """The state folder cannot be written."""
    KEEPER = "keeper"
    """No keeper can be reached that lends a sandbox."""


class Health:
    """The health of one service. Needs a running event loop."""

    def __init__(self, service: Service, keeper: Callable[[], Awaitable[str]] | None) -> None:
        """`keeper` returns the keeper's metrics (errors: LeaseError); None where there is no keeper."""
        self._service = service
        self._alive = AskOnce(self._store_reads)
        self._store = AskOnce(self._store_trouble)
        self._ask_keeper = keeper
        self._keeper = AskOnce(self._keeper_says)

    async def check_alive(self) -> None:
        """Check that the store answers. Errors: StateError."""
        await self._alive()

    async def unready(self) -> dict[Reason, str]:
        """Return why the service is not ready, as sentences; empty when it is."""
        store, (keeper, _) = await asyncio.gather(self._store(), self._keeper())
        service = self._service
        told = {
            Reason.STARTING: "" if service.reconciled else "The runner starts, and looks for what it left running.",
            Reason.DRAINING: "The runner is draining; jobs wait." if service.mode is Mode.DRAINING else "",
            Reason.STOPPING: "" if service.mode.takes else "The runner is stopping and takes no more jobs.",
            Reason.DISK: service.housekeeper.shortage,
            Reason.STORE: store,
            Reason.KEEPER: keeper,
        }
        return {reason: sentence for reason, sentence in told.items() if sentence}

    async def metrics(self) -> str:
        """Return the metrics of the service and its keeper in Prometheus's text format. Errors: StateError."""
        unready, (_, of_keeper) = await asyncio.gather(self.unready(), self._keeper())
        jobs, oldest = await _in_time(reading(self._service.records.jobs.counts))
        waited = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        slots = (self._service.running, self._service.slots)
        room = self._service.housekeeper.room
        own = self._service.records.metrics
        own.show(jobs, waited, slots, (room.free, room.size), {reason: reason in unready for reason in Reason})
        if self._ask_keeper is not None:
            own.keeper_answered(Reason.KEEPER not in unready)
        return own.text() + of_keeper

    async def _store_reads(self) -> None:
        await _in_time(reading(self._service.records.jobs.try_reading))

    async def _store_trouble(self) -> str:
        try:
            await _in_time(writing(self._service.records.jobs.try_writing))
        except StateError as error:
            return str(error)
        return ""

    async def _keeper_says(self) -> tuple[str, str]:
        """Return what is wrong with the keeper, and its metrics."""
        if self._ask_keeper is None:
            return "", ""
        try:
            async with asyncio.timeout(KEEPER_DEADLINE):
                return "", await self._ask_keeper()
        except TimeoutError:
            return f"The keeper did not answer within {KEEPER_DEADLINE:g} s; look at its log.", ""
        except LeaseUnreachableError as error:
            return str(error), ""
        except LeaseError:  # a keeper of an earlier release, which measures nothing
            return "", ""


async def _in_time(answer: Awaitable[_T]) -> _T:
    """Limit the time for an answer of the state folder. Errors: StateError."""
    try:
        async with asyncio.timeout(STORE_DEADLINE):
            return await answer
    except TimeoutError:
        raise StateError(
            f"The state folder does not answer within {STORE_DEADLINE:g} s. Does its disk still work?"
        ) from None
