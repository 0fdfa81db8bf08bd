"""What the kernel reports on each process in /proc. Children use this too, so it needs only the standard library."""

import errno
import os

PROC = "/proc"
STATE, PARENT, THREADS, START_TIME = 0, 1, 17, 19
"""Fields of /proc/PID/stat after the command's closing parenthesis, see proc(5)."""
_MOST_READ = 64 * 1024


def read(pid: int | str, file: str) -> bytes:
    """Read a small file of a process. Each look reads hundreds, and a `Path` takes several times as long.

    Raises `FileNotFoundError` or `ProcessLookupError` when the process has ended, another `OSError` when it is not
    shown.
    """
    opened = os.open(f"{PROC}/{pid}/{file}", os.O_RDONLY)
    try:
        return os.read(opened, _MOST_READ)
    finally:
        os.close(opened)


def has_id(pid: int | str, container: bytes) -> bool:
    """Whether a process belongs to a container: its cgroup path contains the id. Raises as `read` does.

    Raises rather than guesses: a wrong no leaves a job's process running, a wrong yes kills one of the host's.
    """
    try:
        return container in read(pid, "cgroup")  # bytes: root inside names cgroups as it likes
    except OSError as error:
        # Older kernels do not show a path longer than PATH_MAX. Only somebody who hides nests cgroups that deep: such a
        # process counts as a job's, whichever sandbox is asked about.
        if error.errno == errno.ENAMETOOLONG:
            return True
        raise


def stat_of(pid: int | str) -> tuple[bytes, list[bytes]]:
    """Return a process's program name, and the fields after it. Raises as `read` does."""
    before, _, after = read(pid, "stat").rpartition(b")")
    return before.partition(b"(")[2], after.split()


def is_dead(fields: list[bytes]) -> bool:
    """Whether a process is dead: it waits to be reaped, or is beyond that.

    A process whose first thread has ended reads as a zombie while its other threads go on.
    """
    return fields[STATE] in (b"Z", b"X") and int(fields[THREADS]) <= 1
