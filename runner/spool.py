"""Temporary folders of this process. One whose lock is free is of a process that died, and is removed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runner import durable

_PREFIX: Final = "runner-"
_LOCK: Final = "lock"


@contextlib.contextmanager
def spool(parent: Path | None = None) -> Iterator[Path]:
    """Have a folder for the length of the block, its owner's only; where `TMPDIR` says, unless told. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as name:
        folder = Path(name)
        lock = durable.lock(folder / _LOCK)
        assert lock
        with lock:
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
    """Whether it is a folder of ours whose process is gone. One without a lock is another program's, or just made."""
    if folder.is_symlink() or not (folder / _LOCK).is_file():
        return False
    lock = durable.lock(folder / _LOCK)
    if lock is not None:
        lock.close()
    return lock is not None
