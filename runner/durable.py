"""Files that outlive a crash at any moment. A change that returned is on disk (but for `replace`), and half of one is
never seen.

Every function blocks for as long as the disk takes, and raises OSError.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from sandbox.durable import replace, sync, write

__all__ = ["end_with", "lock", "open_to_read", "read", "read_json", "replace", "sync", "write", "write_json"]


def read(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes. Raises ValueError for anything else."""
    with open_to_read(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return content


def write_json(path: Path, document: object) -> None:
    """Write a JSON document, as `write` does."""
    write(path, json.dumps(document).encode())


def read_json(path: Path, limit: int) -> object:
    """Read a JSON document, as `read` does; also raises ValueError when it is not JSON."""
    try:
        return json.loads(read(path, limit))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{path.name} is not JSON") from None  # the parser's own error may quote a secret


def open_to_read(path: Path) -> BinaryIO:
    """Open a file at a path where others may have put anything. Raises ValueError when it is not a regular file."""
    return _open(path, os.O_RDONLY, "rb")


def end_with(path: Path, start: int, ending: bytes) -> None:
    """Cut a file to its first `start` bytes, and append the ending. Idempotent.

    The change is not on disk when this returns. Raises ValueError when the path holds anything but a regular file.
    """
    with _open(path, os.O_RDWR | os.O_CREAT, "r+b") as file:
        if os.pread(file.fileno(), len(ending) + 1, start) != ending:
            file.truncate(min(start, os.fstat(file.fileno()).st_size))
            file.seek(0, os.SEEK_END)
            file.write(ending)


def lock(path: Path) -> BinaryIO | None:
    """Return a locked file, ours until it is closed or this process ends; None while another process has it."""
    file = _open(path, os.O_RDWR | os.O_CREAT, "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _open(path: Path, flags: int, mode: str) -> BinaryIO:
    # A link leads elsewhere, and opening a FIFO would wait for its other end.
    file = os.fdopen(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600), mode)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return cast(BinaryIO, file)
    file.close()
    raise ValueError(f"{path.name} is not a file")
