"""What an administrator decides about GitLab's jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runner.execution.options import DEFAULTS, Settings
from runner.gitlab.containers.plan import SERVICES_WAIT
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.store import CacheStore


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
    #: The sandbox user's home: everything under it is emptied after each job.
    home: str = "/home/sandbox"
    #: Which images a job may have.
    images: ImagePolicy = field(default_factory=ImagePolicy)
    #: Bytes of a stage's output that are passed on. They are on the runner's disk until the next stage.
    log_limit: int = 256 * 1024**2
    #: For all services of a job together to answer.
    service_wait: float = SERVICES_WAIT
    #: Where caches are kept between jobs; None keeps none.
    caches: CacheStore | None = None
    #: A program that can do what gitlab-runner's scripts want of `gitlab-runner`; None where the sandbox has one.
    helper: Path | None = None

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
