"""The facts about a runner, before they are judged. Vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.model import Config
from runner.keeper_leases import KeeperState
from runner.service.watermark import Room
from runner.store.condition import Condition
from sandbox.report import Found, Unknown
from sandbox.settings.loaded import Loaded


@dataclass(frozen=True, slots=True)
class Answer:
    """The service's answer to whether it takes jobs."""

    ready: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of this host."""

    now: float
    """Seconds since 1970."""
    synchronised: bool
    """Whether the kernel says that the clock is kept right."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The result of a job that does nothing."""

    succeeded: bool
    message: str
    """The sentence of the job's outcome."""
    seconds: float
    """From the submission of the job to its outcome."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts that the checks use. None means that a fact does not apply here."""

    configuration: Loaded[Config] | Unknown
    room: Room | Unknown
    store: Condition | Unknown | None
    """None before the first start."""
    clock: Clock | Unknown
    host: tuple[Found, ...] | Unknown
    """The results of `sandbox doctor`, check by check."""
    keeper: KeeperState | Unknown | None
    """None where sandboxes are known by address."""
    api: Answer | Unknown
    canary: Canary | Unknown
