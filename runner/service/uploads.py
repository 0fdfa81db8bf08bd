"""Archives that clients send before the jobs that need them, on the runner's disk.

An archive is kept while a job without outcome needs it; and for a day if no job has asked for it yet.
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
"""The most archives at once: each takes up to its limit of the disk."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_PART: Final = ".part"


class Uploads:
    """The folder of archives, which only this service uses. Every method blocks for as long as the disk takes."""

    def __init__(self, folder: Path) -> None:
        """Raises StateError when the folder cannot be used."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob(f"*{_PART}"):
                part.unlink()
        except OSError as error:
            raise StateError(f"The folder of archives {folder} is not usable: {error}.") from error

    def path(self, upload: str) -> Path:
        """Return where an archive lies, if it is there."""
        return self._folder / upload

    def has(self, upload: str) -> bool:
        """Return whether an archive is there."""
        return self.path(upload).is_file()

    def begin(self) -> Incoming:
        """Begin to receive another archive. Raises BusyError; StateError."""
        with _told():
            if sum(1 for _ in self._folder.iterdir()) >= MOST:
                raise BusyError(f"{MOST} archives wait for jobs already. Submit the jobs, and send it again.")
            return Incoming(self._folder)

    def remove_unused(self, used: Collection[str]) -> None:
        """Remove the archives that no job will need. If a removal fails, the next call tries again."""
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                waits = path.stat().st_mtime > time.time() - KEPT
                if _ID.fullmatch(path.name) and path.name not in used and not waits:
                    path.unlink()

    def remove(self, upload: str) -> None:
        """Remove an archive. Idempotent."""
        with contextlib.suppress(OSError):  # `remove_unused` removes it later
            self.path(upload).unlink(missing_ok=True)


class Incoming:
    """An archive that is being received. It is kept whole or not at all. Every method but `close` raises StateError."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self.id = uuid.uuid4().hex
        self._folder = folder
        self._part = folder / f"{self.id}{_PART}"
        self._file: BinaryIO = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, piece: bytes) -> None:
        """Write the next bytes."""
        with _told():
            self._file.write(piece)

    def keep(self) -> int:
        """Write the archive to disk, and return its size."""
        with _told():
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._part.rename(self._folder / self.id)
            durable.sync(self._folder)  # else a host's crash may undo the rename, and the next start removes the part
            return size

    def close(self) -> None:
        """Remove the archive unless it was kept. Idempotent."""
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
