"""What the service does with jobs: the one table of its modes and of the moves between them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from runner.errors import WrongModeError


class Mode(StrEnum):
    """What the service does with jobs."""

    WORKING = "working"
    """The service takes jobs, and starts each when it is next."""
    DRAINING = "draining"
    """The service takes jobs, but they wait; running jobs go on. Lasts over restarts, until somebody resumes."""
    STOPPING = "stopping"
    """The service takes no jobs, and ends when no job runs any more. Waiting jobs stay for its next life."""
    ABORTING = "aborting"
    """As stopping, but running jobs are ended."""
    LEAVING = "leaving"
    """The service ends at once, and leaves the running jobs running, for its next life."""

    @property
    def takes(self) -> bool:
        """Whether jobs may be submitted."""
        return self in (Mode.WORKING, Mode.DRAINING)

    @property
    def leaves_unstarted(self) -> bool:
        """Whether even a job that was claimed a moment ago is left to the next life."""
        return self in (Mode.ABORTING, Mode.LEAVING)


MOVES: Final[Mapping[Mode, frozenset[Mode]]] = MappingProxyType(
    {
        Mode.WORKING: frozenset({Mode.DRAINING, Mode.STOPPING, Mode.ABORTING, Mode.LEAVING}),
        Mode.DRAINING: frozenset({Mode.WORKING, Mode.STOPPING, Mode.ABORTING, Mode.LEAVING}),
        Mode.STOPPING: frozenset({Mode.ABORTING, Mode.LEAVING}),
        Mode.ABORTING: frozenset({Mode.LEAVING}),
        Mode.LEAVING: frozenset(),
    }
)
"""The modes that may follow each mode."""


def check_move(mode: Mode, target: Mode) -> bool:
    """Return whether the move changes anything. Raises WrongModeError when the move is not possible any more."""
    if target is mode:
        return False
    if target not in MOVES[mode]:
        raise WrongModeError(f"The runner is {mode} and ends soon. Start it again, and ask its next life.")
    return True
