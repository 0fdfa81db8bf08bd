"""Temporary folders of this process. One whose lock is free is of a process that died, and is removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runner import durable

_PREFIX: Final = "sandbox-runner-"
_LOCK: Final = "lock"
_MARK: Final = (
    b"A temporary folder of sandbox-runner's. It goes with its process, or with the start of `runner serve`.\n"
)
"""What the lock says from when it is locked: a folder with a lock alone may be anybody's."""


@contextlib.contextmanager
def spool(parent: Path | None = None) -> Iterator[Path]:
    """Have a folder for the length of the block, its owner's only; where `TMPDIR` says, unless told. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as name:
        folder = Path(name)
        lock = durable.lock(folder / _LOCK)
        assert lock
        with lock:
            lock.write(_MARK)
            lock.flush()
            yield folder


def remove_leftovers(parent: Path | None = None) -> int:
    """Remove what dead processes of this user left, and return how many folders that were."""
    removed = 0
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):  # another one's, or gone meanwhile
            if _is_left(folder):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _is_left(folder: Path) -> bool:
    """Whether it is a folder of ours whose process is gone. One without our mark is another program's, or just made.

    One of another user is not ours to remove, not even as root: anybody may have put it there. Raises OSError, or
    ValueError when its lock is no file of ours.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        return False
    if durable.read(folder / _LOCK, len(_MARK)) != _MARK:
        return False
    lock = durable.lock(folder / _LOCK)
    if lock is not None:
        lock.close()
    return lock is not None
