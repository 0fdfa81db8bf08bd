"""Temporary folders of this process. A folder whose lock is free belongs to a dead process, and is removed."""

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
"""The content of the lock once it is locked: a folder with only a lock may be anybody's."""


@contextlib.contextmanager
def spool(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for the block, for its owner only, in `TMPDIR` unless `parent` is given. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as name:
        folder = Path(name)
        lock = durable.lock(folder / _LOCK)
        assert lock
        with lock:
            lock.write(_MARK)
            lock.flush()
            yield folder


def remove_leftovers(parent: Path | None = None) -> int:
    """Remove the folders that dead processes of this user left, and return how many."""
    removed = 0
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):  # another process's, or gone meanwhile
            if _is_left(folder):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _is_left(folder: Path) -> bool:
    """Return whether a folder is ours and its process is gone. A folder without our mark is foreign, or just made.

    We never remove another user's folder, not even as root: anybody may have put it there. Raises OSError, or
    ValueError when the lock is no file of ours.
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
