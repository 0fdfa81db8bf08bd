"""Freezes all processes of a container, by its cgroup on the host.

The engine's pause is no use: sysbox then gives every file that the container has written another owner, and back at the
unpause (`pause` and `resume` in sysbox-mgr's mgr.go). That makes every file look changed, removes its setuid bit, and
takes longer the more a job has written. Root inside can neither write the files used here nor move a process out of
this cgroup.
"""

import errno
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import EngineError, Fault, SandboxFault

DEADLINE = 10.0
"""Seconds to freeze the processes of a container; a few milliseconds are usual."""
_LOOK_INTERVAL = 0.001
_ENDED: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})
"""The last: the file was removed between opening it and reading or writing it."""
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """The files and words of a version of cgroups."""

    order: str
    """The file that takes the order."""
    freeze: str
    thaw: str
    state: str
    """The file that has the line given in `frozen` once every process is frozen."""
    frozen: str


_V1: Final = _Version("freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN")
_V2: Final = _Version("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1")


def group_of(pid: int, container_id: str) -> Path:
    """Return the cgroup that holds all processes of a container, itself or below, from one of them.

    Ask before a job runs: a deeply nested process no longer shows it. Raises `EngineError`, or `SandboxFault` when the
    process has ended.
    """
    # Reversed: on a host with both versions, the engine uses the first, and the second is number 0.
    for line in sorted(_read(_PROC / str(pid) / "cgroup").splitlines(), reverse=True):
        _, controllers, path = line.split(":", 2)
        parts = Path(path).parts[1:]
        level = next((number for number, part in enumerate(parts, 1) if container_id in part), None)
        if level is None or ".." in parts or controllers not in ("freezer", ""):
            continue
        if (group := _CGROUPS.joinpath(controllers, *parts[:level])).is_dir():
            return group
    raise EngineError(
        f"The keeper does not see the cgroup of container {container_id[:12]}. "
        f"It needs the host's, and {_CGROUPS} (`cgroup: host` and the mount in compose.yaml)."
    )


class Freezer:
    """Keeps cgroups frozen for as long as anybody wants that. Shared by all threads of the keeper."""

    def __init__(self) -> None:
        self._wanted_by: defaultdict[Path, set[object]] = defaultdict(set)
        self._lock = threading.Lock()

    @contextmanager
    def still(self, group: Path) -> Iterator[None]:
        """Freeze a cgroup for the block.

        Raises `SandboxFault` when it is gone or not frozen within `DEADLINE`, and `EngineError` when the keeper may not
        do it.
        """
        block = object()
        self._hold(group, block)
        try:
            yield
        finally:
            self._let_go(group, block)

    def freeze(self, group: Path) -> None:
        """Freeze a cgroup until `thaw`. Raises as `still` does."""
        self._hold(group, self)

    def thaw(self, group: Path) -> None:
        """Undo `freeze`. Does nothing when the cgroup is not frozen, or gone. Raises `EngineError`."""
        self._let_go(group, self)

    def wake(self, group: Path) -> None:
        """Undo an earlier keeper's freeze, unless somebody wants the cgroup frozen now. Raises as `thaw` does."""
        self._let_go(group, object())

    def is_wanted(self, group: Path) -> bool:
        """Whether anybody wants a cgroup frozen."""
        with self._lock:
            return group in self._wanted_by

    def _hold(self, group: Path, who: object) -> None:
        with self._lock:
            self._wanted_by[group].add(who)
        try:
            _freeze(group)
        except BaseException:
            with suppress(EngineError):
                self._let_go(group, who)
            raise

    def _let_go(self, group: Path, who: object) -> None:
        # Under the lock, so that a later freeze reaches the kernel after this thaw.
        with self._lock:
            self._wanted_by[group].discard(who)
            if not self._wanted_by[group]:
                del self._wanted_by[group]
                with suppress(SandboxFault):  # the container is gone
                    version = _version(group)
                    _tell(group / version.order, version.thaw)


def _freeze(group: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    version = _version(group)
    _tell(group / version.order, version.freeze)
    while version.frozen not in _read(group / version.state).splitlines():
        if time.monotonic() >= deadline:
            raise SandboxFault(Fault.UNFREEZABLE, f"After {DEADLINE:.0f} s a process of it still hangs in the kernel.")
        time.sleep(_LOOK_INTERVAL)  # cgroups version 1 sends no notice


def _version(group: Path) -> _Version:
    return _V2 if (group / _V2.order).exists() else _V1


def _tell(file: Path, word: str) -> None:
    try:
        file.write_text(word)
    except OSError as error:
        raise _trouble(error) from error


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise _trouble(error) from error


def _trouble(error: OSError) -> SandboxFault | EngineError:
    if error.errno in _ENDED:
        return SandboxFault(Fault.STOPPED, "Its container does not run any more.")
    return EngineError(
        f"The keeper may not freeze its sandboxes: {error}. {_CGROUPS} must be the host's and writable, "
        "as compose.yaml gives it."
    )
