"""A confined process can read, and nothing else. Each test asks a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandbox.inspection import confine

ROOT = str(Path(confine.__file__).parents[2])


def command(code: str) -> list[str]:
    """A process that confines itself first, and then runs code."""
    program = (
        f"import sys,os,socket,ctypes;sys.path.append({ROOT!r})\n"
        f"from sandbox.inspection.confine import confine\nconfine()\n{code}"
    )
    return [sys.executable, "-I", "-S", "-c", program]


def confined(code: str) -> subprocess.CompletedProcess[str]:
    """Run it, with pipes."""
    return subprocess.run(command(code), capture_output=True, text=True, timeout=20, check=False)


def test_it_reads() -> None:
    done = confined("print(len(os.listdir('/')) > 1, open('/etc/passwd').readline()[:4])")
    assert (done.returncode, done.stdout) == (0, "True root\n"), done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "open('/tmp/x', 'w')",
        "os.open('/dev/null', os.O_RDWR)",
        "os.open('/tmp', os.O_TMPFILE | os.O_WRONLY)",
        "os.mkdir('/tmp/x')",
        "os.unlink('/tmp/x')",
        "os.chmod('/tmp', 0o777)",
        "os.kill(os.getppid(), 9)",
        "os.chroot('/')",
        "os.memfd_create('x')",
        "os.setuid(0)",
    ],
)
def test_it_does_nothing_else(code: str) -> None:
    done = confined(code)
    assert done.returncode == 1, done.stdout
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("number", [101, 165, 321, 425, 437, 308])
def test_calls_that_python_has_no_name_for_are_refused(number: int) -> None:
    """ptrace, mount, bpf, io_uring_setup, openat2 and setns, by their numbers on x86_64."""
    done = confined(f"c=ctypes.CDLL(None,use_errno=True); print(c.syscall({number},0,0,0,0,0,0), ctypes.get_errno())")
    assert done.stdout == "-1 1\n", done.stderr


def test_it_cannot_print_without_end() -> None:
    """Its output is a file in the keeper's memory."""
    with tempfile.TemporaryFile() as output:
        code = "while True: os.write(1, bytes(1 << 20))"
        done = subprocess.run(command(code), stdout=output, stderr=subprocess.DEVNULL, timeout=20, check=False)
        assert done.returncode != 0
        assert output.seek(0, os.SEEK_END) == 64 << 20


def test_on_a_machine_whose_calls_it_does_not_know_it_says_so() -> None:
    with pytest.raises(OSError, match="not of riscv64"):
        confine._program("riscv64")
