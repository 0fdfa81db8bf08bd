"""Where a job is in its life. The one table of its moves; the store checks it in the transaction that writes one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    """Claimed: a sandbox is looked for. Nothing of the job was sent."""
    RUNNING = "running"
    """Its marker is on disk: it may have started."""
    SETTLED = "settled"
    """Its outcome is on disk. Its log may miss the last lines, and its sandbox may not be returned yet."""
    FINISHED = "finished"


MOVES: Final[Mapping[JobState, frozenset[JobState]]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.STARTING}),
        JobState.STARTING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.SETTLED}),
        JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SETTLED}),
        JobState.SETTLED: frozenset({JobState.FINISHED}),
        JobState.FINISHED: frozenset(),
    }
)
"""From each state, the states that may follow."""
