"""Writes an archive that anybody may have made: nothing of it lands outside of its folder, and there is an end to it.

Into an empty folder, where no link exists while files are written; symbolic links come last, and only those that stay
inside whatever the others do.
"""

from __future__ import annotations

import bz2
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
    from typing import Any, BinaryIO

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
HEADERS = 1024 * 1024  # bytes before each member: its names can be that long, and tarfile keeps them in memory
MOST_PARTS = 256  # of a path: each folder that is made above a file takes a call within the one before
PIECE = 1024 * 1024


class UnsafeArchiveError(Exception):
    """An archive that is not unpacked, for the reason given. What was written of it is the caller's to remove."""


def unpack(archive: BinaryIO, folder: Path, most_bytes: int, most_files: int) -> int:
    """Write what is in a tar archive, compressed or not, into an empty folder. Returns how many files that were.

    Raises UnsafeArchiveError; OSError of the disk.
    """
    try:
        return _unpack(archive, folder, most_bytes, most_files)
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        zlib.error,
        lzma.LZMAError,
        gzip.BadGzipFile,
    ) as error:
        raise UnsafeArchiveError(f"It is no tar archive, or a damaged one ({shown(str(error))}).") from error
    except (FileExistsError, NotADirectoryError) as error:
        name = os.path.relpath(error.filename2 or error.filename, folder)  # a link's own name is the second
        raise UnsafeArchiveError(f"It has {shown(name)} twice, or below a file.") from error


def _unpack(archive: BinaryIO, folder: Path, most_bytes: int, most_files: int) -> int:
    links: dict[PurePosixPath, str] = {}
    left, number = most_bytes, 0
    metered = Metered(_decompressed(archive))
    with tarfile.open(fileobj=metered, mode="r|") as members:
        for number, member in enumerate(members, 1):
            path = inside(member.name)
            metered.granted += member.size + HEADERS
            left -= member.size
            if number > most_files or left < 0:
                raise UnsafeArchiveError(f"It unpacks to more than {most_bytes} bytes or {most_files} files.")
            if member.issym():
                links[path] = member.linkname
            else:
                _write(members, member, folder, path)
    for path, target in links.items():
        _link(folder, path, target, links)
    return number


def _decompressed(archive: BinaryIO) -> BinaryIO:
    """By its first bytes: a name says nothing."""
    begin = archive.read(6)
    archive.seek(0)
    for magic, opened in OPENERS.items():
        if begin.startswith(magic):
            stream: BinaryIO = opened(archive, "rb")
            return stream
    return archive


class Metered(io.RawIOBase):
    """An archive of which no more is read than its members so far account for."""

    def __init__(self, archive: BinaryIO) -> None:
        super().__init__()
        self._archive = archive
        self._taken = 0
        self.granted = HEADERS

    def read(self, size: int = -1, /) -> bytes:
        content = self._archive.read(size)
        self._taken += len(content)
        if self._taken > self.granted:
            raise UnsafeArchiveError("It has names that are longer than any file's.")
        return content


def inside(name: str) -> PurePosixPath:
    """Return a name as a path beneath a folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UnsafeArchiveError(f"It has {shown(name)}, which lies outside of its folder.")
    if len(path.parts) > MOST_PARTS:
        raise UnsafeArchiveError(f"It has {shown(name)}, which is deeper than {MOST_PARTS} folders.")
    return path


def stays_inside(link: PurePosixPath, target: str) -> bool:
    """Whether a link can never lead out of the folder that it is in.

    Upwards only at its beginning, where it starts from a real folder: after a name, which may be another link, `..` is
    anywhere.
    """
    parts = PurePosixPath(target).parts
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and not target.startswith("/") and up < len(link.parts) and ".." not in parts[up:]


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, path: PurePosixPath) -> None:
    place = folder / path
    (place if member.isdir() else place.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
    if member.isreg():
        content = members.extractfile(member)
        assert content is not None
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, PIECE)
            file.flush()  # what is written later would change the time again
            os.fchmod(descriptor, 0o755 if member.mode & 0o100 else 0o644)
            if 0 <= member.mtime < 2**33:
                os.utime(descriptor, (member.mtime, member.mtime))
    elif member.islnk():
        _link_hard(folder, place, inside(member.linkname))
    elif not member.isdir():
        raise UnsafeArchiveError(f"It has {shown(member.name)}, which is no file, folder or link.")


def _link_hard(folder: Path, place: Path, target: PurePosixPath) -> None:
    """No symbolic link is there yet that it could lead through."""
    try:
        os.link(folder / target, place, follow_symlinks=False)
    except FileNotFoundError:
        raise UnsafeArchiveError(f"It has a link to {shown(str(target))}, which it does not have.") from None


def _link(folder: Path, path: PurePosixPath, target: str, links: dict[PurePosixPath, str]) -> None:
    if not stays_inside(path, target):
        raise UnsafeArchiveError(f"It has the link {shown(str(path))}, which leads outside of its folder.")
    if any(parent in links for parent in path.parents):
        raise UnsafeArchiveError(f"It has {shown(str(path))} below a link.")
    (folder / path.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
    (folder / path).symlink_to(target)


def shown(text: str) -> str:
    """Return a text of anybody's as a short line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])
