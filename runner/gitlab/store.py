"""Caches of GitLab jobs on the runner's disk: one file each, apart by whose they are, together below a cap.

They leave the disk so much room that it is well: it may be the state folder's, and then no job would start for caches,
all of which can be made again.

A cache is somebody's archive: it is kept as it is and never opened here. Its file begins with one line of JSON that
says what it is; the name of the file is only the hash of its path. A crash leaves a whole old or a whole new file, and
at most a part that the next start removes. What was not used for the longest time goes first. All of it blocks on the
disk.
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
"""Bytes of the first line."""
_PART: Final = ".part"
_FULL: Final = "the disk of the runner's caches has no room for it"


class CacheStore:
    """All caches of one runner. Its methods may be called from several threads at a time."""

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
        """Leave the disk another room, from the next look on."""
        self._marks = marks

    def shrink(self) -> None:
        """Drop what is above the cap, or takes room that the disk needs by now. Never fails."""
        with contextlib.suppress(OSError), self._guard:  # a disk that does not tell now is looked at again
            self._fit()

    def close(self) -> None:
        """Leave the folder to another runner."""
        if self._lock:
            self._lock.close()

    def entries(self, owner: str) -> list[File]:
        """Return what is kept for an owner, each as it was in a sandbox's cache folder."""
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
        """Take the bytes of a cache, which is there as soon as the block ends without an error, on disk.

        Others that were not used for the longest time are dropped for it when all of it has come: its size is no more
        than somebody's word until then. Errors: CacheError when there is no room; OSError of the disk.
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
        """Have a file written for which there is room, or will be. Nothing is dropped for that yet."""
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
        """Drop what was not used for the longest time until all have no more than they may; say whether they have."""
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
        """All there is, also what is being written."""
        kept = {}
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                kept[path] = path.stat()
        return kept

    def _allowed(self, kept: Mapping[Path, os.stat_result]) -> int:
        """The bytes that all of them may have."""
        room = self._look(self._folder)
        return min(self._limit, _size(kept) + room.free - self._marks.relieved(room.size))

    def _home(self, owner: str) -> Path:
        return self._folder / _hash(owner)

    def _file(self, owner: str, path: str) -> Path:
        return self._home(owner) / _hash(path)


def _size(kept: Mapping[Path, os.stat_result]) -> int:
    return sum(status.st_size for status in kept.values())


def _touch(path: Path) -> None:
    """Note that a file is used now: finer than the kernel's own times, which are alike within one of its ticks."""
    os.utime(path, ns=(time.time_ns(),) * 2)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:40]


def _read_head(file: BinaryIO) -> File:
    """Raises ValueError for what is no cache of ours."""
    match json.loads(file.readline(_MAX_HEAD)):
        case {"path": str(path), "size": int(size), "changed": int(changed)}:
            return File(path, size, changed)
    raise ValueError("not a cache")
