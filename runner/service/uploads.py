"""Archives that clients send before the jobs that need them, on the runner's disk.

One is kept while a job needs it that has no outcome yet; and one that no job has asked for yet, for a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from runner import durable
from runner.errors import BusyError, StateError

KEPT: Final = 24 * 3600.0
"""Seconds that an archive waits for its job."""
MOST: Final = 1000
"""Archives at once: each takes up to its limit of the disk."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_PART: Final = ".part"


class Uploads:
    """The folder of archives, which is this service's own. Every method blocks for as long as the disk takes."""

    def __init__(self, folder: Path) -> None:
        """Raises StateError when it cannot be used."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob(f"*{_PART}"):
                part.unlink()
        except OSError as error:
            raise StateError(f"The folder of archives {folder} is not usable: {error}.") from error

    def path(self, upload: str) -> Path:
        """Where an archive lies, if it is there."""
        return self._folder / upload

    def has(self, upload: str) -> bool:
        """Whether it is there."""
        return self.path(upload).is_file()

    def begin(self) -> Incoming:
        """Begin to keep another one. Raises BusyError; StateError."""
        with _told():
            if sum(1 for _ in self._folder.iterdir()) >= MOST:
                raise BusyError(f"{MOST} archives wait for jobs already. Submit the jobs, and send it again.")
            return Incoming(self._folder)

    def remove_unused(self, used: Collection[str]) -> None:
        """Remove those that no job will need. What cannot be removed is tried again the next time."""
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                waits = path.stat().st_mtime > time.time() - KEPT
                if _ID.fullmatch(path.name) and path.name not in used and not waits:
                    path.unlink()

    def remove(self, upload: str) -> None:
        """Have it be gone. Idempotent."""
        with contextlib.suppress(OSError):  # it goes with those that nobody asked for
            self.path(upload).unlink(missing_ok=True)


class Incoming:
    """An archive that is being sent. Whole or not at all. Every method but `close` raises StateError."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self.id = uuid.uuid4().hex
        self._folder = folder
        self._part = folder / f"{self.id}{_PART}"
        self._file: BinaryIO = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        with _told():
            self._file.write(piece)

    def keep(self) -> int:
        """Have it on disk, and return its size."""
        with _told():
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._part.rename(self._folder / self.id)
            durable.sync(self._folder)  # else a crash of the host may undo that, and the next start removes the part
            return size

    def close(self) -> None:
        """Forget what was not kept. Idempotent."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"The archive cannot be kept: {error.strerror}. Make room in the state folder.") from error
