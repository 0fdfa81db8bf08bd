"""Files that a crash leaves whole, and locks that end with whoever holds them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK_INTERVAL = 0.1


def write(path: Path, content: bytes) -> None:
    """Put `content` in the place of what the file held. It is on disk when this returns. Raises `OSError`."""
    _replace(path, content, 0o600, synced=True)
    sync(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """As `write`, but a crash of the host may undo it, or leave the file empty. Raises `OSError`."""
    _replace(path, content, mode, synced=False)


def sync(path: Path) -> None:
    """Have what a file holds, or which entries a folder has, on disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, seconds: float = 0.0) -> int | None:
    """A descriptor of a file that is ours alone until that is closed; None when for so long it is somebody else's."""
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
    """Wait until the file is nobody's, and have it for the length of the block."""
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
            new.unlink()  # on a full disk, a part of it is in everybody's way
        raise


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
