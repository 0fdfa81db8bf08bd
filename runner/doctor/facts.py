"""What is known of a runner, before anything is made of it. Vocabulary."""

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
    """What the service answers when it is asked whether it takes jobs."""

    ready: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Clock:
    """Of this host."""

    now: float
    """Seconds since 1970."""
    synchronised: bool
    """Whether the kernel says that something keeps it right."""


@dataclass(frozen=True, slots=True)
class Canary:
    """How a job did that does nothing."""

    succeeded: bool
    message: str
    """The sentence of its outcome."""
    seconds: float
    """From its submission to its outcome."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks go by. None: it does not apply here."""

    configuration: Loaded[Config] | Unknown
    room: Room | Unknown
    store: Condition | Unknown | None
    """None before the first start."""
    clock: Clock | Unknown
    host: tuple[Found, ...] | Unknown
    """What `sandbox doctor` says, check by check."""
    keeper: KeeperState | Unknown | None
    """None where sandboxes are known by address."""
    api: Answer | Unknown
    canary: Canary | Unknown
