"""A wall clock that a test sets.

It changes `time.time` only; nothing of ours asks for the date in another way.
"""

from __future__ import annotations

import time
from pathlib import Path

DAY = 24 * 3600.0


_file: Path | None = None


def install() -> None:
    """Have this process ask the clock of `follow`. Before anything else is loaded that keeps `time.time` for itself."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + _offset()
    time.time_ns = lambda: real_ns() + int(_offset() * 1e9)


def follow(file: Path) -> None:
    """Have the installed clock go wrong by as many seconds as the file says from now on; by none without it."""
    global _file  # noqa: PLW0603 - there is one clock in a process
    _file = file


def _offset() -> float:
    try:
        return float(_file.read_text()) if _file else 0.0
    except (FileNotFoundError, ValueError):  # or it is being written
        return 0.0
