"""Files that survive a crash whole, and locks that end with their holder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK_INTERVAL = 0.1


def write(path: Path, content: bytes) -> None:
    """Replace a file's content. It is on disk when this returns. Raises `OSError`."""
    _replace(path, content, 0o600, synced=True)
    sync(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file's content. A crash of the host may undo it, or leave the file empty. Raises `OSError`."""
    _replace(path, content, mode, synced=False)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, seconds: float = 0.0) -> int | None:
    """Lock a file until the returned descriptor is closed. Returns None when others hold it for that many seconds."""
    end = time.monotonic() + seconds
    descriptor = _opened(path)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                return None
            time.sleep(_LOOK_INTERVAL)
        else:
            return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the file's lock, and hold it for the block."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes, mode: int, *, synced: bool) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()  # on a full disk, its part would be in everybody's way
        raise


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
