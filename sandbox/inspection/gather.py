"""Reads what is left of one sandbox on the host, and prints it. Runs as a child of `inspector`, confined.

Of a job's files, it opens only folders: by file descriptor, following no link and entering no mount that was not there
at `ready`. Of everything else it reads only what the kernel keeps about it. Uses little of the standard library and
nothing else, as its start is part of every inspection. Prints `evidence.Evidence` as JSON.

Input: one JSON object on stdin, see `Order`. Exit code 3 when the sandbox's first process is gone.
"""

from __future__ import annotations

import json
import os
import select
import stat
import sys

from sandbox import procfs
from sandbox.inspection.confine import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Order = dict[str, Any]
    """`container`, `pid`; that process's `start`, and `upper`, `lower` and `mounts` as recorded (null at `ready`);
    `own` and `listed` folders, read to the first level; `commands` and `kept` folders, read for names; `most` entries
    and bytes of names."""
    Ids = list[tuple[int, int, int]]

GONE = 3
_MAX_DEPTH = 100
_MAX_PROC_FILE = 16 * 1024**2
_PIECE = 64 * 1024
_MAX_LISTED = 256
_HELPERS_FOLDERS = (b".sysbox-procfs", b".sysbox-sysfs")  # sysbox-fs makes them for some reads: nsenter/event.go


class GoneError(Exception):
    """The process to look at is gone."""


def main() -> int:
    """Execute the order on stdin."""
    try:
        confine()
        evidence = gather(json.load(sys.stdin))
    except GoneError:
        return GONE
    except (OSError, ValueError, LookupError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    json.dump(evidence, sys.stdout, separators=(",", ":"))
    return 0


def gather(order: Order) -> dict[str, Any]:
    """Return all evidence. Raises `GoneError`, also when the process ended during the look: ids are used again."""
    pid = order["pid"]
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise GoneError from None
    start = start_of(pid)
    if order["start"] not in (None, start):
        raise GoneError
    look = Look(order)
    look.take()
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    if ended.poll(0) or start_of(pid) != start:
        raise GoneError
    return {
        "init_start": start,
        "upper": look.upper,
        "lower": look.lower,
        "mounts": look.mounts,
        "processes": list(_processes(order["container"].encode())),
        "entries": look.entries,
        "crowded": look.crowded,
        "complete": look.complete,
        "network": {"interfaces": _interfaces(pid), "routes": _routes(pid)},
        "events": look.events(),
        "commands": sorted({name for folder in order["commands"] for name in look.names(folder) or ()}),
        "kept": {folder: names for folder in order["kept"] if (names := look.names(folder)) is not None},
    }


class Look:
    """One look at one sandbox's files."""

    def __init__(self, order: Order) -> None:
        self.pid = order["pid"]
        self.own = frozenset(order["own"])
        self.listed = order["listed"]
        self.left_entries, self.left_bytes = order["most"]
        self.entries: dict[str, list[Any]] = {}
        self.crowded: list[str] = []
        self.complete = True
        self.mounts = list(mounts_of(self.pid))
        self._points = {mount[3]: tuple(mount) for mount in self.mounts}  # on a shared point, the later mount is on top
        self.known = {tuple(mount) for mount in order["mounts"] or self.mounts}
        if order["upper"] is None:
            self.upper, self.lower = _layers(self.mounts)
        else:
            self.upper, self.lower = order["upper"], order["lower"]
        self.uids = _id_map(self.pid, "uid")
        self.gids = _id_map(self.pid, "gid")

    def take(self) -> None:
        """Read everything below the upper directory, then the folders on mounts of their own."""
        upper = os.open(raw(self.upper), os.O_RDONLY | os.O_DIRECTORY)
        lower = [os.open(raw(layer), os.O_PATH | os.O_DIRECTORY) for layer in self.lower]
        root, inherited = os.fstat(upper), os.fstat(lower[0])
        self._add("/", root, inherited)
        self._walk("/", upper, lower, 0)
        for _, _, _, point, *_ in self.known:
            self._look_at_file(point)
        for folder in self.listed:
            self._list(folder)

    # -- the upper directory -------------------------------------------------------------------------------------

    def _walk(self, path: str, folder: int, layers: list[int], depth: int) -> None:
        """Read all below `folder`, the upper directory's `path`; `layers` are the image's folders of that path."""
        own = path in self.own
        with os.scandir(folder) as found:
            for count, item in enumerate(found):
                if own and count == _MAX_LISTED:
                    self.crowded.append(path)
                    return
                inside = path.rstrip("/") + "/" + _text(os.fsencode(item.name))
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:  # at `ready` nothing is frozen
                    continue
                inherited = _in_image(item.name, layers)
                is_folder = stat.S_ISDIR(status.st_mode)
                if not self._add(inside, status, inherited):
                    return
                if not inherited and _is_left_by_sysbox(path, item.name, folder):
                    del self.entries[inside]  # it still counts, so that a million of them end the look
                    continue
                # A mount point hides what lies below it. A job's own folders are emptied, except for the image's part.
                if is_folder and inside not in self._points and (not own or inherited):
                    self._descend(inside, item.name, folder, layers, depth)

    def _descend(self, path: str, name: str, folder: int, layers: list[int], depth: int) -> None:
        if depth >= _MAX_DEPTH:
            self.complete = False
            return
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:  # at `ready` nothing is frozen
            return
        inherited = list(_folders(name, layers))
        try:
            if inherited and self._hides(path, below, inherited):
                self.entries[path][-1] = True
            self._walk(path, below, inherited, depth + 1)
        finally:
            for handle in (below, *inherited):
                os.close(handle)

    def _hides(self, path: str, folder: int, layers: list[int]) -> bool:
        """Whether the image's part of a folder is hidden. Overlayfs marks that where only CAP_SYS_ADMIN can read.

        So this looks, in the sandbox's own view, for one name that the image has and the upper directory lacks.
        """
        name = _other_name(folder, layers)
        if name is None or self._mount_at(path) != self._mount_at("/"):
            return False
        merged = self._open_inside(path)
        if merged is None:
            return False
        try:
            os.stat(name, dir_fd=merged, follow_symlinks=False)
        except FileNotFoundError:
            return True
        finally:
            os.close(merged)
        return False

    # -- the sandbox's own view, on mounts that were there at `ready` --------------------------------------------

    def _look_at_file(self, point: str) -> None:
        """Read a single file that the engine mounted into the sandbox, such as /etc/resolv.conf."""
        folder, _, name = point.rpartition("/")
        if not folder or point.startswith(("/proc/", "/sys/", "/dev/")) or not self._is_known(point):
            return
        above = self._open_inside(folder)
        if above is None:
            return
        status = os.stat(raw(name), dir_fd=above, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            self._add(point, status, None)
        os.close(above)

    def _list(self, path: str) -> None:
        """Read the first level of a folder on a mount of its own."""
        if self._mount_at(path) == "/":  # the upper directory shows it
            return
        folder = self._open_inside(path, os.O_RDONLY)
        if folder is None:
            return
        with os.scandir(folder) as found:
            for count, item in enumerate(found):
                inside = path + "/" + _text(os.fsencode(item.name))
                if inside in self._points:  # the mount table shows it
                    continue
                if count >= _MAX_LISTED:
                    self.crowded.append(path)
                    break
                if not _is_left_by_sysbox(path, item.name, folder):
                    self._add(inside, item.stat(follow_symlinks=False), None)
        os.close(folder)

    def names(self, path: str) -> list[str] | None:
        """Return the names in a folder; None when there is no such folder."""
        folder = self._open_inside(path, os.O_RDONLY)
        if folder is None:
            return None
        try:
            return [_text(os.fsencode(name)) for name in os.listdir(folder)]
        finally:
            os.close(folder)

    def events(self) -> list[int]:
        """Return how often the cgroup's memory and process limits were hit, on cgroup v2 or v1."""
        memory = self._counter("memory.events", "oom_kill") or self._counter("memory/memory.oom_control", "oom_kill")
        # Before Linux 6.11 (commit 73e75e6fc352), a refused fork counts only in the forking process's own group:
        # `init.scope` with sysbox, otherwise the image's own `init`.
        groups = ("", "init.scope/", "init/", "pids/")
        return [memory, max(self._counter(f"{group}pids.events", "max") for group in groups)]

    def _counter(self, file: str, name: str) -> int:
        folder, _, last = ("/sys/fs/cgroup/" + file).rpartition("/")
        above = self._open_inside(folder)
        if above is None:
            return 0
        try:
            with open(os.open(last, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above), "rb") as opened:
                counters = dict(line.split() for line in opened.read(65536).splitlines())
        except (OSError, ValueError):
            return 0
        finally:
            os.close(above)
        return int(counters.get(name.encode(), 0))

    def _open_inside(self, path: str, flags: int = os.O_PATH) -> int | None:
        """Open a folder as the sandbox sees it; None when it is none, or behind a link or an unknown mount."""
        if not self._is_known("/"):
            return None
        opened = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY)
        parts = [part for part in path.split("/") if part]
        at = ""
        for number, part in enumerate(parts, 1):
            at += "/" + part
            how = flags if number == len(parts) else os.O_PATH
            try:
                if at in self._points and not self._is_known(at):
                    return None
                below = os.open(raw(part), how | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            except OSError:
                return None
            finally:
                os.close(opened)
            opened = below
        return opened

    # -- mounts --------------------------------------------------------------------------------------------------

    def _is_known(self, point: str) -> bool:
        return self._points.get(point) in self.known

    def _mount_at(self, path: str) -> str:
        while path not in self._points and path:
            path = path.rpartition("/")[0]
        return path or "/"

    # -- entries -------------------------------------------------------------------------------------------------

    def _add(self, path: str, status: os.stat_result, inherited: os.stat_result | None) -> bool:
        """Add one entry; return False when the look is over."""
        self.left_entries -= 1
        self.left_bytes -= len(path)
        if self.left_entries < 0 or self.left_bytes < 0:
            self.complete = False
            return False
        image = self._facts(inherited) if inherited else None
        self.entries[path] = [*self._facts(status), status.st_ino, status.st_ctime_ns, image, False]
        return True

    def _facts(self, status: os.stat_result) -> list[Any]:
        mode = stat.S_IMODE(status.st_mode)
        return [_kind(status), mode, _inside(status.st_uid, self.uids), _inside(status.st_gid, self.gids)]


def _is_left_by_sysbox(path: str, name: str, folder: int) -> bool:
    """Whether `name` in the folder `path` was left by a helper of sysbox-fs that was ended with the job."""
    what, _, number = os.fsencode(name).rpartition(b"-")
    if path not in ("/", "/dev") or what not in _HELPERS_FOLDERS or not number.isdigit():
        return False
    try:
        left = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return False
    with os.scandir(left) as found:
        is_empty = next(found, None) is None
    os.close(left)
    return is_empty


def _kind(status: os.stat_result) -> str:
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return "x"
    kinds = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
    return kinds.get(stat.S_IFMT(status.st_mode), "o")


def _in_image(name: str, layers: list[int]) -> os.stat_result | None:
    """Return the image's entry of that name. `layers` are its folder in each layer that has it, topmost first."""
    for layer in layers:
        try:
            status = os.stat(name, dir_fd=layer, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return None if _kind(status) == "x" else status
    return None


def _folders(name: str, layers: list[int]) -> Iterator[int]:
    """Open the image's folder of that name in each layer, down to the layer that hides those below."""
    for layer in layers:
        try:
            yield os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=layer)
        except FileNotFoundError:
            continue
        except OSError:
            return


def _other_name(folder: int, layers: list[int]) -> str | None:
    """Return a name that the image's folder has and `folder` lacks."""
    names = set(os.listdir(folder))
    for layer in layers:
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=layer)
        try:
            with os.scandir(opened) as found:
                for item in found:
                    if item.name not in names and _in_image(item.name, layers):
                        return item.name
        finally:
            os.close(opened)
    return None


def mounts_of(pid: int) -> Iterator[list[Any]]:
    """Yield the mounts that a process sees, each in the order of `evidence.Mount`."""
    for line in _read(f"/proc/{pid}/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        number, _, device, root, point, options, *fields = (_mount_text(field) for field in before.split(b" "))
        kind, source, more = (_mount_text(field) for field in after.split(b" ")[:3])
        propagation = " ".join(field.partition(":")[0] for field in fields)
        yield [int(number), device, root, point, options, propagation, kind, source, more]


def _layers(mounts: list[list[Any]]) -> tuple[str, list[str]]:
    """Return the overlay's upper and lower directories on the host, from its mount options."""
    options = next(mount[-1] for mount in mounts if mount[3] == "/").split(",")
    pairs = [option.partition("=")[::2] for option in options]
    upper = next((value for key, value in pairs if key == "upperdir"), "")
    lower = [layer for key, value in pairs if key.startswith("lowerdir") for layer in value.split(":")]
    if not upper.startswith("/") or not all(layer.startswith("/") for layer in lower):
        raise OSError("its root is no overlay with absolute paths; the engine's storage driver must be overlay2")
    return upper, lower


# -- processes, network --------------------------------------------------------------------------------------------


def _processes(container: bytes) -> Iterator[list[Any]]:
    """Yield every live process of the container: its cgroup carries the container's id, as in `sandbox.processes`."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and (process := _process(name, container)) is not None:
            yield process


def _process(pid: str, container: bytes) -> list[Any] | None:
    try:
        if not procfs.has_id(pid, container):
            return None
        name, fields = procfs.stat_of(pid)
        if procfs.is_dead(fields):
            return None
        state = "T" if _waits_in_a_stop(pid) else fields[procfs.STATE].decode()
        program, mounts = (_link(f"/proc/{pid}/{what}") for what in ("exe", "ns/mnt"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [int(pid), int(fields[procfs.START_TIME]), state, _text(name), program, mounts]


def _waits_in_a_stop(pid: str) -> bool:
    """Whether a process is stopped: on cgroup v1, only its wait channel shows that while it is frozen."""
    return procfs.read(pid, "wchan") in (b"do_signal_stop", b"ptrace_stop")


def start_of(pid: int) -> int:
    """Return a process's start time. Raises `GoneError`."""
    try:
        return int(procfs.stat_of(pid)[1][procfs.START_TIME])
    except (FileNotFoundError, ProcessLookupError):
        raise GoneError from None


def _link(path: str) -> str:
    try:
        return _text(os.readlink(path.encode()))
    except PermissionError:
        return ""


def _interfaces(pid: int) -> list[str]:
    lines = _read(f"/proc/{pid}/net/dev").splitlines()[2:]
    return sorted(_text(line.partition(b":")[0].strip()) for line in lines)


def _routes(pid: int) -> list[list[str]]:
    rows = [line.split() for line in _read(f"/proc/{pid}/net/route").splitlines()[1:]]
    return sorted([_text(row[column]) for column in (0, 1, 2, 7)] for row in rows)


# -- text ----------------------------------------------------------------------------------------------------------


def _id_map(pid: int, which: str) -> Ids:
    lines = _read(f"/proc/{pid}/{which}_map").splitlines()
    return [(int(inside), int(outside), int(size)) for inside, outside, size in (line.split() for line in lines)]


def _inside(number: int, ids: Ids) -> int:
    """Map an id to the sandbox's view. A layer may store ids of either kind; real ids outside are never that low."""
    for inside, outside, size in ids:
        if outside <= number < outside + size:
            return number - outside + inside
    return number


def _read(path: str) -> bytes:
    """Read a file in pieces: a buffer for the longest possible file takes a hundred times as long as most reads."""
    handle = os.open(path, os.O_RDONLY)
    pieces, left = [], _MAX_PROC_FILE
    try:
        while left > 0 and (piece := os.read(handle, min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(handle)
    if left == 0:
        raise OSError(f"{path} has no end")
    return b"".join(pieces)


def _text(name: bytes) -> str:
    """Return a name as one text, whatever its bytes: see `evidence`."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def raw(path: str) -> bytes:
    """Return the name that `_text` encoded."""
    return path.encode().decode("unicode_escape").encode("latin-1")


def _mount_text(field: bytes) -> str:
    """Decode a field of mountinfo: the kernel writes four characters of a path as three octal digits."""
    for octal, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, char)
    return _text(field)


if __name__ == "__main__":
    sys.exit(main())
