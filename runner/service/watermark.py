"""What the room on the disk of the state folder means for jobs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_GIB: Final = 1024**3
_MIB: Final = 1024**2


class Disk(StrEnum):
    """How the disk of the state folder is."""

    WELL = "well"
    LOW = "low"
    """Nothing new starts: what runs has the rest for its logs. Jobs are taken, and wait."""
    FULL = "full"
    """Nor are jobs taken any more."""


@dataclass(frozen=True, slots=True)
class Room:
    """Of a disk, in bytes. Free is what a process has that is not root."""

    free: int
    size: int

    def __str__(self) -> str:
        return f"{self.free / _MIB:,.0f} of {self.size / _MIB:,.0f} MiB free"


@dataclass(frozen=True, slots=True)
class Marks:
    """Free bytes below which the disk is low, and full; never more than a part of a disk that is small."""

    low: int = 2 * _GIB
    low_part: float = 0.10
    full: int = 256 * _MIB
    full_part: float = 0.01
    relief: float = 1.5
    """Times as much has to be free again: else one log that is removed would start a job that writes another one."""

    def relieved(self, size: int) -> int:
        """Free bytes with which a disk of `size` bytes is well, however it was before."""
        return int(self.relief * min(self.low, self.low_part * size))


MARKS: Final = Marks()
"""Unless configured otherwise; why, is in `runner.config.model`."""


def judge(before: Disk, room: Room, marks: Marks) -> Disk:
    """How the disk is now. What was worse gets better only with some room to spare."""
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
