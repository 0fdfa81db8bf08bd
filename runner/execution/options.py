"""What an attempt can be told, and what it tells on its way."""

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

    #: How long to wait for a sandbox to become free.
    lend_wait: float = 600.0
    #: How long a source of leases that does not answer, or cannot lend now, is asked again before a job is given up.
    source_deadline: float = 60.0
    #: How long beyond its term a sandbox is kept for an attempt that nobody is heard of: 0 when nobody can come back.
    patience: float = 0.0
    #: From a lease to a launcher that waits.
    open_deadline: float = 30.0
    #: For sending the job.
    launch_deadline: float = 120.0
    #: Between questions to a silent SSH server, and how many may stay unanswered: a black hole is noticed in 20 s.
    keepalive_interval: float = 5.0
    keepalive_count: int = 3
    #: Without a way into the sandbox until a job that runs there is given up.
    reconnect_deadline: float = 300.0
    #: Between TERM and KILL.
    grace: float = 5.0
    #: For each of: killing what is left, giving the sandbox back, condemning it.
    return_deadline: float = 60.0
    #: Attempts in all, while user code certainly did not run. At least 1.
    tries: int = 3
    #: The script's working folder.
    workspace: str = "/home/sandbox/workspace"
    #: The folder that holds one folder per attempt.
    attempts: str = "/var/lib/attempts"
    #: How much the files of a job may be.
    files: FileLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell about an attempt. It is not part of the script's output."""

    #: What happened, for programs.
    action: Action
    #: The same as a sentence for people.
    text: str


@dataclass(frozen=True, slots=True)
class StepNote(Note):
    """A step of the job began, or is over."""

    number: int
    progress: StepProgress


Notes: TypeAlias = Callable[[Note], None]

DEFAULTS = Settings()


def no_notes(note: Note) -> None:
    """Tell nobody."""
