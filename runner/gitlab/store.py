"""Caches of GitLab jobs on the runner's disk: one file each, apart by whose they are, together below a cap.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from runner import durable
from runner.errors import CacheError

_MAX_HEAD: Final = 16 * 1024
"""Bytes of the first line."""
_PART: Final = ".part"


@dataclass(frozen=True, slots=True)
class Entry:
    """One cache, as it was in a sandbox."""

    path: str
    """Where in the cache folder of a sandbox it belongs."""
    size: int
    changed: int
    """In whole seconds since 1970. gitlab-runner tells by it whether an archive is up to date."""


class CacheStore:
    """All caches of one runner. Its methods may be called from several threads at a time."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Open a store in a folder of its own, with at most `limit` bytes. Errors: CacheError."""
        self._folder = folder
        self._limit = limit
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
        self._drop(limit)

    def close(self) -> None:
        """Leave the folder to another runner."""
        if self._lock:
            self._lock.close()

    def entries(self, owner: str) -> list[Entry]:
        """Return what is kept for an owner."""
        found = []
        for path in self._home(owner).glob("*"):
            if path.suffix == _PART:
                continue
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                found.append(_read_head(file))
        return found

    @contextlib.contextmanager
    def read(self, owner: str, entry: Entry) -> Iterator[BinaryIO]:
        """Open a cache at its first byte, and note that it was used. Raises FileNotFoundError when it was dropped."""
        path = self._file(owner, entry.path)
        with path.open("rb") as file:
            _read_head(file)
            _touch(path)
            yield file

    @contextlib.contextmanager
    def write(self, owner: str, entry: Entry) -> Iterator[BinaryIO]:
        """Take the bytes of a cache, which is there as soon as the block ends without an error, on disk.

        Others that were not used for the longest time are dropped for it. Errors: CacheError when it is too large;
        OSError of the disk.
        """
        head = json.dumps({"path": entry.path, "size": entry.size, "changed": entry.changed}).encode() + b"\n"
        path = self._file(owner, entry.path)
        part = path.with_name(f"{path.name}-{os.urandom(8).hex()}{_PART}")
        with self._room(len(head) + entry.size):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(head)
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _touch(part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        durable.sync(path.parent)

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Have room for a file that is being written."""
        if size > self._limit:
            raise CacheError(f"it has {size} bytes, and this runner keeps {self._limit} bytes of caches in all")
        with self._guard:
            if self._promised + size > self._limit:
                raise CacheError("other caches that are being kept take all the room there is")
            self._promised += size
            self._drop(self._limit - self._promised)
        try:
            yield
        finally:
            with self._guard:
                self._promised -= size

    def _drop(self, allowed: int) -> None:
        """Drop what was not used for the longest time until the rest has at most `allowed` bytes."""
        kept = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.suffix != _PART:
                    kept.append((path.stat(), path))
        total = sum(status.st_size for status, _ in kept)
        for status, path in sorted(kept, key=lambda one: one[0].st_mtime_ns):
            if total <= allowed:
                return
            path.unlink(missing_ok=True)
            total -= status.st_size

    def _home(self, owner: str) -> Path:
        return self._folder / _hash(owner)

    def _file(self, owner: str, path: str) -> Path:
        return self._home(owner) / _hash(path)


def _touch(path: Path) -> None:
    """Note that a file is used now: finer than the kernel's own times, which are alike within one of its ticks."""
    os.utime(path, ns=(time.time_ns(),) * 2)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:40]


def _read_head(file: BinaryIO) -> Entry:
    """Raises ValueError for what is no cache of ours."""
    match json.loads(file.readline(_MAX_HEAD)):
        case {"path": str(path), "size": int(size), "changed": int(changed)}:
            return Entry(path, size, changed)
    raise ValueError("not a cache")
