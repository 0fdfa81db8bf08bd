"""Copies files and folders into a sandbox and out of it, as tar archives over a command's streams."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sandbox import archives, ssh
from sandbox.adhoc.execution import Command, run
from sandbox.errors import CommandFailed, CommandTimedOut, TransferFailed, TransferRefused
from sandbox.ssh import words

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MOST_BYTES = 64 * 1024**3
MOST_FILES = 1_000_000
"""The most bytes and files that are copied out."""
STALLED = 60.0
"""Seconds without a byte after which a copy is given up."""
_PIECE = 256 * 1024


def put(transport: ssh.Transport, source: Path, target: str) -> None:
    """Copy a file or folder into the sandbox. See `Sandbox.put`."""
    if not os.path.lexists(source):
        raise TransferFailed(f"There is no {source} to copy.")
    folder, name = _place(transport, source, target)
    with Command(transport, f"exec tar --extract --no-same-owner --file=- --directory {shlex.quote(folder)}") as tar:
        tar.channel.settimeout(STALLED)
        errors = _Collected(tar.channel)
        try:
            with tarfile.open(fileobj=_Stream(tar.channel), mode="w|", bufsize=_PIECE) as archive:
                archive.add(source, arcname=name, filter=archives.nobodys)
            tar.channel.shutdown_write()
        except ssh.LOST as error:
            told = errors.text()  # the tar inside gave up, and said why
            raise TransferFailed(f"{source} could not be copied to {target}: {told or words(error)}.") from error
        if why := _failure(tar, errors):
            raise TransferFailed(f"{source} could not be copied to {target}: {why}.")


def get(
    transport: ssh.Transport, source: str, target: Path, most_bytes: int = MOST_BYTES, *, replace: bool = False
) -> list[str]:
    """Copy a file or folder out of the sandbox. See `Sandbox.get`."""
    parent, name = str(PurePosixPath(source).parent), own_name(source)
    place = target / name if target.is_dir() else target
    if not replace and (place.is_dir() or (os.path.lexists(place) and not place.is_file())):
        raise TransferFailed(f"{place} is there already. Remove it, or name another place.")
    text = f"exec tar --create --hard-dereference --file=- --directory {shlex.quote(parent)} -- {shlex.quote(name)}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sandbox-", dir=place.parent, ignore_cleanup_errors=True) as folder:
            left_out = _receive(transport, text, source, Path(folder, "all"), most_bytes)
            if left_out == [name]:
                raise TransferFailed(f"{source} is a symbolic link. Name what it leads to.")
            _move(Path(folder, "all", name), place, Path(folder, "before") if replace else None)
    except OSError as error:
        raise TransferFailed(f"{source} could not be written to {place}: {error}.") from error
    if os.path.lexists(folder):
        raise TransferFailed(f"{place} is there, but what was there before is in {folder}, and would not all go.")
    return left_out


def own_name(source: str) -> str:
    """Return the name of a copy of this. Raises `TransferFailed` when it has no name, as `/` and `..`."""
    name = PurePosixPath(source).name
    if name in {"", ".."}:
        raise TransferFailed(f"{source!r} names no file or folder. Name one, such as `out` or /home/sandbox/out.")
    return name


def _place(transport: ssh.Transport, source: Path, target: str) -> tuple[str, str]:
    """Return the folder inside that the copy goes to, made if missing, and the copy's name in it."""
    name = source.resolve().name
    quoted = shlex.quote(target)
    parent, own = str(PurePosixPath(target).parent), PurePosixPath(target).name
    if target.endswith("/"):
        script = f"mkdir -p -- {quoted} && echo folder"
    else:
        script = f"[ -d {quoted} ] && echo folder || mkdir -p -- {shlex.quote(parent)}"
    try:
        answer = run(transport, script, timeout=STALLED).check().stdout
    except CommandFailed as error:
        raise TransferFailed(f"{target} cannot be written in the sandbox: {error}") from error
    return (target, name) if answer == "folder\n" or not own else (parent, own)


def _receive(transport: ssh.Transport, text: str, source: str, folder: Path, most_bytes: int) -> list[str]:
    folder.mkdir(mode=0o700)
    with Command(transport, text) as tar:
        tar.feed([])
        tar.channel.settimeout(STALLED)
        errors = _Collected(tar.channel)
        stream = io.BufferedReader(_Stream(tar.channel), _PIECE)
        try:
            left_out = _unpack(stream, folder, most_bytes)
            while stream.read(_PIECE):  # tar pads its archives
                pass
        except (*ssh.LOST, TransferFailed):
            if told := errors.text():
                raise TransferFailed(f"{source} could not be copied: {told}.") from None
            raise
        if why := _failure(tar, errors):
            raise TransferFailed(f"{source} could not be copied: {why}.")
    return left_out


def _unpack(stream: archives.Readable, folder: Path, most_bytes: int) -> list[str]:
    """Unpack the archive. No link may lead out of the copy, whose name begins each path (`depth=1`)."""
    try:
        return archives.unpack(stream, folder, most_bytes, MOST_FILES, depth=1)
    except archives.UnsafeArchive as error:
        raise TransferRefused(f"What the sandbox sent is not copied. {error}") from error


def _move(made: Path, place: Path, before: Path | None) -> None:
    """Move the copy to its place, and the old content to `before`. If that fails, keep the copy beside the place."""
    if not os.path.lexists(made):
        raise TransferFailed("The sandbox sent something else than what it was asked for. Nothing was written.")
    try:
        if before and os.path.lexists(place):
            place.rename(before)
        made.replace(place)
    except OSError as error:
        spare = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent), made.name)
        made.replace(spare)
        if before and os.path.lexists(before):
            before.rename(place)
        raise TransferFailed(f"{place} is in the way: {error.strerror}. The copy is {spare}.") from error


class _Stream(io.RawIOBase):
    """A channel as a file. paramiko's own file object complains at its end about an earlier close."""

    def __init__(self, channel: ssh.Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        content = self._channel.recv(len(room))
        room[: len(content)] = content
        return len(content)

    def write(self, content: ReadableBuffer, /) -> int:
        whole = bytes(content)
        self._channel.sendall(whole)
        return len(whole)


class _Collected:
    """Collects a command's stderr while its stdout is read."""

    def __init__(self, channel: ssh.Channel) -> None:
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._collect, args=(channel,), daemon=True)
        self._thread.start()

    def text(self, wait: float = 1.0) -> str:
        """Return the text as one line, after waiting at most so many seconds for its end."""
        self._thread.join(wait)
        return words(self._kept.decode(errors="replace")).rstrip(".") if self._kept.strip() else ""

    def _collect(self, channel: ssh.Channel) -> None:
        with suppress(*ssh.LOST):
            while content := self._next(channel):
                if len(self._kept) < 4096:
                    self._kept += content

    @staticmethod
    def _next(channel: ssh.Channel) -> bytes:
        while True:
            with suppress(TimeoutError):  # the timeout is meant for stdout; a copy may have nothing to say on stderr
                return channel.recv_stderr(4096)


def _failure(command: Command, errors: _Collected) -> str:
    """Wait for the command's end, and return what went wrong; empty when it succeeded."""
    told = errors.text(STALLED)  # first: waiting for the end would take the unread rest
    try:
        for _ in command.pieces(time.monotonic() + STALLED):
            pass
    except CommandTimedOut:
        return told or f"tar did not end within {STALLED:.0f} s after its last byte"
    code = command.exit_code()
    return (told or f"tar ended with {code}") if code else ""
