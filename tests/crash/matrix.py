"""The crash-point matrix, as data: where a job stands, what happens then, and what is promised all the same.

`docs/promises.md` has the same table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final


class Point(StrEnum):
    """How far a job has come when it happens."""

    ACCEPT = "accept"
    """The job is on disk, and its client was not told."""
    QUEUED = "queued"
    """It waits, and nobody has claimed it."""
    CLAIMED = "claimed"
    """It was claimed, and no sandbox was asked for."""
    LEASE = "lease"
    """A sandbox was lent, and nobody has noted that it is for this job."""
    MARKER = "marker"
    """The marker is on disk, and not one byte was sent."""
    START = "start"
    """The job was sent and its script runs, and not one byte of the log was read."""
    RUNNING = "running"
    """A part of the log is on disk."""
    EXIT = "exit written"
    """The script has ended and its sandbox knows how; the runner does not."""
    RESULT = "result written"
    """The outcome is on disk, and the sandbox still leased."""
    DELIVERED = "delivered"
    """A client has seen the outcome."""


class Fault(StrEnum):
    """What happens."""

    RUNNER = "`kill -9` runner"
    KEEPER = "`kill -9` keeper"
    BOTH = "both"
    REMOVED = "sandbox removed"
    RESET = "SSH reset"
    HOLE = "SSH black hole"
    FULL = "log disk full"
    CLOCK = "clock jump"
    LOCKED = "store locked"
    STORE = "store disk full"


class LogPromise(Enum):
    """What the log has before the runner's closing lines."""

    WHOLE = "every byte of the output"
    BEGINNING = "the output from its beginning on, without a hole"
    COUNTED = "the output from its beginning on, and a closing line that counts the bytes that are missing"
    NONE = "nothing"


@dataclass(frozen=True)
class Promise:
    """What must be so in the end."""

    word: str
    """As the table in the docs calls it."""
    outcome: str
    starts: int
    """How often the script starts."""
    log: LogPromise


ENDED: Final = Promise("ended", "script_failed", 1, LogPromise.WHOLE)
SHORT: Final = Promise("ended, short log", "script_failed", 1, LogPromise.COUNTED)
LOST: Final = Promise("lost", "sandbox_lost", 1, LogPromise.BEGINNING)
UNKNOWN: Final = Promise("lost, unstarted", "sandbox_lost", 0, LogPromise.NONE)

_E, _S, _L, _U = ENDED, SHORT, LOST, UNKNOWN
_TABLE: Final = {
    #                 runner keeper both removed reset hole full clock locked store
    Point.ACCEPT:    (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
    Point.QUEUED:    (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
    Point.CLAIMED:   (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
    Point.LEASE:     (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
    Point.MARKER:    (_U,    _E,    _U,  _U,     _U,   _U,  _S,  _E,   _E,    _E),
    Point.START:     (_E,    _E,    _E,  _L,     _E,   _E,  _S,  _E,   _E,    _E),
    Point.RUNNING:   (_E,    _E,    _E,  _L,     _E,   _E,  _S,  _E,   _E,    _E),
    Point.EXIT:      (_E,    _E,    _E,  _L,     _E,   _E,  _S,  _E,   _E,    _E),
    Point.RESULT:    (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
    Point.DELIVERED: (_E,    _E,    _E,  _E,     _E,   _E,  _E,  _E,   _E,    _E),
}  # fmt: skip

MATRIX: Final[Mapping[tuple[Point, Fault], Promise]] = MappingProxyType(
    {(point, fault): promise for point, row in _TABLE.items() for fault, promise in zip(Fault, row, strict=True)}
)
