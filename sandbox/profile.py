"""A profile: the named limits and policy under which sandboxes are made."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ByteSize, Field, field_validator, model_validator

from sandbox.settings.model import About, Section

SYSBOX = "sysbox-runc"
"""The runtime that this project is made for, by the name that sysbox registers with an engine."""

_GIB = 1024**3

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Recreate(StrEnum):
    """When to throw away a sandbox that served a job."""

    ALWAYS = "always"
    ON_DAMAGE = "on-damage"


class InnerDocker(StrEnum):
    """When a sandbox's own Docker Engine starts. The values are those of the image's setting SANDBOX_DOCKER."""

    EAGER = "eager"
    """With the sandbox, which is fit once this engine answers."""
    LAZY = "lazy"
    """At the first use of its socket; nobody waits for it before."""


class Network(StrEnum):
    """What a sandbox may reach unless openings and closings say otherwise."""

    INTERNET = "internet"
    """Everything but this host, other sandboxes and containers, and cloud metadata."""
    NONE = "none"
    """Nothing."""


class Profile(Section):
    """Limits and policy of one kind of sandbox. Every field has a default that suits a small CI host."""

    live: ClassVar = True

    image: Annotated[str, Field(min_length=1), About(also="SANDBOX_IMAGE")] = "sandbox:latest"
    """Image of the sandbox. The name that `docker compose build` gives it: it must be on the engine already, the keeper
    never pulls."""

    runtime: Annotated[str, Field(min_length=1), About(also="SANDBOX_RUNTIME")] = SYSBOX
    """OCI runtime, as registered with the engine. sysbox is the wall that this project is made for; there is no
    fallback to another one."""

    warm: Annotated[int, Field(ge=1, le=100), About(also="SANDBOX_WARM")] = 2
    """How many sandboxes are kept, lent ones included. Two: while one is recreated, the other serves, even on a small
    host."""

    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPU time in cores, as a quota. `nproc` inside does not follow it; prefer `cpuset`. None: idle cores are no use to
    anybody."""

    cpuset: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = None
    """CPUs the sandbox may use, such as `0-3` or `0,2`. `nproc` inside follows it, so `make -j$(nproc)` fits. None:
    all of them, since only the host's owner knows which ones to keep for others."""

    memory: ByteSize = ByteSize(4 * _GIB)
    """Memory limit in bytes, or with a unit such as `4GiB`. There always is one: a job can lower its own OOM score. Two
    of these fit on a host of 10 GiB, and a usual build with Docker fits in one."""

    pids: Annotated[int, Field(ge=64)] = 8192
    """How many processes and threads may exist at once. Room for any build, and a fork bomb ends long before it hurts
    the host."""

    nofile: Annotated[int, Field(ge=1024)] = 65536
    """Soft limit of open files. Left to the engine it is a billion, and programs that close every descriptor crawl;
    this is enough for databases and bundlers."""

    disk: Annotated[ByteSize, Field(ge=_GIB // 16)] = ByteSize(20 * _GIB)
    """Bytes on the host's disk, inner images included, above which a job is ended. The host's reserve holds besides.
    The default is what hosted runners promise (GitHub 14 GB, GitLab 25), so that jobs which ran there fit."""

    registry_mirrors: tuple[Annotated[str, Field(pattern=r"^https?://[^\s\"\\]+$")], ...] = ()
    """Pull-through mirrors of Docker Hub that the inner engine asks first: the one cache that trust keys may share. One
    on this host or on a closed network must be opened as well. None: there is none that everybody could use."""

    recreate: Recreate = Recreate.ON_DAMAGE
    """Throw the sandbox away after each job, or only when it is not fit for the next one. The latter, because trust
    keys already keep apart jobs that must not inherit from each other, and inner images save the next one time."""

    hold: Annotated[float, Field(ge=0, le=7 * 24 * 3600)] = 0.0
    """Seconds that a sandbox which a job broke is kept for a person to look at, as `sandbox hold` does; 0 for never.
    Never the last one of the profile: jobs go on. 0: it costs a place, and somebody has to come and look."""

    network: Network = Network.INTERNET
    """What its sandboxes may reach. Most jobs fetch something. A change takes effect at once; idle sandboxes are also
    recreated after it."""

    open: tuple[_Name, ...] = ()
    """Openings, by their names in the keeper's file. With network `none`, nothing but these is reached. None:
    nobody but you knows what is safe to reach here."""

    close: tuple[_Name, ...] = ()
    """Closings, by their names in the keeper's file, or `private`. An opening wins over them. None: a private
    network often has the registry that jobs need."""

    labels: tuple[_Name, ...] = ()
    """What its sandboxes have, in words of yours such as `large`, for jobs to ask for. A job that names no profile gets
    the first one that has all its labels. None: a label is a promise that only you can make."""

    @field_validator("memory")
    @classmethod
    def _room_for_docker(cls, value: ByteSize) -> ByteSize:
        if value < _GIB // 4:
            raise ValueError("must be at least 256MiB, since the sandbox's own Docker Engine lives in it")
        return value

    @model_validator(mode="after")
    def _something_to_close(self) -> "Profile":
        if self.network is Network.NONE and self.close:
            raise ValueError("`close` has nothing to close where `network` is none; leave it out")
        return self

    def makes_the_same_as(self, other: "Profile") -> bool:
        """Whether the other profile makes the same container, apart from the image."""
        return all(getattr(self, name) == getattr(other, name) for name in _OF_THE_CONTAINER)


_OF_THE_CONTAINER = ("runtime", "cpus", "cpuset", "memory", "pids", "nofile", "network", "registry_mirrors")
