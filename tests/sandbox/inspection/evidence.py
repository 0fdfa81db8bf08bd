"""Evidence made by hand, for tests of its judgement."""

from __future__ import annotations

from dataclasses import replace

from sandbox.inspection.evidence import Entry, Events, Evidence, FileKind, Inherited, Mount, Network, Process

FOLDER = Inherited(FileKind.FOLDER, 0o755, 0, 0)
FILE = Inherited(FileKind.FILE, 0o644, 0, 0)


def entry(kind: FileKind = FileKind.FILE, image: Inherited | None = None, **other: object) -> Entry:
    """An entry as root's programs make it."""
    made = Entry(kind, 0o755 if kind is FileKind.FOLDER else 0o644, 0, 0, inode=7, ctime=1, image=image)
    return made._replace(**other)  # type: ignore[arg-type]


def mount(point: str, type_: str = "tmpfs", number: int = 1, **other: object) -> Mount:
    """A mount as the engine makes it."""
    made = Mount(number, "0:1", "/", point, "rw", "", type_, type_, "rw")
    return made._replace(**other)  # type: ignore[arg-type]


SSHD = Process(10, 100, "S", "sshd", "/usr/sbin/sshd", "mnt:[1]")
READY = Evidence(
    init_start=1,
    upper="/upper",
    lower=("/lower",),
    mounts=(mount("/", "overlay"), mount("/dev"), mount("/etc/hosts", "ext4"), mount("/var/lib/docker", "ext4")),
    processes=(SSHD, Process(1, 1, "S", "tini", "/usr/bin/tini", "mnt:[1]")),
    entries={
        "/": entry(FileKind.FOLDER, FOLDER),
        "/etc": entry(FileKind.FOLDER, FOLDER),
        "/etc/hosts": entry(),
        "/etc/sandbox": entry(FileKind.FOLDER, FOLDER),
        "/etc/sandbox/authorized_keys": entry(),
        "/run/docker.sock": entry(FileKind.OTHER),
        "/var/lib/docker/overlay2": entry(FileKind.FOLDER),
    },
    crowded=(),
    complete=True,
    network=Network(("eth0", "lo"), (("eth0", "00000000", "0100000A", "00000000"),)),
    events=Events(0, 0),
    commands=frozenset({"git", "docker"}),
    kept={"/home/sandbox": (".bashrc",)},
)
"""A small sandbox at `ready`."""


def now(**changes: object) -> Evidence:
    """The same sandbox later."""
    return replace(READY, **changes)  # type: ignore[arg-type]


def at(path: str, found: Entry) -> Evidence:
    """The same sandbox with another entry at a path."""
    return now(entries={**READY.entries, path: found})


def without(path: str) -> Evidence:
    """The same sandbox with nothing at a path."""
    return now(entries={key: value for key, value in READY.entries.items() if key != path})
