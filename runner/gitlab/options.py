"""The administrator's options for GitLab's jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.execution.options import DEFAULTS, Settings
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.store import CacheStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are in seconds. Fields without a default here have one in the configuration."""

    socket: Path | None
    """The socket of the service for hooks; None without GitLab."""
    profile: str
    idle: float = 600.0
    """The time without a hook until a job is over: gitlab-runner waits up to 5 minutes between two tries of a stage."""
    settings: Settings = DEFAULTS
    """Deadlines of each stage, and places in the sandbox."""
    home: str = "/home/sandbox"
    """The sandbox user's home: everything under it is emptied after each job."""
    images: ImagePolicy
    """The images that a job may have."""
    log_limit: int
    """Bytes of a stage's output that are passed on. The output stays on the runner's disk until the next stage."""
    service_wait: float
    """The time for all services of a job together to answer."""
    caches: CacheStore | None
    """The store of caches between jobs; None keeps none."""
    helper: Path | None
    """A program that gitlab-runner's scripts can call as `gitlab-runner`; None if the sandbox has one."""

    @property
    def builds(self) -> str:
        """Return the folder where gitlab-runner's scripts put the job's repository."""
        return f"{self.home}/builds"

    @property
    def cache(self) -> str:
        """Return the folder where they put and look for caches."""
        return f"{self.home}/cache"

    @property
    def commands(self) -> str:
        """Return the folder of `helper`, which has the name that the scripts call."""
        return f"{self.home}/.gitlab-bin"

    @property
    def docker_config(self) -> str:
        """Return the folder of the sandbox user's Docker configuration, usually a link to `logins`."""
        return f"{self.home}/.docker"

    @property
    def logins(self) -> str:
        """Return the folder of the job's logins to registries, a Docker configuration."""
        return f"{self.home}/.gitlab-docker"
