"""What an administrator decides about GitLab's jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner.execution.options import DEFAULTS, Settings

#: Folders in the sandbox. Everything under the home folder is emptied after each job.
BUILDS: Final = "/home/sandbox/builds"
CACHE: Final = "/home/sandbox/cache"


@dataclass(frozen=True, slots=True)
class Options:
    """Times are in seconds."""

    #: Where hooks find the service; None is without GitLab.
    socket: Path | None = None
    profile: str = "default"
    #: Without any hook until a job is over: gitlab-runner waits up to 5 minutes between two tries of a stage.
    idle: float = 600.0
    #: Deadlines of each stage, and places in the sandbox.
    settings: Settings = DEFAULTS
