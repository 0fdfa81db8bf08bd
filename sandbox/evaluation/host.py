"""Thin, bounded access to the host: running programs, finding and ending processes."""

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.evaluation.errors import CommandFailed, EvaluationError

Say = Callable[[str], None]
"""Tells the user what happens, a line at a time."""

_LOOK_INTERVAL = 0.1

# Administrators' tools are not on every user's PATH.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def have(program: str) -> str | None:
    """Return the path of `program` on this host, if it exists."""
    return shutil.which(program, path=SYSTEM_PATH)


def run(*command: str, deadline: float = 30.0, check: bool = True, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return its output, both streams. Raises `CommandFailed`."""
    path = have(command[0])
    if path is None:
        raise CommandFailed(f"{command[0]} is not installed on this host.")
    try:
        done = subprocess.run(
            [path, *command[1:]],
            env=os.environ | {"PATH": SYSTEM_PATH} | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=deadline,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"`{' '.join(command)}` did not end within {deadline:.0f} s.") from None
    printed = done.stdout.decode(errors="replace").strip()
    if check and done.returncode:
        raise CommandFailed(f"`{' '.join(command)}` failed: {_last_lines(printed) or f'code {done.returncode}'}")
    return printed


def succeeds(*command: str, deadline: float = 30.0) -> bool:
    """Whether the program exists and ends with code 0."""
    try:
        run(*command, deadline=deadline)
    except CommandFailed:
        return False
    return True


def wait_until(reached: Callable[[], bool], deadline: float) -> bool:
    """Poll until `reached` is true or the deadline passes; return whether it was reached."""
    end = time.monotonic() + deadline
    while not reached():
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_INTERVAL)
    return True


def must_be_root() -> None:
    """Raise unless this process is root."""
    if os.geteuid() != 0:
        raise EvaluationError(
            "The evaluation engine has a network namespace and a Docker Engine of its own, and both need root. "
            "Run this as root (sudo)."
        )


def pid_in(pid_file: Path, argument: str) -> int | None:
    """Return the pid in a pid file, if that process lives and was started with `argument`: pids are used again."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if argument in _arguments(pid) else None


def pids_with(argument: str) -> list[int]:
    """Every process that was started with exactly this argument."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if argument in _arguments(pid)]


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def stop(pid: int, argument: str, deadline: float) -> bool:
    """Send TERM to a process started with `argument`, and KILL after the deadline. Returns whether TERM was enough."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # Checked again with the handle held: from here on it cannot be another process.
        if argument not in _arguments(pid):
            return True
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if _ended(handle, deadline):
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _ended(handle, deadline)
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)
    return False


def _ended(handle: int, deadline: float) -> bool:
    return bool(select.select([handle], [], [], deadline)[0])


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-3:])[-600:]


def log_tail(log: Path) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return _last_lines(file.read().decode(errors="replace"))
    except OSError:
        return ""


def named(names: Sequence[str]) -> str:
    """Join names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
