"""The processes of a container, seen and ended from the host.

What a program inside says about processes can be faked by a root inside; the host's /proc cannot. A process belongs to
a container when its cgroup path carries the container's id: root inside can move processes only below that path. Needs
the host's pid namespace.
"""

# ruff: noqa: PTH208 - see _read

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Container, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from sandbox.errors import Fault, SandboxFault

_PROC = "/proc"
_ROUNDS = 5
_MOST_READ = 64 * 1024
_LONGEST_NAME = 15
"""Bytes of a program's name that the kernel keeps."""
_LOGINS = (b"sshd-session", b"sshd-auth")
"""What OpenSSH 9.8 and newer call the processes of one connection (its release notes)."""
# Fields of /proc/PID/stat after the command's closing parenthesis, see proc(5).
_STATE, _PARENT, _THREADS, _START_TIME = 0, 1, 17, 19


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process of the host: the id alone is no identity, since ids are used again."""

    pid: int
    start_time: int
    """Clock ticks since boot."""


def of_container(container_id: str) -> frozenset[Process]:
    """Every live process of the container, nested namespaces and nested cgroups included; no zombies."""
    found = (_in_container(name, container_id.encode()) for name in os.listdir(_PROC) if name.isdecimal())
    return frozenset(process for process in found if process is not None)


def of_host(programs: Iterable[str]) -> dict[str, frozenset[Process]]:
    """The live processes of these programs that are the host's own: root's, and in no pid namespace of a container.

    Names are anybody's to give: a job may run a program of its own by any of them, and as root. But its sandbox has a
    pid namespace, in which the process has another id, and a root that is not the host's. Only what every process may
    read is read: the keeper may not look into those of a root with more capabilities than its own.
    """
    names = {program.encode()[:_LONGEST_NAME]: program for program in programs}
    found: dict[str, set[Process]] = {}
    for pid in filter(str.isdecimal, os.listdir(_PROC)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            name = _read(pid, "comm").rstrip(b"\n")
            if name in names and _is_of_host(pid) and (process := _identify(pid)):
                found.setdefault(names[name], set()).add(process)
    return {program: frozenset(them) for program, them in found.items()}


def at_rest(container_id: str) -> frozenset[Process]:
    """The container's processes without those of logins, which stay for a tenth of a second after their end."""
    everything = {process.pid: process for process in of_container(container_id)}
    return frozenset(process for process in everything.values() if not _is_of_a_login(process.pid, everything))


def end_others(
    container_id: str,
    keep: frozenset[Process],
    frozen: Callable[[], AbstractContextManager[None]],
    deadline: float,
) -> int:
    """End every process of the container that is not in `keep`, and verify it. Returns how many were ended.

    The container is frozen while its processes are listed and signalled, so that nothing can fork away in between; but
    not at first, since that takes longer than all the rest, and most jobs leave nothing that forks.
    Raises `SandboxFault` (`processes-left`) when some would not go before the monotonic time `deadline`.
    """
    ended = 0
    for standing in (nullcontext, *[frozen] * _ROUNDS):
        if not of_container(container_id) - keep:
            return ended
        with standing():
            handles = [handle for p in of_container(container_id) - keep if (handle := _kill(p)) is not None]
        ended += len(handles)
        _wait_for_end(handles, deadline)
    others = of_container(container_id) - keep
    if not others:
        return ended
    raise SandboxFault(Fault.PROCESSES_LEFT, f"{len(others)} of its job's processes could not be ended.")


def _in_container(pid: str, container_id: bytes) -> Process | None:
    with suppress(OSError):  # it ended while we looked
        if _has_id(pid, container_id):
            return _identify(pid)
    return None


def _has_id(pid: str, container_id: bytes) -> bool:
    try:
        return container_id in _read(pid, "cgroup")  # bytes: root inside names cgroups as it likes
    except OSError as error:
        # Older kernels do not tell a path longer than PATH_MAX. Only somebody who hides nests cgroups that deep: such a
        # process is taken for a job's, whosever sandbox is asked about.
        return error.errno == errno.ENAMETOOLONG


def _is_of_host(pid: str) -> bool:
    """By proc(5): `Uid` as this user namespace sees it, and `NSpid` with an id for each pid namespace below ours."""
    fields = dict(line.partition(b":")[::2] for line in _read(pid, "status").splitlines())
    return set(fields[b"Uid"].split()) == {b"0"} and len(fields.get(b"NSpid", b"").split()) <= 1


def _identify(pid: str) -> Process | None:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    # A process whose first thread has ended reads as a zombie while its other threads go on.
    if fields[_STATE] in (b"Z", b"X") and int(fields[_THREADS]) <= 1:
        return None
    return Process(int(pid), int(fields[_START_TIME]))


def _read(pid: str, file: str) -> bytes:
    """A small file of /proc. There are hundreds for each look, and a `Path` takes several times as long."""
    opened = os.open(f"{_PROC}/{pid}/{file}", os.O_RDONLY)
    try:
        return os.read(opened, _MOST_READ)
    finally:
        os.close(opened)


def _is_of_a_login(pid: int, among: Container[int]) -> bool:
    """Whether it, or what it descends from inside the container, serves an SSH connection."""
    with suppress(OSError):  # it ended while we looked
        while pid in among:
            command, _, rest = _read(str(pid), "stat").partition(b"(")[2].rpartition(b")")
            if command in _LOGINS:
                return True
            pid = int(rest.split()[_PARENT])
    return False


def end_first(processes: Iterable[Process], pid: int) -> None:
    """Kill the first of a container's processes, and by that all of them. Does not wait."""
    for handle in [_kill(process) for process in processes if process.pid == pid]:
        if handle is not None:
            os.close(handle)


def is_there(process: Process) -> bool:
    """Whether a process has not ended."""
    try:
        return _identify(str(process.pid)) == process
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill(process: Process) -> int | None:
    """Kill exactly this process; returns a pidfd that becomes readable at its end, or None when it is gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    try:
        if _identify(str(process.pid)) == process:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return handle
    except (FileNotFoundError, ProcessLookupError):
        pass
    except PermissionError as error:
        os.close(handle)
        raise SandboxFault(
            Fault.PROCESSES_LEFT,
            "The keeper may not end its job's processes. "
            "It needs CAP_KILL and no AppArmor profile, as compose.yaml gives it.",
        ) from error
    os.close(handle)
    return None


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
