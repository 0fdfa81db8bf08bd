"""The calls to the Docker Engine and how they end: reported by `engine`, judged by `health`. Vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """What the engine is asked."""

    VERSION = "version"
    INFO = "info"
    FIND_IMAGE = "find image"
    CREATE_NETWORK = "create network"
    CREATE_VOLUME = "create volume"
    CREATE = "create container"
    PUT_FILES = "put files"
    LIST_FILES = "list files"
    START = "start"
    INSPECT = "inspect"
    TOP = "list processes"
    LOGS = "logs"
    LIST = "list"
    LIST_NETWORKS = "list networks"
    LIST_VOLUMES = "list volumes"
    FIND_VOLUME = "find volume"
    REMOVE = "remove container"
    REMOVE_NETWORK = "remove network"
    REMOVE_VOLUME = "remove volume"


RUNTIME_STEPS = frozenset({Step.START, Step.TOP, Step.REMOVE})
"""The steps for which the engine needs the container runtime."""
HARMLESS_STEPS = frozenset({Step.TOP})
"""The steps that leave a container unchanged. They need less of the runtime than the others."""


class End(StrEnum):
    """How a call to the engine ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call began; `container` is the id of the container it is about."""

    call: int
    step: Step
    container: str | None = None


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call ended."""

    call: int
    end: End


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing found, reported before its end: whether each container runs, by id."""

    call: int
    containers: Mapping[str, bool]
