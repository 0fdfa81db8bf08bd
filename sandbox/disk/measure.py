"""Adds up what one sandbox takes on the host's disk, and prints it. Runs as a child (`sandbox.child`), confined.

Counts the blocks really taken, so that a sparse file counts only what was written. Each name of a file with several
names counts its share. Finds deleted but open files through the processes that hold them. Of a job's files, it opens
only folders: by file descriptor, through no link, and into no mount except those that the runtime made before any job.
Uses the standard library only, as its start is part of every measurement.

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
from sandbox.inspection.gather import GoneError, mounts_of, raw, start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    Order = dict[str, Any]
    """`trees`: folders on the host; `inside`: null, or mounts of the sandbox that show more folders, as recorded for
    its first process `pid` that began at `start`; `pids`: the sandbox's processes; `seconds`: after these, it prints
    what it has."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_WHICH = slice(0, 4)
"""The fields that identify a mount: number, the file system's device, the folder in it, and point."""
_BLOCK = 512  # the unit of st_blocks, whatever the file system's own block size: stat(2)
_MAX_DEPTH = 1000
_MAX_PROC_FILE = 16 * 1024**2
_DELETED = b" (deleted)"
_CHECK_EVERY = 256


def main() -> int:
    """Execute the order on stdin."""
    confine()
    order = json.load(sys.stdin)
    json.dump(measure(order), sys.stdout)
    return 0


def measure(order: Order) -> dict[str, Any]:
    """Measure the trees and the processes' deleted files."""
    total = Sum(time.monotonic() + order["seconds"])
    devices = {total.add_tree(tree) for tree in order["trees"]}
    if inside := order["inside"]:
        with suppress(GoneError, OSError):  # the process has ended, and its mounts with it
            devices |= total.add_inside(inside)
    for pid in order["pids"]:
        with suppress(OSError):  # the process has ended
            total.add_deleted(pid, devices)
    parts = [[device, round(size), round(files)] for device, (size, files) in total.parts.items()]
    return {"parts": parts, "complete": total.complete}


class Sum:
    """Bytes and files so far, by device; `complete` is false when there was too much to look at."""

    def __init__(self, end: float) -> None:
        self.parts: dict[int, list[float]] = {}
        self.complete = True
        self._end = end
        self._until_check = _CHECK_EVERY
        self._held: set[tuple[int, int]] = set()

    def add_tree(self, root: str) -> int:
        """Add `root` and everything below it on the same file system. Returns that file system's device."""
        return self._add_folder(os.open(root, _FOLDER))

    def add_inside(self, inside: dict[str, Any]) -> set[int]:
        """Add what a sandbox's recorded mounts show, if they are still the same. Returns their devices."""
        root = os.open(f"/proc/{inside['pid']}/root", os.O_PATH | os.O_DIRECTORY)
        try:
            there = list(mounts_of(inside["pid"]))
            if start_of(inside["pid"]) != inside["start"]:  # then root and mounts are another process's
                return set()
            on_top = {mount[3]: mount[_WHICH] for mount in there}
            same = [mount for mount in inside["mounts"] if on_top.get(mount[3]) == mount[_WHICH]]
            return {device for mount in same if (device := self._add_mount(root, mount, on_top)) is not None}
        finally:
            os.close(root)

    def _add_mount(self, root: int, mount: list[Any], points: Iterable[str]) -> int | None:
        """Add everything below a mount, but not a job's mounts in it: they are shown elsewhere too, or may hang."""
        try:
            top = _open_beneath(root, mount[3])
        except OSError:
            return None
        if int(_mount_of("self", str(top))) != mount[0]:  # mounted over since
            os.close(top)
            return None
        covered = {raw(point) for point in points if point.startswith(mount[3] + "/")}
        return self._add_folder(top, raw(mount[3]), covered)

    def _add_folder(self, top: int, path: bytes = b"", covered: Collection[bytes] = ()) -> int:
        """Add an open folder and everything below it except `covered` paths; close it. Returns its device."""
        status = os.fstat(top)
        self._add(status)
        open_folders = [(top, os.scandir(top), path)]
        while open_folders:
            folder, entries, path = open_folders[-1]
            name = self._next_folder(entries, status.st_dev, path, covered)
            if name is None:
                entries.close()
                os.close(folder)
                open_folders.pop()
            elif len(open_folders) >= _MAX_DEPTH:  # nobody builds that deep; this bounds the descriptors
                self.complete = False
            else:
                with suppress(FileNotFoundError, NotADirectoryError):  # removed or replaced during the look
                    below = os.open(name, _FOLDER, dir_fd=folder)
                    open_folders.append((below, os.scandir(below), _join(path, name) if covered else b""))
        return status.st_dev

    def _next_folder(
        self, entries: Iterator[os.DirEntry[str]], device: int, path: bytes, covered: Collection[bytes]
    ) -> str | None:
        """Add a folder's entries up to the next folder in it. Returns that folder's name, or None at the end."""
        for entry in entries:
            if self._is_over():
                return None
            if covered and _join(path, entry.name) in covered:
                continue
            with suppress(FileNotFoundError):  # removed during the look
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    continue
                self._add(status)
                if stat.S_ISDIR(status.st_mode):
                    return entry.name
        return None

    def add_deleted(self, pid: int, devices: set[int]) -> None:
        """Add the nameless files that a process holds open. Raises `OSError` when the process has ended.

        Asks only file systems on the sandbox's disk for a file's status: a job's own file system might never answer.
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
        part = self.parts.setdefault(status.st_dev, [0.0, 0.0])
        part[0] += status.st_blocks * _BLOCK / names
        part[1] += 1 / names

    def _is_over(self) -> bool:
        self._until_check -= 1
        if self._until_check == 0:
            self._until_check = _CHECK_EVERY
            if time.monotonic() > self._end:
                self._end = 0.0
                self.complete = False
        return not self._end


def _open_beneath(root: int, path: str) -> int:
    """Open a folder by its path below an open one, through no link. Raises `OSError`."""
    *way, last = raw(path).strip(b"/").split(b"/")
    above = os.dup(root)
    for part in way:
        try:
            below = os.open(part, _WAY, dir_fd=above)
        finally:
            os.close(above)
        above = below
    try:
        return os.open(last, _FOLDER, dir_fd=above)
    finally:
        os.close(above)


def _join(path: bytes, name: str) -> bytes:
    return path + b"/" + os.fsencode(name)


def _mounts_on(pid: int, devices: set[int]) -> set[bytes]:
    """Return the ids of a process's mounts on the sandbox's disk: on these devices, or an overlay above them."""
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


def _mount_of(pid: int | str, handle: str) -> bytes:
    """Return the id of the mount that an open file is on, see proc_pid_fdinfo(5)."""
    fields = dict(line.partition(b":")[::2] for line in _read(f"/proc/{pid}/fdinfo/{handle}").splitlines())
    return fields.get(b"mnt_id", b"").strip()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not loaded here
        return file.read(_MAX_PROC_FILE)
