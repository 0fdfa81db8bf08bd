"""Asks a child process that ends when its time is over: for what may hang in a file system, or take for ever.

A thread that is stuck in the kernel cannot be ended, and holds whatever it holds; a child can be left behind.
"""

import io
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.text import one_line

_CODE = "import sys,importlib;sys.path.append(sys.argv[1]);sys.exit(importlib.import_module(sys.argv[2]).main())"
_ROOT = str(Path(__file__).parents[1])


class NoAnswer(SandboxError):
    """The child did not answer; the text says why, as the rest of a sentence. `code` is its exit code, if it ended."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def ask(module: str, question: bytes, deadline: float) -> bytes:
    """Run `main` of a module of ours, which has the standard library alone, and return what it printed.

    The question is its standard input. Raises `NoAnswer` after the monotonic time `deadline`, or when its exit code is
    not 0.
    """
    with _memory("question") as asked, _memory("answer") as answer, _memory("complaint") as complaint:
        asked.write(question)
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _CODE, _ROOT, module],
            stdin=asked, stdout=answer, stderr=complaint, cwd="/", env={},
        )  # fmt: skip
        if not _ended(process, deadline):
            raise NoAnswer("it did not end in time")
        if process.returncode != 0:
            complaint.seek(0)
            raise NoAnswer(f"it ended with {process.returncode}: {_last_line(complaint.read())}", process.returncode)
        answer.seek(0)
        return answer.read()


def _memory(name: str) -> io.FileIO:
    """Memory that the child can have as a file: nothing to pump, and its size is the child's own limit."""
    return io.FileIO(os.memfd_create(name), "r+")


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for the child, and kill it when time is over. One that is stuck in a file system is not waited for."""
    handle = os.pidfd_open(process.pid)
    try:
        end = select.poll()
        end.register(handle, select.POLLIN)
        if end.poll(max(0.0, deadline - time.monotonic()) * 1000):
            process.wait()
            return True
    finally:
        os.close(handle)
    process.kill()
    threading.Thread(target=process.wait, name="reap a child", daemon=True).start()
    return False


def _last_line(complaint: bytes) -> str:
    lines = complaint[-2000:].decode(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:300] if lines else "without a word"
