"""Every job that the service knows, over its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Final

from runner.errors import StateError
from runner.job import Job
from runner.service.documents import Submission, Ticket
from runner.service.record import JobState, Record, create, load

#: Finished jobs that are remembered; older ones go.
KEPT: Final = 1000

_ID: Final = re.compile(r"[0-9a-f]{32}")
#: A folder that was not complete yet, or not any more.
_REMNANT: Final = re.compile(r"[0-9a-f]{32}\.(new|old)")


class Records:
    """All jobs, those of earlier lives of the service too. The folder is this service's own.

    Raises StateError when the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = sorted(_found(folder), key=lambda record: record.ticket.number)
        except OSError as error:
            raise StateError(f"The state folder {folder} is not usable: {error}.") from error
        self._records = {record.id: record for record in found}
        self._next = max((record.ticket.number for record in found), default=0) + 1

    def get(self, job_id: str) -> Record | None:
        """The job of that id, if it is known."""
        return self._records.get(job_id)

    def unfinished(self) -> list[Record]:
        """The jobs that have not ended, in the order in which they were submitted."""
        return [record for record in self._records.values() if record.state is not JobState.FINISHED]

    async def add(self, job: Job) -> Record:
        """Take a job: it is on disk when this returns. Raises StateError, also on a full disk."""
        await self._forget_old()
        ticket = Ticket(self._next, time.time())
        self._next += 1
        record = Record(self._folder / uuid.uuid4().hex, ticket, job)
        try:
            await asyncio.to_thread(create, record.folder, Submission(ticket, job))
        except OSError as error:
            await asyncio.to_thread(_remove, record.folder)
            raise StateError(f"The job cannot be kept: {error.strerror}. Make room in the state folder.") from error
        self._records[record.id] = record
        return record

    async def _forget_old(self) -> None:
        finished = [record for record in self._records.values() if record.state is JobState.FINISHED]
        for record in finished[: max(0, len(finished) - KEPT + 1)]:
            del self._records[record.id]
            await asyncio.to_thread(_remove, record.folder)


def _found(folder: Path) -> list[Record]:
    records = []
    for entry in folder.iterdir():
        if entry.is_symlink() or not entry.is_dir():
            continue
        if _ID.fullmatch(entry.name):
            records.append(load(entry))
        elif _REMNANT.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
    return records


def _remove(folder: Path) -> None:
    """Remove a job's folder; a crash on the way must not leave a part of it under its name."""
    remnants = [folder.with_suffix(suffix) for suffix in (".new", ".old")]
    with contextlib.suppress(OSError):  # it is not there yet, or stays until the next start
        folder.replace(remnants[1])
    for remnant in remnants:
        shutil.rmtree(remnant, ignore_errors=True)
