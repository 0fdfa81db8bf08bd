"""Our two commands, which tests start by the hundred, forked from a process that has loaded them.

Loading one takes a second or more of processor time, as long as all the rest of a typical test. From its main function
on, the program is the same; the tests of documentation, images and compose start the real commands.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final, TextIO

from runner.entry import main as runner
from sandbox.entry import main as sandbox

__all__ = ["PIPE", "Program", "run", "runner", "sandbox", "start"]

PIPE: Final = subprocess.PIPE
"""For a stream that the test reads or writes, as text."""
_CLONE_NEWNET: Final = 0x40000000
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.loaded"])


class Program:
    """A program that was started, with the methods of a `subprocess.Popen`."""

    def __init__(
        self,
        process: multiprocessing.process.BaseProcess,
        stdin: TextIO | None,
        stdout: TextIO | None,
        stderr: TextIO | None,
    ) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._process = process

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code."""
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def communicate(self, text: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Give it this, if anything, and return what it says on standard output and error until its end."""
        with ThreadPoolExecutor(3) as threads:
            writing = threads.submit(_write, self.stdin, text)
            said = [threads.submit(_read, stream) for stream in (self.stdout, self.stderr)]
            try:
                writing.result(timeout)
                out, err = (each.result(timeout) for each in said)
            except TimeoutError:
                self.kill()  # which ends the threads
                raise
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask for its end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(
    main: Callable[[], None],
    *words: str,
    stdin: int | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    netns: Path | str | None = None,
    cwd: Path | None = None,
) -> Program:
    """Start a main function, of this process's command line with these words.

    What it reads is nothing unless given, and what it writes goes where this process writes. With `netns`, it is in
    that network namespace.
    """
    streams = (
        _end_to_read(stdin),
        _end_to_write(sys.__stdout__ if stdout is None else stdout),
        _end_to_write(sys.__stderr__ if stderr is None else stderr),
    )
    theirs = [theirs for theirs, _ in streams]
    given = (main, words, theirs, dict(environment or os.environ), netns and str(netns), str(cwd or Path.cwd()))
    process = _FORKS.Process(target=_live, args=given, daemon=True)
    process.start()
    for end in theirs:
        end.close()
    return Program(process, *(ours for _, ours in streams))


def run(
    main: Callable[[], None],
    *words: str,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    netns: Path | str | None = None,
    cwd: Path | None = None,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Start it, with this to read, and return what it said when it has ended."""
    program = start(
        main, *words, stdin=PIPE, stdout=PIPE, stderr=PIPE, environment=environment, netns=netns, cwd=cwd
    )  # fmt: skip
    out, err = program.communicate(given, timeout)
    return subprocess.CompletedProcess(words, program.wait(timeout), out, err)


def _end_to_read(stream: int | None) -> tuple[Connection, TextIO | None]:
    """What the program is given to read from, and where the test writes."""
    if stream != PIPE:
        return Connection(os.open(os.devnull, os.O_RDONLY) if stream is None else os.dup(stream), writable=False), None
    theirs, ours = os.pipe()
    return Connection(theirs, writable=False), os.fdopen(ours, "w")


def _end_to_write(stream: int | IO[Any] | None) -> tuple[Connection, TextIO | None]:
    """What the program is given to write to, and where the test reads."""
    assert stream is not None
    if stream != PIPE:
        return Connection(os.dup(stream if isinstance(stream, int) else stream.fileno()), readable=False), None
    ours, theirs = os.pipe()
    return Connection(theirs, readable=False), os.fdopen(ours)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:
        with suppress(BrokenPipeError), stream:
            stream.write(text)


def _read(stream: TextIO | None) -> str:
    if stream is None:
        return ""
    with stream:
        return stream.read()


def _live(
    main: Callable[[], None],
    words: tuple[str, ...],
    streams: list[Connection],
    environment: dict[str, str],
    netns: str | None,
    cwd: str,
) -> None:
    """Be the program, in the process that was forked."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = [main.__module__.partition(".")[0], *words]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if netns is not None:
        with Path(netns).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns", netns)
    main()
