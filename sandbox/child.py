"""Asks a child process, which is killed at a deadline, for what may hang in a file system or take for ever.

A thread stuck in the kernel cannot be ended and keeps all that it holds; a child can be left behind.
"""

import atexit
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.text import one_line

_CODE = "import sys;sys.path.append(sys.argv[1]);from sandbox import nursery;nursery.main()"
_ROOT = str(Path(__file__).parents[1])
_END_DEADLINE = 1.0
"""Seconds for the nursery to notice that nobody asks any more."""


class NoAnswer(SandboxError):
    """The child did not answer; the text says why, as the rest of a sentence. `code` is its exit code, if it ended."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def ask(module: str, question: bytes, deadline: float) -> bytes:
    """Run `main` of one of our modules, which uses only the standard library, and return its output.

    Its standard input is the question. Raises `NoAnswer` after the monotonic `deadline`, or when its exit code is not
    0.
    """
    with _memory("question") as asked, _memory("answer") as answer, _memory("complaint") as complaint:
        asked.write(question)
        asked.seek(0)
        code = _run(module, [file.fileno() for file in (asked, answer, complaint)], deadline)
        if code != 0:
            complaint.seek(0)
            how = "was killed" if code is None else f"ended with {code}"
            raise NoAnswer(f"it {how}: {_last_line(complaint.read())}", code)
        answer.seek(0)
        return answer.read()


def _memory(name: str) -> io.FileIO:
    """Make a file in memory for the child: it needs no pump, and the child's own limit bounds its size."""
    return io.FileIO(os.memfd_create(name), "r+")


def _run(module: str, standard: Sequence[int], deadline: float) -> int | None:
    """Run a child with these standard files. Returns its exit code, or None when something killed it."""
    status, its = socket.socketpair()
    with status:
        with its:
            _nursery.send(module, [*standard, its.fileno()], deadline)
        try:
            status.settimeout(_left(deadline))
            _, handles, _, _ = socket.recv_fds(status, 1, 1)
        except TimeoutError:
            raise NoAnswer("it did not start in time") from None
        if not handles:
            raise NoAnswer("it could not be started")
        return _await(status, handles[0], deadline)


def _await(status: socket.socket, handle: int, deadline: float) -> int | None:
    """Wait for the child, and kill it at the deadline. A child stuck in a file system is left behind."""
    try:
        status.settimeout(_left(deadline))
        code = status.recv(1)
    except TimeoutError:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        raise NoAnswer("it did not end in time") from None
    finally:
        os.close(handle)
    return code[0] if code else None


class _Nursery:
    """The process that forks the children: started for the first child, and again when it has ended."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = socket.socket()

    def send(self, module: str, handles: Sequence[int], deadline: float) -> None:
        """Ask for a child. Raises `NoAnswer`."""
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                self._requests.settimeout(_left(deadline))
                socket.send_fds(self._requests, [module.encode()], handles)
            except OSError as error:
                raise NoAnswer(f"it could not be started: {error}") from error

    def stop(self) -> None:
        """End the nursery; its children go on."""
        with self._turn:
            self._requests.close()
            if self._process is None:
                return
            try:
                self._process.wait(_END_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _start(self) -> None:
        self._requests.close()
        self._requests, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _CODE, _ROOT],
                stdin=its.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env={},
            )  # fmt: skip


_nursery = _Nursery()
atexit.register(_nursery.stop)


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _last_line(complaint: bytes) -> str:
    lines = complaint[-2000:].decode(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:300] if lines else "without a word"
