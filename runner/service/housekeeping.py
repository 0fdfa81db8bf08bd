"""Looks after the state folder while the service runs: forgets old jobs, and watches the disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runner import spool
from runner.errors import StateError
from runner.logs import Action, Events
from runner.service.records import Records
from runner.service.retention import RETENTION, Retention, to_forget
from runner.service.watermark import MARKS, Disk, Marks, Room, judge

_events = Events(__name__)

_LOOK: Final = 1.0
"""Seconds between two looks at the disk. In that time even a fast disk writes less than the room below the mark."""
_SWEEP: Final = 60.0
"""Seconds between two looks for old jobs."""


def room_of(folder: Path) -> Room:
    """Return the room on the disk of a folder. Raises OSError."""
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


class Housekeeper:
    """Keeps one state folder. `disk` is the state of its disk at the last look."""

    def __init__(
        self,
        records: Records,
        retention: Retention = RETENTION,
        marks: Marks = MARKS,
        look: Callable[[Path], Room] = room_of,
    ) -> None:
        self._records = records
        self._retention = retention
        self._marks = marks
        self._look = look
        self.disk = Disk.WELL
        self.room = Room(0, 0)
        self.look()

    def follow(self, retention: Retention, marks: Marks) -> None:
        """Use other limits from the next look on."""
        self._retention, self._marks = retention, marks

    @property
    def shortage(self) -> str:
        """Return why nothing new may start, as a sentence; empty when it may."""
        if self.disk is Disk.WELL:
            return ""
        return f"The disk of the runner's state folder has {self.room}. Make room there."

    def tidy(self) -> None:
        """Remove what crashed processes left on the state folder's disk and in the temporary folder. Never fails."""
        if left := spool.remove_leftovers() + spool.remove_leftovers(self._records.folder.parent):
            _events.info(Action.LEFTOVERS_REMOVED, f"{left} folders that crashed processes had left were removed")

    def look(self) -> None:
        """Look at the disk. Never fails: if the disk cannot be read, the last result stays."""
        try:
            self.room = self._look(self._records.folder)
        except OSError as error:
            _events.warning(Action.STORE_FAILED, f"the disk of the state folder does not tell its room: {error}")
            return
        before, self.disk = self.disk, judge(self.disk, self.room, self._marks)
        if self.disk is not before:
            what = self.shortage or f"{self.room}; jobs start again."
            _events.warning(Action(f"disk_{self.disk}"), what)

    def sweep(self) -> list[str]:
        """Forget the jobs that are too old or too many, and return their ids. Raises StateError."""
        gone = list(to_forget(self._records.finished(), time.time(), self._retention))
        self._records.forget(gone)
        if gone:
            _events.info(Action.FORGOTTEN, f"{len(gone)} finished jobs were forgotten, with their logs")
        return gone

    async def work(self) -> None:
        """Tidy up once; then sweep and look at the disk, again and again, until cancelled."""
        await asyncio.to_thread(self.tidy)
        while True:
            await self._sweep()
            end = time.monotonic() + _SWEEP
            while time.monotonic() < end:
                await asyncio.sleep(_LOOK)
                await asyncio.to_thread(self.look)

    async def _sweep(self) -> None:
        try:
            await asyncio.to_thread(self.sweep)
        except StateError as error:
            _events.error(Action.STORE_FAILED, f"{error} Old jobs are looked for again soon.")
