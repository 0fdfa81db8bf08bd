"""Writes a tar archive that a sandbox sent, which is hostile: nothing of it lands outside of its folder.

Into a new folder of ours, where no link exists while files are written; links come last, and only those that stay
inside whatever the others do. Devices, hard links and set-id bits have no place in what is copied out.
"""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from sandbox.errors import TransferRefused
from sandbox.text import one_line

MOST_MEMBERS = 1_000_000
_MOST_PARTS = 256
"""Of a path: each folder that is made above a file takes a call within the one before."""
_MOST_HEADERS = 1024 * 1024
"""Bytes before each member: its names can be that long, and tarfile keeps them in memory."""
_PIECE = 1024 * 1024


class Readable(Protocol):
    """Where an archive comes from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


def unpack(archive: Readable, folder: Path, most_bytes: int) -> list[str]:
    """Write what is in `archive` into the empty `folder`. Returns the links that were left out, as they were named.

    Raises `TransferRefused` for what is not safe or too much; what was written then is the caller's to remove.
    """
    links: dict[PurePosixPath, str] = {}
    left = most_bytes
    try:
        metered = _Metered(archive)
        with tarfile.open(fileobj=metered, mode="r|") as members:
            for number, member in enumerate(members, 1):
                path = _inside(member.name)
                metered.granted += member.size + _MOST_HEADERS
                if number > MOST_MEMBERS or (left := left - member.size) < 0:
                    raise TransferRefused(f"It is more than {most_bytes} bytes or {MOST_MEMBERS} files. Copy less.")
                if member.issym():
                    links[path] = member.linkname
                else:
                    _write(members, member, folder / path)
        return [str(path) for path in _link(folder, links)]
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        raise TransferRefused(f"What the sandbox sent is no tar archive: {_shown(str(error))}.") from error
    except (FileExistsError, NotADirectoryError) as error:
        name = os.path.relpath(error.filename2 or error.filename, folder)  # a link's own name is the second
        raise TransferRefused(f"The sandbox sent {_shown(name)} twice, or below a file.") from error


def is_inside(link: PurePosixPath, target: str) -> bool:
    """Whether a link can never lead out of the copy, which is the first part of its path.

    Upwards only at its beginning, where it starts from a real folder: after a name, which may be another link, `..` is
    anywhere.
    """
    parts = PurePosixPath(target).parts
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and not target.startswith("/") and up < len(link.parts) - 1 and ".." not in parts[up:]


class _Metered(io.RawIOBase):
    """An archive of which no more is read than its members so far account for."""

    def __init__(self, archive: Readable) -> None:
        super().__init__()
        self._archive = archive
        self._taken = 0
        self.granted = _MOST_HEADERS

    def read(self, size: int = -1, /) -> bytes:
        content = self._archive.read(size)
        self._taken += len(content)
        if self._taken > self.granted:
            raise TransferRefused("The sandbox sent names that are longer than any file's. Nothing was written.")
        return content


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise TransferRefused(f"The sandbox sent a file for {_shown(name)}, which is elsewhere. Nothing was written.")
    if len(path.parts) > _MOST_PARTS:
        raise TransferRefused(f"The sandbox sent {_shown(name)}, which is deeper than {_MOST_PARTS} folders.")
    return path


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif member.isreg():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_file(members, member, path)
    else:
        raise TransferRefused(f"The sandbox sent {_shown(member.name)}, which is no file, folder or symbolic link.")


def _write_file(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = members.extractfile(member)
    assert content is not None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, _PIECE)
        os.fchmod(descriptor, 0o755 if member.mode & stat.S_IXUSR else 0o644)
        if 0 <= member.mtime < 2**33:
            os.utime(descriptor, (member.mtime, member.mtime))


def _link(folder: Path, links: dict[PurePosixPath, str]) -> Iterable[PurePosixPath]:
    """Make the links that stay inside, and yield the others. None is made below another one."""
    for path, target in links.items():
        if not is_inside(path, target) or any(parent in links for parent in path.parents):
            yield path
            continue
        (folder / path.parent).mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / path).symlink_to(target)


def _shown(text: str) -> str:
    return one_line(text)[:200]
