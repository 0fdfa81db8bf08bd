"""The processes of a container, seen and ended from the host.

Root inside can fake what a program inside says about processes, but not the host's /proc. A process belongs to a
container when its cgroup path contains the container's id: root inside can move processes only below that path. Needs
the host's pid namespace.
"""

# ruff: noqa: PTH208 - see procfs.read

import os
import select
import signal
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from sandbox import procfs
from sandbox.errors import EngineError, Fault, SandboxFault

_ROUNDS = 5
_LONGEST_NAME = 15
"""Bytes of a program's name that the kernel keeps."""
_LOGINS = (b"sshd-session", b"sshd-auth")
"""The names of one connection's processes in OpenSSH 9.8 and newer (its release notes)."""


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process of the host. The id alone does not identify it, since ids are used again."""

    pid: int
    start_time: int
    """Clock ticks since boot."""


@contextmanager
def _looking() -> Iterator[None]:
    """Raise `EngineError` when the host does not show processes: seeing none must never mean that there are none."""
    try:
        yield
    except OSError as error:
        raise EngineError(f"The keeper cannot see which processes its sandboxes have: {error}.") from error


@_looking()
def of_container(container_id: str) -> frozenset[Process]:
    """Return every live process of the container, with nested namespaces and cgroups, without zombies.

    Raises `EngineError` when they cannot be seen.
    """
    found = (_in_container(name, container_id.encode()) for name in os.listdir(procfs.PROC) if name.isdecimal())
    return frozenset(process for process in found if process is not None)


def of_host(programs: Iterable[str]) -> dict[str, frozenset[Process]]:
    """Return the live processes of these programs that are the host's own: of root, in no container's pid namespace.

    Names prove nothing: a job may run any program under them, as root. But its sandbox has a pid namespace, in which
    the process has another id, and a root that is not the host's. Reads only what every process may read: the keeper
    may not look into processes of a root with more capabilities than its own.
    """
    names = {program.encode()[:_LONGEST_NAME]: program for program in programs}
    found: dict[str, set[Process]] = {}
    for pid in filter(str.isdecimal, os.listdir(procfs.PROC)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended during the look
            name = procfs.read(pid, "comm").rstrip(b"\n")
            if name in names and _is_of_host(pid) and (process := _identify(pid)):
                found.setdefault(names[name], set()).add(process)
    return {program: frozenset(them) for program, them in found.items()}


@_looking()
def at_rest(container_id: str) -> frozenset[Process]:
    """Return the container's processes without those of logins, which outlive a login by a tenth of a second.

    Raises `EngineError` when they cannot be seen.
    """
    everything = {process.pid: process for process in of_container(container_id)}
    return frozenset(process for process in everything.values() if not _is_of_a_login(process.pid, everything))


@_looking()
def end_others(
    container_id: str,
    keep: frozenset[Process],
    frozen: Callable[[], AbstractContextManager[None]],
    deadline: float,
) -> int:
    """End every process of the container that is not in `keep`, and verify it. Returns how many were ended.

    The container is frozen while its processes are listed and signalled, so that none can escape by forking. The first
    round does not freeze: freezing takes longer than all the rest, and most jobs leave nothing that forks. Raises
    `SandboxFault` (`processes-left`) when some remain at the monotonic `deadline`, and `EngineError` when they cannot
    be seen.
    """
    ended = 0
    for standing in (nullcontext, *[frozen] * _ROUNDS):
        if not of_container(container_id) - keep:
            return ended
        with standing():
            handles = _kill_all(of_container(container_id) - keep)
        ended += len(handles)
        _wait_for_end(handles, deadline)
    others = of_container(container_id) - keep
    if not others:
        return ended
    raise SandboxFault(Fault.PROCESSES_LEFT, f"{len(others)} of its job's processes could not be ended.")


def _in_container(pid: str, container_id: bytes) -> Process | None:
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended during the look
        if procfs.has_id(pid, container_id):
            return _identify(pid)
    return None


def _is_of_host(pid: str) -> bool:
    """Whether a process is the host's own: of root, and in no pid namespace below ours.

    proc(5): `Uid` is as this user namespace sees it, and `NSpid` has an id for each pid namespace below ours.
    """
    fields = dict(line.partition(b":")[::2] for line in procfs.read(pid, "status").splitlines())
    return set(fields[b"Uid"].split()) == {b"0"} and len(fields.get(b"NSpid", b"").split()) <= 1


def _identify(pid: str) -> Process | None:
    _, fields = procfs.stat_of(pid)
    return None if procfs.is_dead(fields) else Process(int(pid), int(fields[procfs.START_TIME]))


def _is_of_a_login(pid: int, among: Container[int]) -> bool:
    """Whether a process, or an ancestor of it inside the container, serves an SSH connection."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended during the look
        while pid in among:
            command, fields = procfs.stat_of(pid)
            if command in _LOGINS:
                return True
            pid = int(fields[procfs.PARENT])
    return False


def end_first(processes: Iterable[Process], pid: int) -> None:
    """Kill the first process of a container, which ends all of them. Does not wait."""
    for handle in [_kill(process) for process in processes if process.pid == pid]:
        if handle is not None:
            os.close(handle)


def is_there(process: Process) -> bool:
    """Whether a process has not ended. Raises `OSError` when that cannot be seen."""
    try:
        return _identify(str(process.pid)) == process
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_all(processes: Iterable[Process]) -> list[int]:
    """Kill these processes; return the pidfds of those that were there, as `_kill` does."""
    handles: list[int] = []
    with ExitStack() as unless_all:
        for process in processes:
            if (handle := _kill(process)) is not None:
                unless_all.callback(os.close, handle)
                handles.append(handle)
        unless_all.pop_all()
    return handles


def _kill(process: Process) -> int | None:
    """Kill exactly this process. Returns a pidfd that becomes readable at its end, or None when it is gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    with ExitStack() as unless_sent, suppress(FileNotFoundError, ProcessLookupError):
        unless_sent.callback(os.close, handle)
        if _identify(str(process.pid)) == process:
            _send_kill(handle)
            unless_sent.pop_all()
            return handle
    return None


def _send_kill(handle: int) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except PermissionError as error:
        raise SandboxFault(
            Fault.PROCESSES_LEFT,
            "The keeper may not end its job's processes. "
            "It needs CAP_KILL and no AppArmor profile, as compose.yaml gives it.",
        ) from error


def _wait_for_end(handles: list[int], deadline: float) -> None:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    waiting = set(handles)
    try:
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            for handle, _ in poll.poll(remaining * 1000):
                poll.unregister(handle)
                waiting.discard(handle)
    finally:
        for handle in handles:
            os.close(handle)
