"""How long finished jobs are kept, with their logs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_DAY: Final = 24 * 3600.0
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits on finished jobs; the first limit that is reached counts. Other jobs are kept in any case."""

    age: float = 30 * _DAY
    """Seconds since the job's end."""
    bytes: int = 20 * _GIB
    """The size of all logs together."""
    jobs: int = 10_000


RETENTION: Final = Retention()
"""The defaults; `runner.config.model` gives the reasons."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A finished job and the size of its files."""

    id: str
    ended: float
    """Seconds since the epoch."""
    bytes: int


def to_forget(kept: Iterable[FinishedJob], now: float, retention: Retention) -> Iterator[str]:
    """Yield the jobs to forget, those that ended first before others."""
    oldest_first = sorted(kept, key=lambda job: job.ended)
    left, size = len(oldest_first), sum(job.bytes for job in oldest_first)
    for job in oldest_first:
        if left <= retention.jobs and size <= retention.bytes and now - job.ended <= retention.age:
            return
        yield job.id
        left, size = left - 1, size - job.bytes
