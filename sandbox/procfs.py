"""What the kernel tells about each process in /proc. Children that look use it too: the standard library alone."""

import errno
import os

PROC = "/proc"
STATE, PARENT, THREADS, START_TIME = 0, 1, 17, 19
"""Fields of /proc/PID/stat after the command's closing parenthesis, see proc(5)."""
_MOST_READ = 64 * 1024


def read(pid: int | str, file: str) -> bytes:
    """A small file of a process. There are hundreds for each look, and a `Path` takes several times as long.

    Raises `FileNotFoundError` or `ProcessLookupError` when it has ended, and another `OSError` when it is not told.
    """
    opened = os.open(f"{PROC}/{pid}/{file}", os.O_RDONLY)
    try:
        return os.read(opened, _MOST_READ)
    finally:
        os.close(opened)


def has_id(pid: int | str, container: bytes) -> bool:
    """Whether a process is of a container: its cgroup path carries the id. Raises as `read`.

    What is not told is neither: who takes it for no process leaves a job's running, and who takes it for a job's kills
    the host's.
    """
    try:
        return container in read(pid, "cgroup")  # bytes: root inside names cgroups as it likes
    except OSError as error:
        # Older kernels do not tell a path longer than PATH_MAX. Only somebody who hides nests cgroups that deep: such a
        # process is taken for a job's, whosever sandbox is asked about.
        if error.errno == errno.ENAMETOOLONG:
            return True
        raise


def stat_of(pid: int | str) -> tuple[bytes, list[bytes]]:
    """Its program's name, and the fields after that. Raises as `read`."""
    before, _, after = read(pid, "stat").rpartition(b")")
    return before.partition(b"(")[2], after.split()


def is_dead(fields: list[bytes]) -> bool:
    """Whether a process only waits to be collected, or not even that.

    One whose first thread has ended reads as a zombie while its other threads go on.
    """
    return fields[STATE] in (b"Z", b"X") and int(fields[THREADS]) <= 1
