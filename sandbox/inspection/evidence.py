r"""What can be seen of a sandbox from the host at one moment. Vocabulary: no I/O, no opinion.

Paths are absolute, inside the sandbox. A job names files as it likes: bytes that are not UTF-8 become `\xNN`, and a
backslash becomes two, so that every name has one text that JSON can hold. The text is not yet safe for a terminal.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from sandbox.errors import SandboxError


class EvidenceError(SandboxError):
    """The evidence is cut off or of another version."""


class FileKind(StrEnum):
    """The kind of a directory entry. `DELETED` is overlayfs's mark that hides an entry of the image."""

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
    """A directory entry that differs from the image. Ids are those inside the sandbox."""

    kind: FileKind
    mode: int
    uid: int
    gid: int
    inode: int
    ctime: int
    """Nanoseconds. No system call sets it, so that not even root can hide a change of a file."""
    image: Inherited | None = None
    hides: bool = False
    """Whether this folder was removed and made again, so that it hides the image's part."""


class Mount(NamedTuple):
    """One line of `/proc/PID/mountinfo`, see proc_pid_mountinfo(5)."""

    id: int
    device: str
    root: str
    point: str
    options: str
    propagation: str
    """`shared`, `master`, … without the numbers of the peer groups, which change with other namespaces."""
    type: str
    source: str
    super_options: str


class Process(NamedTuple):
    """One process of the sandbox, ids as the host sees them."""

    pid: int
    start_time: int
    """Clock ticks since boot; the id alone does not identify a process."""
    state: str
    name: str
    program: str
    """The file it runs, as the kernel reports it; an exec changes it."""
    mounts: str
    """Its mount namespace."""


class Network(NamedTuple):
    """The sandbox's own network: names of its interfaces, and IPv4 routes as interface, destination, gateway, mask."""

    interfaces: tuple[str, ...]
    routes: tuple[tuple[str, str, str, str], ...]


class Events(NamedTuple):
    """How often the sandbox's cgroup hit a limit."""

    out_of_memory: int
    too_many_processes: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was seen of one sandbox at one moment."""

    init_start: int
    """The start time of the sandbox's first process, whose id is given."""
    upper: str
    """The overlay's upper directory on the host: all that differs from the image."""
    lower: tuple[str, ...]
    """The image's layers, topmost first."""
    mounts: tuple[Mount, ...]
    processes: tuple[Process, ...]
    entries: dict[str, Entry]
    """By path. Only the first level below a job's own places and in listed folders."""
    crowded: tuple[str, ...]
    """Folders with more entries than are read."""
    complete: bool
    """False when the look hit a limit."""
    network: Network
    events: Events
    commands: frozenset[str]
    """The names of all programs in the command folders. Read at `ready` only."""
    kept: dict[str, tuple[str, ...]]
    """The contents of each of a job's own folders at `ready`, which cleaning leaves there. Read at `ready` only."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was seen at `ready`, before a job could forge it."""

    container_id: str
    init_pid: int
    evidence: Evidence

    def with_services(self, services: Collection[tuple[int, int]]) -> "Baseline":
        """Keep only the processes with these ids and start times: the others were about to end."""
        lasting = tuple(one for one in self.evidence.processes if (one.pid, one.start_time) in services)
        return replace(self, evidence=replace(self.evidence, processes=lasting))


def parse_evidence(text: bytes) -> Evidence:
    """Parse the gathering child's output. Raises `EvidenceError`."""
    try:
        return _EVIDENCE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        raise EvidenceError(f"What was gathered of it cannot be read ({where}: {first['msg']}).") from None


_EVIDENCE = TypeAdapter(Evidence)
