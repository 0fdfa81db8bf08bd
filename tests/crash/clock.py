"""A wall clock that a test sets.

What asks for the date by other ways than `time.time` is not fooled; nothing of ours does.
"""

from __future__ import annotations

import time
from pathlib import Path

DAY = 24 * 3600.0


def follow(file: Path) -> None:
    """Have this process's clock go wrong by as many seconds as the file says from now on; by none without a file."""
    real, real_ns = time.time, time.time_ns

    def offset() -> float:
        try:
            return float(file.read_text())
        except (FileNotFoundError, ValueError):  # or it is being written
            return 0.0

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)
