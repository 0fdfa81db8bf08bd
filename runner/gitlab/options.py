"""What an administrator decides about GitLab's jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.execution.options import DEFAULTS, Settings
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.store import CacheStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are in seconds. What has no default has it in the configuration."""

    socket: Path | None
    """Where hooks find the service; None is without GitLab."""
    profile: str
    idle: float = 600.0
    """Without any hook until a job is over: gitlab-runner waits up to 5 minutes between two tries of a stage."""
    settings: Settings = DEFAULTS
    """Deadlines of each stage, and places in the sandbox."""
    home: str = "/home/sandbox"
    """The sandbox user's home: everything under it is emptied after each job."""
    images: ImagePolicy
    """Which images a job may have."""
    log_limit: int
    """Bytes of a stage's output that are passed on. They are on the runner's disk until the next stage."""
    service_wait: float
    """For all services of a job together to answer."""
    caches: CacheStore | None
    """Where caches are kept between jobs; None keeps none."""
    helper: Path | None
    """A program that can do what gitlab-runner's scripts want of `gitlab-runner`; None where the sandbox has one."""

    @property
    def builds(self) -> str:
        """Where gitlab-runner's scripts put the job's repository."""
        return f"{self.home}/builds"

    @property
    def cache(self) -> str:
        """Where they put and look for caches."""
        return f"{self.home}/cache"

    @property
    def commands(self) -> str:
        """Where `helper` goes, under the name that the scripts call."""
        return f"{self.home}/.gitlab-bin"

    @property
    def docker_config(self) -> str:
        """Where the sandbox user's Docker configuration is: usually a link to `logins`."""
        return f"{self.home}/.docker"

    @property
    def logins(self) -> str:
        """Where the job's logins to registries are, as a Docker configuration."""
        return f"{self.home}/.gitlab-docker"
