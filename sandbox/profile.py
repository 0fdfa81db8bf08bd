"""A profile: the named limits and policy under which sandboxes are made."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator

_GIB = 1024**3


class Recreate(StrEnum):
    """When a sandbox that served a job is thrown away."""

    ALWAYS = "always"
    ON_DAMAGE = "on-damage"


class Profile(BaseModel):
    """Limits and policy of one kind of sandbox. Every field has a default that suits a small CI host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Annotated[str, Field(min_length=1)] = "sandbox:latest"
    """Image of the sandbox; it must be on the engine already, the keeper never pulls."""

    runtime: Annotated[str, Field(min_length=1)] = "sysbox-runc"
    """OCI runtime, as registered with the engine. There is no fallback to another one."""

    warm: Annotated[int, Field(ge=1, le=100)] = 2
    """How many sandboxes are kept, lent ones included."""

    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPU time in cores, as a quota. `nproc` inside does not follow it; prefer `cpuset`."""

    cpuset: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = None
    """CPUs the sandbox may use, such as `0-3` or `0,2`. `nproc` inside follows it, so `make -j$(nproc)` fits."""

    memory: ByteSize = ByteSize(4 * _GIB)
    """Memory limit in bytes, or with a unit such as `4GiB`. There always is one: a job can lower its own OOM score."""

    pids: Annotated[int, Field(ge=64)] = 8192
    """How many processes and threads may exist at once."""

    nofile: Annotated[int, Field(ge=1024)] = 65536
    """Soft limit of open files. Left to the engine it is a billion, and programs that close every descriptor crawl."""

    recreate: Recreate = Recreate.ON_DAMAGE
    """Throw the sandbox away after each job, or only when it is not fit for the next one."""

    @field_validator("memory")
    @classmethod
    def _room_for_docker(cls, value: ByteSize) -> ByteSize:
        if value < _GIB // 4:
            raise ValueError("must be at least 256MiB, since the sandbox's own Docker Engine lives in it")
        return value
