"""The artifacts of one job on the runner's disk: an archive, and a list of its members. Kept whole or not at all.

The list is written last: without a list, nothing is kept. A second collection after a crash replaces the first.
Every function blocks for as long as the disk takes.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, TypeGuard

from runner import durable
from runner.errors import ProtocolError
from runner.execution.files.inside.patterns import DEEPEST, Pattern
from sandbox.archives import UnsafeArchive, inside, stays_inside

_LEVEL: Final = 1
"""The compression level: fast rather than small."""
_MAX_LIST: Final = 64 * 1024 * 1024
_MAX_PATH: Final = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """One file or link."""

    path: str
    size: int = 0
    link: str | None = None
    """The target of a symbolic link."""
    executable: bool = False
    changed: int = 0
    """When the file was last changed, in whole seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept artifacts of a job."""

    members: tuple[Member, ...]
    left_out: tuple[str, ...]
    """Sentences on the files that are not kept."""
    size: int
    """Bytes of the archive."""


def admitted(document: Mapping[str, Any], patterns: Sequence[str]) -> Member:
    """Check a file that a sandbox announces, and return it as a member. Raises ProtocolError for a bad one. Pure.

    With the worst patterns and path this takes some hundredths of a second.
    """
    path, link, size = document.get("path"), document.get("link"), document.get("size", 0)
    changed, number = document.get("changed", 0), document.get("pattern")
    if not isinstance(path, str) or not _is_named(path):
        raise ProtocolError("The sandbox sent a file whose name is no name.")
    try:
        plain = str(inside(path)) == path and path != "."
    except UnsafeArchive:
        plain = False
    if not plain or path.count("/") > DEEPEST or not _is_meant(path, number, patterns):
        raise ProtocolError("The sandbox sent a file that it was not asked for.")
    if link is not None and not (isinstance(link, str) and _is_named(link) and stays_inside(PurePosixPath(path), link)):
        raise ProtocolError("The sandbox sent a link that leads elsewhere.")
    if not (_is_count(size, 1 << 50) and _is_count(changed, 1 << 33)) or (link is not None and size):
        raise ProtocolError("The sandbox sent a file with numbers that are none.")
    return Member(path, size, link, document.get("executable") is True, changed)


def _is_named(path: str) -> bool:
    return path.isprintable() and 0 < len(path.encode(errors="replace")) <= _MAX_PATH


def _is_meant(path: str, number: object, patterns: Sequence[str]) -> bool:
    return _is_count(number, len(patterns)) and Pattern(patterns[number]).admits(path)


def _is_count(value: object, highest: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < highest


class Bundle:
    """Writes an archive. If it is closed without `keep`, earlier artifacts stay."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises OSError."""
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        lists(path.parent).mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file: BinaryIO = os.fdopen(os.open(self._part, flags, 0o600), "wb")
        self._gzip = gzip.GzipFile("", "wb", _LEVEL, self._file, 0)
        self._members: list[Member] = []
        self._last: list[str] = []
        """The parts of the previous member's path."""
        self._missing = 0

    def close(self) -> None:
        """Close the archive, and remove it unless it was kept. Idempotent."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def begin(self, member: Member) -> None:
        """Begin a member, whose bytes follow. Raises ProtocolError for a duplicate, or a member below another one.

        Members come in the order of a walk, sorted by name in each folder, so only the previous one can clash.
        """
        parts = member.path.split("/")
        if parts <= self._last or (self._last and parts[: len(self._last)] == self._last):
            raise ProtocolError("The sandbox sent a file twice, below another one, or out of order.")
        self._last = parts
        self._members.append(member)
        self._gzip.write(_header(member))
        self._missing = -member.size % tarfile.BLOCKSIZE

    def write(self, piece: bytes) -> None:
        """Write the next bytes of the member."""
        self._gzip.write(piece)

    def end(self) -> None:
        """End the member."""
        self._gzip.write(bytes(self._missing))

    def keep(self, left_out: tuple[str, ...]) -> Kept:
        """Write all of it to disk. Raises ProtocolError when the list would be too long for `read`."""
        self._gzip.write(bytes(2 * tarfile.BLOCKSIZE))
        self._gzip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        kept = Kept(tuple(self._members), left_out, self._file.tell())
        content = json.dumps(asdict(kept)).encode()
        if len(content) > _MAX_LIST:
            raise ProtocolError(f"The names of {len(kept.members)} files have more than {_MAX_LIST} bytes. Pack them.")
        self._part.replace(self._path)
        durable.write(_list_of(self._path), content)
        return kept


def _header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.path)
    info.size, info.mtime, info.mode = member.size, member.changed, 0o755 if member.executable else 0o644
    if member.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, member.link
    return info.tobuf(tarfile.PAX_FORMAT)


def lists(folder: Path) -> Path:
    """Return the folder of the lists that belong to the archives of a folder."""
    return folder / "lists"


def _list_of(path: Path) -> Path:
    return lists(path.parent) / path.name


def read(path: Path) -> Kept | None:
    """Return the kept artifacts; None if there are none. Raises OSError, and ValueError when the list is broken."""
    try:
        document = durable.read_json(_list_of(path), _MAX_LIST)
    except FileNotFoundError:
        return None
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is no list of artifacts")  # noqa: TRY004 - the file is wrong, not our call
    return Kept(
        tuple(Member(**member) for member in document["members"]), tuple(document["left_out"]), document["size"]
    )
