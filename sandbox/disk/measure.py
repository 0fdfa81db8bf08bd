"""Adds up what one sandbox takes on the host's disk, and prints it. Runs as a child (`sandbox.child`), confined.

Counted are the blocks that are really taken, so that a sparse file counts what was written of it; each name of a file
with several counts its share. Files that were deleted and are still open are found by the processes that hold them.
Nothing that a job made is opened but folders, and those by file descriptor, never through a link or into a mount.
Standard library only: its start is part of every measurement.

Input: one JSON object on stdin, see `Order`. Output: another, see `Sum`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from contextlib import suppress

from sandbox.inspection.confine import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Order = dict[str, Any]
    """`trees`: folders on the host; `pids`: the sandbox's processes; `seconds`: after these it says what it has."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is: stat(2)
_MAX_DEPTH = 1000
_MAX_PROC_FILE = 16 * 1024**2
_DELETED = b" (deleted)"
_CHECK_EVERY = 256


def main() -> int:
    """Do what stdin says."""
    confine()
    order = json.load(sys.stdin)
    json.dump(measure(order), sys.stdout)
    return 0


def measure(order: Order) -> dict[str, Any]:
    """What the trees and the processes' deleted files take."""
    total = Sum(time.monotonic() + order["seconds"])
    devices = {total.add_tree(tree) for tree in order["trees"]}
    for pid in order["pids"]:
        with suppress(OSError):  # it has ended
            total.add_deleted(pid, devices)
    return {"bytes": round(total.bytes), "files": round(total.files), "complete": total.complete}


class Sum:
    """Bytes and files so far; `complete` is false when there was more than could be looked at."""

    def __init__(self, end: float) -> None:
        self.bytes = 0.0
        self.files = 0.0
        self.complete = True
        self._end = end
        self._until_check = _CHECK_EVERY
        self._held: set[tuple[int, int]] = set()

    def add_tree(self, root: str) -> int:
        """Everything below `root` on the same file system, and itself. Returns that file system's device."""
        top = os.open(root, _FOLDER)
        status = os.fstat(top)
        self._add(status)
        open_folders = [(top, os.scandir(top))]
        while open_folders:
            folder, entries = open_folders[-1]
            below = self._next_folder(folder, entries, status.st_dev)
            if below is None:
                entries.close()
                os.close(folder)
                open_folders.pop()
            elif len(open_folders) < _MAX_DEPTH:
                open_folders.append((below, os.scandir(below)))
            else:  # nobody builds that deep; the descriptors are bounded
                self.complete = False
                os.close(below)
        return status.st_dev

    def _next_folder(self, folder: int, entries: Iterator[os.DirEntry[str]], device: int) -> int | None:
        """Add what comes in a folder, up to the next folder in it; returns that one, or None at the end."""
        for entry in entries:
            if self._is_over():
                return None
            with suppress(FileNotFoundError):  # removed while we looked
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    continue
                self._add(status)
                if stat.S_ISDIR(status.st_mode):
                    try:
                        return os.open(entry.name, _FOLDER, dir_fd=folder)
                    except NotADirectoryError:  # replaced while we looked
                        continue
        return None

    def add_deleted(self, pid: int, devices: set[int]) -> None:
        """The files that a process holds open and that have no name any more. Raises `OSError` when it has ended.

        Their status is only asked of file systems that are the sandbox's disk: one of the job's own might never answer.
        """
        on_disk = _mounts_on(pid, devices)
        with os.scandir(f"/proc/{pid}/fd") as handles:
            for handle in handles:
                if self._is_over():
                    return
                with suppress(FileNotFoundError, ProcessLookupError):
                    path = f"/proc/{pid}/fd/{handle.name}"
                    if _is_deleted(path) and _mount_of(pid, handle.name) in on_disk:
                        self._add_held(os.stat(path))  # noqa: PTH116 - pathlib is not loaded here

    def _add_held(self, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink == 0 and stat.S_ISREG(status.st_mode) and identity not in self._held:
            self._held.add(identity)
            self._add(status)

    def _add(self, status: os.stat_result) -> None:
        names = 1 if stat.S_ISDIR(status.st_mode) else max(1, status.st_nlink)
        self.bytes += status.st_blocks * _BLOCK / names
        self.files += 1 / names

    def _is_over(self) -> bool:
        self._until_check -= 1
        if self._until_check == 0:
            self._until_check = _CHECK_EVERY
            if time.monotonic() > self._end:
                self._end = 0.0
                self.complete = False
        return not self._end


def _mounts_on(pid: int, devices: set[int]) -> set[bytes]:
    """The ids of a process's mounts that take the sandbox's disk: on these devices, or an overlay above them."""
    ids = set()
    for line in _read(f"/proc/{pid}/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        number, _, device, *_ = before.split(b" ")
        major, _, minor = device.partition(b":")
        if after.startswith(b"overlay ") or os.makedev(int(major), int(minor)) in devices:
            ids.add(number)
    return ids


def _is_deleted(path: str) -> bool:
    return os.readlink(os.fsencode(path)).endswith(_DELETED)  # noqa: PTH115 - pathlib is not loaded here


def _mount_of(pid: int, handle: str) -> bytes:
    """The id of the mount that an open file is on, see proc_pid_fdinfo(5)."""
    fields = dict(line.partition(b":")[::2] for line in _read(f"/proc/{pid}/fdinfo/{handle}").splitlines())
    return fields.get(b"mnt_id", b"").strip()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not loaded here
        return file.read(_MAX_PROC_FILE)
