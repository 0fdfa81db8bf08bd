"""What the service does with jobs: the one table of its modes, and which may follow which. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from runner.errors import WrongModeError


class Mode(StrEnum):
    """What the service does with jobs."""

    WORKING = "working"
    """Jobs are taken, and start when they are next."""
    DRAINING = "draining"
    """Jobs are taken and wait. What runs goes on. Holds over restarts, until somebody resumes."""
    STOPPING = "stopping"
    """No jobs are taken. The service ends when nothing runs any more; what waits is there for its next life."""
    ABORTING = "aborting"
    """As stopping, and what runs is ended."""
    LEAVING = "leaving"
    """The service ends at once, and leaves what runs running, for its next life."""

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
"""From each mode, those that may follow."""


def check_move(mode: Mode, target: Mode) -> bool:
    """Whether going there changes anything. Raises WrongModeError when it is not possible any more."""
    if target is mode:
        return False
    if target not in MOVES[mode]:
        raise WrongModeError(f"The runner is {mode} and ends soon. Start it again, and ask its next life.")
    return True
