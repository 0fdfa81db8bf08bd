"""Transfers of files between the runner and a sandbox, over the existing connection.

Not by SFTP: a server that the job controls could announce a packet of any size, and the library would keep all of it.
Here the runner reads no more than it asked for. The commands are the usual ones of the sandbox's system, and their
output is not trusted: the job may have written it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from runner.errors import TransferError
from runner.execution.session import Session

PIECE: Final = 1024 * 1024
"""Bytes to read, send and write at once."""
MAX_LISTING: Final = 1024 * 1024
"""Bytes of a listing; enough for some thousand files."""
LISTING_DEADLINE: Final = 60.0
"""Seconds for a listing."""
FILE_DEADLINE: Final = 1800.0
"""Seconds for one file."""

_LIST: Final = r"[ ! -d {folder} ] || find {folder} -xdev -type f -printf '%s %Ts %P\0'"
# A broken connection looks like the file's end: only a file of the full size is moved to its place.
_BRING_IN: Final = """\
umask 077 && mkdir -p -- {folder} && head -c {size} >{part} && [ "$(stat -c %s -- {part})" = {size} ] \
&& chmod {mode} -- {part} && touch -d @{changed} -- {part} && mv -f -- {part} {path}"""


@dataclass(frozen=True, slots=True)
class File:
    """A file in a sandbox, as the sandbox describes it."""

    path: str
    """The path relative to the listed folder, without `..`."""
    size: int
    changed: int
    """When it was last changed, in whole seconds since 1970."""


async def listing(session: Session, folder: str) -> list[File]:
    """Return the files below a folder; none if the folder does not exist. Names that are not plain text are left out.

    Errors: TransferError, also for too many files; ConnectionLostError.
    """
    said = b""
    async with _deadline(LISTING_DEADLINE), session.command(_LIST.format(folder=shlex.quote(folder))) as pipe:
        while piece := await pipe.read(PIECE):
            said += piece
            if len(said) > MAX_LISTING:
                raise TransferError(f"There are too many files in {folder}.")
        if trouble := await pipe.end():
            raise TransferError(f"The files in {folder} cannot be listed: {trouble}.")
    return [file for line in said.split(b"\0") if (file := _file(line))]


def _file(line: bytes) -> File | None:
    size, _, rest = line.partition(b" ")
    changed, _, name = rest.partition(b" ")
    path = name.decode(errors="replace")
    parts = PurePosixPath(path).parts
    if not (size.isdigit() and changed.isdigit() and len(size) < 20 and len(changed) < 12):
        return None
    if not parts or parts[0] == "/" or ".." in parts or not path.isprintable() or "\ufffd" in path:
        return None
    return File(path, int(size), int(changed))


async def take_out(session: Session, path: str, size: int, sink: BinaryIO) -> None:
    """Write a file of the sandbox, which must have `size` bytes, into `sink`.

    Errors: TransferError; ConnectionLostError; OSError of the sink. The bytes written before an error stay.
    """
    left = size
    async with _deadline(FILE_DEADLINE), session.command(f"exec cat -- {shlex.quote(path)}") as pipe:
        while piece := await pipe.read(min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                break
            await asyncio.to_thread(sink.write, piece)
        if left:
            raise TransferError(f"{path} does not have the {size} bytes that it was said to have.")
        if trouble := await pipe.end():
            raise TransferError(f"{path} cannot be read: {trouble}.")


async def bring_in(
    session: Session, source: BinaryIO, path: str, size: int, *, changed: int = 0, executable: bool = False
) -> None:
    """Write the next `size` bytes of `source` to a file in the sandbox, whole or not at all. Creates its folder too.

    Errors: TransferError; ConnectionLostError; OSError of the source.
    """
    folder = str(PurePosixPath(path).parent)
    mode = "700" if executable else "600"
    command = _BRING_IN.format(
        folder=shlex.quote(folder), part=shlex.quote(f"{path}.part"), path=shlex.quote(path),
        size=size, mode=mode, changed=changed,
    )  # fmt: skip
    left = size
    async with _deadline(FILE_DEADLINE), session.command(command) as pipe:
        while left and (piece := await asyncio.to_thread(source.read, min(PIECE, left))):
            left -= len(piece)
            await pipe.write(piece)
        if trouble := await pipe.end():
            raise TransferError(f"{path} cannot be written in the sandbox: {trouble}.")


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TransferError(f"A transfer to or from the sandbox took longer than {seconds:g} s.") from None
