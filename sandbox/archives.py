"""Tar archives that anybody may have made: nothing of one lands outside of its folder, and there is an end to it.

Into an empty folder, where no link exists while files are written; symbolic links come last, and only those that stay
inside whatever the others do. Devices and set-id bits have no place there.

The runner's programs take this along into sandboxes: it imports nothing of ours, and suits old Pythons.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Readable(Protocol):
        """Where an archive comes from."""

        def read(self, size: int, /) -> bytes:
            """Up to `size` bytes; none at the end."""


MOST_PARTS = 256  # of a path: each folder that is made above a file takes a call within the one before
HEADERS = 1024 * 1024  # bytes before each member: its names can be that long, and tarfile keeps them in memory
PIECE = 1024 * 1024
BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class UnsafeArchive(Exception):
    """An archive that is not unpacked, for the reason given. What was written of it is the caller's to remove."""


def unpack(archive: Readable, folder: Path, most_bytes: int, most_files: int, depth: int = 0) -> list[str]:
    """Write what is in a tar archive into an empty folder. Returns the links that were left out, as they were named.

    Those are the ones that could lead out of the first `depth` parts of their own path, or lie below another one.

    Raises UnsafeArchive; OSError of the disk, and whatever `archive` raises.
    """
    try:
        links = _write_all(archive, folder, most_bytes, most_files)
        return [str(path) for path in _link_all(folder, links, depth)]
    except BROKEN as error:
        raise UnsafeArchive(f"It is no tar archive, or a damaged one ({shown(str(error))}).") from error
    except (FileExistsError, NotADirectoryError) as error:
        name = os.path.relpath(error.filename2 or error.filename, folder)  # a link's own name is the second
        raise UnsafeArchive(f"It has {shown(name)} twice, or below a file.") from error


def inside(name: str) -> PurePosixPath:
    """Return a name as a path beneath a folder. Raises UnsafeArchive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UnsafeArchive(f"It has {shown(name)}, which lies outside of its folder.")
    if len(path.parts) > MOST_PARTS:
        raise UnsafeArchive(f"It has {shown(name)}, which is deeper than {MOST_PARTS} folders.")
    return path


def stays_inside(link: PurePosixPath, target: str, depth: int = 0) -> bool:
    """Whether a link can never lead out of the folder that is the first `depth` parts of its path.

    Upwards only at its beginning, where it starts from a real folder: after a name, which may be another link, `..` is
    anywhere.
    """
    parts = PurePosixPath(target).parts
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and not target.startswith("/") and up < len(link.parts) - depth and ".." not in parts[up:]


def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The member to be packed without its owner here; None for sockets and devices, which stay."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def shown(text: str) -> str:
    """Return a text of anybody's as a short line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])


class _Metered(io.RawIOBase):
    """An archive of which no more is read than its members so far account for."""

    def __init__(self, archive: Readable) -> None:
        super().__init__()
        self._archive = archive
        self._taken = 0
        self.granted = HEADERS

    def read(self, size: int = -1, /) -> bytes:
        content = self._archive.read(size)
        self._taken += len(content)
        if self._taken > self.granted:
            raise UnsafeArchive("It has names that are longer than any file's.")
        return content


def _write_all(archive: Readable, folder: Path, most_bytes: int, most_files: int) -> dict[PurePosixPath, str]:
    """Write all but the symbolic links, which are returned."""
    links: dict[PurePosixPath, str] = {}
    left = most_bytes
    metered = _Metered(archive)
    with tarfile.open(fileobj=metered, mode="r|") as members:
        for number, member in enumerate(members, 1):
            path = inside(member.name)
            metered.granted += member.size + HEADERS
            left -= member.size
            if number > most_files or left < 0:
                raise UnsafeArchive(f"It unpacks to more than {most_bytes} bytes or {most_files} files.")
            if member.issym():
                links[path] = member.linkname
            else:
                _write(members, member, folder, path)
    return links


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, path: PurePosixPath) -> None:
    place = folder / path
    (place if member.isdir() else place.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
    if member.isreg():
        _write_file(members, member, place)
    elif member.islnk():
        _link_hard(folder, place, inside(member.linkname))
    elif not member.isdir():
        raise UnsafeArchive(f"It has {shown(member.name)}, which is no file, folder or link.")


def _write_file(members: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    content = members.extractfile(member)
    assert content is not None
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, PIECE)
        file.flush()  # what is written later would change the time again
        os.fchmod(descriptor, 0o755 if member.mode & 0o100 else 0o644)
        if 0 <= member.mtime < 2**33:
            os.utime(descriptor, (member.mtime, member.mtime))


def _link_hard(folder: Path, place: Path, target: PurePosixPath) -> None:
    """No symbolic link is there yet that it could lead through."""
    try:
        os.link(folder / target, place, follow_symlinks=False)
    except FileNotFoundError:
        raise UnsafeArchive(f"It has a link to {shown(str(target))}, which it does not have.") from None


def _link_all(folder: Path, links: dict[PurePosixPath, str], depth: int) -> Iterator[PurePosixPath]:
    """Make the symbolic links that stay inside, and yield the others. None is made below another one."""
    for path, target in links.items():
        if not stays_inside(path, target, depth) or any(parent in links for parent in path.parents):
            yield path
            continue
        (folder / path.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / path).symlink_to(target)
