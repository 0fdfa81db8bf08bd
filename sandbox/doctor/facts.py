"""The known facts about a host, before any judgement. Vocabulary."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from sandbox.daemons import Daemon
from sandbox.disk.watch import Room
from sandbox.engine import EngineFacts
from sandbox.errors import Fault
from sandbox.report import Unknown


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the keeper's configuration asks for."""

    runtimes: Collection[str]
    images: Collection[str]
    network_range: IPv4Network
    disk_reserve: int | None


@dataclass(frozen=True, slots=True)
class Canary:
    """The result of a throw-away sandbox."""

    docker_version: str = ""
    """Empty when it could not be used, or could not be recorded before its use."""
    clock: float = 0.0
    """Seconds that its clock is ahead of ours."""
    fault: Fault | None = None
    """Why it is unfit, with a sentence; None when it is fit."""
    complaint: str = ""
    inspection: str = ""
    """Why it would not serve another job after its use; empty when it would."""
    left: str = ""
    """Why it could not be removed; empty when it was."""
    installation: str = ""
    """The label of a sandbox that was left behind."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks judge."""

    wanted: Wanted
    engine: EngineFacts | Unknown
    images: frozenset[str] | Unknown
    """The wanted images that the engine has."""
    daemons: frozenset[Daemon] | Unknown
    """Sysbox's daemons that run on the host."""
    sysbox: Mapping[str, str | Unknown]
    """The output of `--version` of each of sysbox's programs."""
    kernel: str
    """The kernel's release, as uname(2) gives it."""
    controllers: frozenset[str] | Unknown
    """The cgroup controllers that the kernel has enabled."""
    room: Room | Unknown
    """The room on the file system with the engine's data."""
    sysbox_room: Room | Unknown
    """The room on the file system with sysbox's data."""
    kernel_limits: Mapping[str, int] | Unknown
    """The kernel's limits for each user, for the names in `checks.KERNEL_LIMITS`."""
    subnets: tuple[IPv4Network, ...] | Unknown
    """The subnets of the engine's networks."""
    routes: tuple[IPv4Network, ...] | Unknown
    """The destinations of this host's routes, without the default route."""
    walls: bool | Unknown
    """Whether the kernel would take our firewall table."""
    canary: Canary | Unknown
