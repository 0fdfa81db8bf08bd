"""What is known of a host, before anything is made of it. Vocabulary."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

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
    """How a throw-away sandbox did."""

    docker_version: str = ""
    """Empty where it was not used: it could not be, or it could not be recorded before."""
    clock: float = 0.0
    """Seconds that its clock is ahead of ours."""
    fault: Fault | None = None
    """Why it is not fit for use, and the sentence; None when it is."""
    complaint: str = ""
    inspection: str = ""
    """Why it would not serve another job after that use; empty when it would."""
    left: str = ""
    """Why it could not be removed again; empty when it was."""
    installation: str = ""
    """By whose label it is found where it is left."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks go by."""

    wanted: Wanted
    engine: EngineFacts | Unknown
    images: frozenset[str] | Unknown
    """Those of the wanted ones that are there."""
    sysbox: str | Unknown
    """What `sysbox-runc --version` printed."""
    kernel: str
    """Its release, as uname(2) tells it."""
    controllers: frozenset[str] | Unknown
    """The cgroup controllers that the kernel has switched on."""
    room: Room | Unknown
    """On the file system with the engine's data."""
    sysbox_room: Room | Unknown
    """On the one with sysbox's."""
    kernel_limits: Mapping[str, int] | Unknown
    """What the kernel grants each user, of `checks.KERNEL_LIMITS`."""
    subnets: tuple[IPv4Network, ...] | Unknown
    """Of the engine's networks."""
    routes: tuple[IPv4Network, ...] | Unknown
    """Where this host sends packets, but for the default route."""
    walls: bool | Unknown
    """Whether the kernel would take our firewall table."""
    canary: Canary | Unknown
