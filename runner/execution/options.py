"""The settings of an attempt, and the notes that it sends on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from runner.execution.files.limits import DEFAULT_LIMITS, FileLimits
from runner.logs import Action
from runner.steps import StepProgress


@dataclass(frozen=True, slots=True)
class Settings:
    """Deadlines in seconds, and places in the sandbox."""

    lend_wait: float = 600.0
    """How long to wait for a sandbox to become free."""
    source_deadline: float = 60.0
    """How long a source of leases that does not answer, or cannot lend now, is asked again before a job is given up."""
    patience: float = 0.0
    """Seconds beyond the lease's term that a sandbox is kept for a silent runner; 0 if it cannot come back."""
    open_deadline: float = 30.0
    """From a lease to a launcher that waits."""
    launch_deadline: float = 120.0
    """For sending the job."""
    keepalive_interval: float = 5.0
    keepalive_count: int = 3
    """Between questions to a silent SSH server, and how many may stay unanswered: a black hole is noticed in 20 s."""
    reconnect_deadline: float = 300.0
    """Without a way into the sandbox until a job that runs there is given up."""
    grace: float = 5.0
    """Between TERM and KILL."""
    return_deadline: float = 60.0
    """For each of: killing what is left, giving the sandbox back, condemning it."""
    tries: int = 3
    """Attempts in all, while user code certainly did not run. At least 1."""
    workspace: str = "/home/sandbox/workspace"
    """The script's working folder."""
    attempts: str = "/var/lib/attempts"
    """The folder that holds one folder per attempt."""
    files: FileLimits = DEFAULT_LIMITS
    """How much the files of a job may be."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell about an attempt. It is not part of the script's output."""

    action: Action
    """What happened, for programs."""
    text: str
    """The same as a sentence for people."""


@dataclass(frozen=True, slots=True)
class StepNote(Note):
    """A step of the job began, or is over."""

    number: int
    progress: StepProgress


Notes: TypeAlias = Callable[[Note], None]

DEFAULTS = Settings()


def no_notes(note: Note) -> None:
    """Tell nobody."""
