"""Runners and keepers that tests start by the hundred, forked from a process that has loaded them.

To load one takes a second and more of processor time, which is as long as the rest of what a test does with it. What
runs is the same from its main function on; that it starts by its own command is what other tests see.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.loaded"])


class Forked:
    """A forked program, as `subprocess.Popen` is one that was started."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Program = subprocess.Popen[bytes] | Forked


def fork(
    main: Callable[[], None],
    argv: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    netns: Path | str | None = None,
) -> Forked:
    """Start `main`, a function of a module, as a program with these arguments, its standard error in `log`.

    With `netns`, in that network namespace.
    """
    given = (main, list(argv), str(log), dict(environment), str(netns) if netns else None)
    process = _FORKS.Process(target=_live, args=given, name=argv[0])
    process.start()
    return Forked(process)


def _live(main: Callable[[], None], argv: list[str], log: str, environment: dict[str, str], netns: str | None) -> None:
    sys.argv = argv
    os.environ.clear()
    os.environ.update(environment)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 2)
    os.close(said)
    if netns is not None:
        with Path(netns).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns", netns)
    main()
