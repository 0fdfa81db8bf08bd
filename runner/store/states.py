"""The states of a job, and the one table of its moves, which the store checks in the transaction that writes a move."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    STARTING = "starting"
    """Claimed: the service looks for a sandbox. Nothing of the job was sent."""
    RUNNING = "running"
    """The job's marker is on disk: the job may have started."""
    SETTLED = "settled"
    """The job's outcome is on disk. Its log may lack the last lines, and its sandbox may not be returned yet."""
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
"""The states that may follow each state."""
