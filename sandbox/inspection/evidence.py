"""What can be seen of a sandbox from the host's side at one moment. Vocabulary: no I/O, no opinion.

Paths are those inside the sandbox, absolute. A job names files as it likes: bytes that are no UTF-8 are written as
`\\xNN`, a backslash as two, so that every name has one text and can be kept as JSON; it is not fit for a terminal yet.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from sandbox.errors import SandboxError


class EvidenceError(SandboxError):
    """What should be evidence is none: it was cut off, or is of another version."""


class FileKind(StrEnum):
    """What a directory entry is. `DELETED` is overlayfs's mark that hides an entry of the image."""

    FILE = "f"
    FOLDER = "d"
    LINK = "l"
    OTHER = "o"
    DELETED = "x"


class Inherited(NamedTuple):
    """The same entry in the image. Ids are those inside the sandbox."""

    kind: FileKind
    mode: int
    uid: int
    gid: int


class Entry(NamedTuple):
    """A directory entry that is not the image's. Ids are those inside the sandbox."""

    kind: FileKind
    mode: int
    uid: int
    gid: int
    inode: int
    ctime: int
    """Nanoseconds. No call sets it, so that not even root can change a file and leave it as it was."""
    image: Inherited | None = None
    hides: bool = False
    """A folder that hides what the image has in it: it was removed and made again."""


class Mount(NamedTuple):
    """One line of `/proc/PID/mountinfo`, see proc_pid_mountinfo(5)."""

    id: int
    device: str
    root: str
    point: str
    options: str
    propagation: str
    """`shared`, `master`, … without the numbers of the peer groups, which come and go with other namespaces."""
    type: str
    source: str
    super_options: str


class Process(NamedTuple):
    """One process of the sandbox, ids as the host sees them."""

    pid: int
    start_time: int
    """Clock ticks since boot; the id alone is no identity."""
    state: str
    name: str
    program: str
    """The file it runs, as the kernel tells it; an exec changes it."""
    mounts: str
    """Its mount namespace."""


class Network(NamedTuple):
    """The sandbox's own network: names of its interfaces, and IPv4 routes as interface, destination, gateway, mask."""

    interfaces: tuple[str, ...]
    routes: tuple[tuple[str, str, str, str], ...]


class Events(NamedTuple):
    """How often its cgroup hit a limit."""

    out_of_memory: int
    too_many_processes: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was seen of one sandbox at one moment."""

    init_start: int
    """Start time of its first process, whose id is given."""
    upper: str
    """The overlay's upper directory on the host: what differs from the image, and nothing else."""
    lower: tuple[str, ...]
    """The image's layers, topmost first."""
    mounts: tuple[Mount, ...]
    processes: tuple[Process, ...]
    entries: dict[str, Entry]
    """By path. Below a job's own places, and in listed folders, only the first level."""
    crowded: tuple[str, ...]
    """Folders with more entries than were read."""
    complete: bool
    """False when a limit ended the look."""
    network: Network
    events: Events
    commands: frozenset[str]
    """The names of every program that is found by name. Read at `ready` only."""
    kept: dict[str, tuple[str, ...]]
    """What was in each of a job's own folders at `ready`; cleaning leaves it there. Read at `ready` only."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was seen at `ready`, before a job could forge it."""

    container_id: str
    init_pid: int
    evidence: Evidence

    def with_services(self, services: Collection[tuple[int, int]]) -> "Baseline":
        """Of the processes only those that run from start to end, by id and start time: others were about to go."""
        lasting = tuple(one for one in self.evidence.processes if (one.pid, one.start_time) in services)
        return replace(self, evidence=replace(self.evidence, processes=lasting))


def parse_evidence(text: bytes) -> Evidence:
    """Read what the gathering child printed. Raises `EvidenceError`."""
    try:
        return _EVIDENCE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        raise EvidenceError(f"What was gathered of it cannot be read ({where}: {first['msg']}).") from None


_EVIDENCE = TypeAdapter(Evidence)
