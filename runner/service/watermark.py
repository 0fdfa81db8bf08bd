"""What the free space on the state folder's disk means for jobs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_GIB: Final = 1024**3
_MIB: Final = 1024**2


class Disk(StrEnum):
    """The state of the state folder's disk."""

    WELL = "well"
    LOW = "low"
    """No new job starts: the rest is for the logs of the running ones. Jobs are taken, and wait."""
    FULL = "full"
    """No jobs are taken either."""


@dataclass(frozen=True, slots=True)
class Room:
    """The space on a disk, in bytes. `free` is what a process without root has."""

    free: int
    size: int

    def __str__(self) -> str:
        return f"{self.free / _MIB:,.0f} of {self.size / _MIB:,.0f} MiB free"


@dataclass(frozen=True, slots=True)
class Marks:
    """Free bytes below which the disk is low, and full; on a small disk at most a part of its size."""

    low: int = 2 * _GIB
    low_part: float = 0.10
    full: int = 256 * _MIB
    full_part: float = 0.01
    relief: float = 1.5
    """Relief needs this many times the space: else one removed log would start a job that writes another one."""

    def relieved(self, size: int) -> int:
        """Return the free bytes with which a disk of `size` bytes is well, whatever its state was before."""
        return int(self.relief * min(self.low, self.low_part * size))


MARKS: Final = Marks()
"""The defaults; `runner.config.model` gives the reasons."""


def judge(before: Disk, room: Room, marks: Marks) -> Disk:
    """Return the state of the disk now. It improves only with some space to spare."""
    if _below(Disk.FULL, before, room, marks):
        return Disk.FULL
    return Disk.LOW if _below(Disk.LOW, before, room, marks) else Disk.WELL


def _below(level: Disk, before: Disk, room: Room, marks: Marks) -> bool:
    limit = {
        Disk.LOW: min(marks.low, marks.low_part * room.size),
        Disk.FULL: min(marks.full, marks.full_part * room.size),
    }[level]
    was = before is level or before is Disk.FULL
    return room.free < limit * (marks.relief if was else 1)
