"""Caches of GitLab jobs on the runner's disk: one file each, separated by owner, with a common cap.

The caches leave the disk enough room to be well. It may be the state folder's disk, and no job should have to wait
because of caches, which can be made again.

A cache is a user's archive: it is stored unchanged and never opened here. Its file begins with one line of JSON that
describes it; the file's name is only the hash of its path. A crash leaves a whole old or a whole new file, and at most
a partial file that the next start removes. The cache that was unused for the longest time is dropped first. All methods
block on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from runner import durable
from runner.errors import CacheError
from runner.execution.transfer import File
from runner.service.housekeeping import room_of
from runner.service.watermark import MARKS, Marks, Room

_MAX_HEAD: Final = 16 * 1024
"""The most bytes of the first line."""
_PART: Final = ".part"
_FULL: Final = "the disk of the runner's caches has no room for it"


class CacheStore:
    """All caches of one runner. Several threads may call its methods at a time."""

    def __init__(self, folder: Path, limit: int, marks: Marks = MARKS, look: Callable[[Path], Room] = room_of) -> None:
        """Open a store in a folder of its own, with at most `limit` bytes. Errors: CacheError."""
        self._folder = folder
        self._limit = limit
        self._marks = marks
        self._look = look
        self._guard = threading.Lock()
        self._promised = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = durable.lock(folder / "lock")
        except (OSError, ValueError) as error:
            raise CacheError(f"The cache folder {folder} cannot be used: {error}.") from error
        if self._lock is None:
            raise CacheError(f"The cache folder {folder} is used by another runner. Give each a folder of its own.")
        for part in folder.glob(f"*/*{_PART}"):
            part.unlink(missing_ok=True)
        self.shrink()

    def follow(self, marks: Marks) -> None:
        """Leave another amount of room on the disk, from the next look on."""
        self._marks = marks

    def shrink(self) -> None:
        """Drop caches above the cap, and those whose room the disk now needs. Never fails."""
        with contextlib.suppress(OSError), self._guard:  # a disk that cannot be read now is tried again later
            self._fit()

    def close(self) -> None:
        """Release the folder for another runner."""
        if self._lock:
            self._lock.close()

    def entries(self, owner: str) -> list[File]:
        """Return the caches of an owner, each as the file that it was in a sandbox's cache folder."""
        found = []
        for path in self._home(owner).glob("*"):
            if path.suffix == _PART:
                continue
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                found.append(_read_head(file))
        return found

    @contextlib.contextmanager
    def read(self, owner: str, entry: File) -> Iterator[BinaryIO]:
        """Open a cache at its first byte, and note that it was used. Raises FileNotFoundError when it was dropped."""
        path = self._file(owner, entry.path)
        with path.open("rb") as file:
            _read_head(file)
            _touch(path)
            yield file

    @contextlib.contextmanager
    def write(self, owner: str, entry: File) -> Iterator[BinaryIO]:
        """Take the bytes of a cache, which exists on disk once the block ends without an error.

        Once all bytes have come, the caches unused for the longest time are dropped for it, but not earlier, since its
        size is only a claim until then. Errors: CacheError when there is no room; OSError of the disk.
        """
        head = json.dumps({"path": entry.path, "size": entry.size, "changed": entry.changed}).encode() + b"\n"
        path = self._file(owner, entry.path)
        part = path.with_name(f"{path.name}-{os.urandom(8).hex()}{_PART}")
        with self._promised_room(len(head) + entry.size):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(head)
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _touch(part)
                with self._guard:
                    if not self._fit():
                        raise CacheError(_FULL)
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        durable.sync(path.parent)

    @contextlib.contextmanager
    def _promised_room(self, size: int) -> Iterator[None]:
        """Reserve room for a file to be written, if there is room or can be made. Nothing is dropped for it yet."""
        if size > self._limit:
            raise CacheError(f"it has {size} bytes, and this runner keeps {self._limit} bytes of caches in all")
        with self._guard:
            if self._promised + size > self._limit:
                raise CacheError("other caches that are being kept take all the room there is")
            if self._promised + size > self._allowed(self._kept()):
                raise CacheError(_FULL)
            self._promised += size
        try:
            yield
        finally:
            with self._guard:
                self._promised -= size

    def _fit(self) -> bool:
        """Drop the caches unused for the longest time until all have only the allowed bytes; return whether they do."""
        kept = self._kept()
        excess = _size(kept) - self._allowed(kept)
        for path, status in sorted(kept.items(), key=lambda one: one[1].st_mtime_ns):
            if excess <= 0:
                break
            if path.suffix != _PART:
                path.unlink(missing_ok=True)
                excess -= status.st_size
        return excess <= 0

    def _kept(self) -> dict[Path, os.stat_result]:
        """Return all files, including those being written."""
        kept = {}
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                kept[path] = path.stat()
        return kept

    def _allowed(self, kept: Mapping[Path, os.stat_result]) -> int:
        """Return the bytes that all files together may have."""
        room = self._look(self._folder)
        return min(self._limit, _size(kept) + room.free - self._marks.relieved(room.size))

    def _home(self, owner: str) -> Path:
        return self._folder / _hash(owner)

    def _file(self, owner: str, path: str) -> Path:
        return self._home(owner) / _hash(path)


def _size(kept: Mapping[Path, os.stat_result]) -> int:
    return sum(status.st_size for status in kept.values())


def _touch(path: Path) -> None:
    """Note that a file is used now. The kernel's own times are too coarse: they are equal within one tick."""
    os.utime(path, ns=(time.time_ns(),) * 2)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:40]


def _read_head(file: BinaryIO) -> File:
    """Read the first line. Raises ValueError when the file is no cache of ours."""
    match json.loads(file.readline(_MAX_HEAD)):
        case {"path": str(path), "size": int(size), "changed": int(changed)}:
            return File(path, size, changed)
    raise ValueError("not a cache")
