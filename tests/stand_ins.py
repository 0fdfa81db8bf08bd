"""Daemons for a runtime to depend on: programs of the test, in place of sysbox's."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sandbox import daemons
from sandbox.daemons import Daemon
from tests.waiting import until


class StandIn:
    """A program that does nothing while it runs."""

    def __init__(self, folder: Path, program: str) -> None:
        self.program = program
        self.path = folder / program
        folder.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        sleep = shutil.which("sleep")
        assert sleep
        shutil.copy(sleep, self.path)

    def start(self) -> None:
        """Start it, and wait until it has its name, which it gets a moment after it was started."""
        self.start_inside()
        until(f"{self.program} runs", lambda: self.running)

    def start_inside(self, *command: str) -> None:
        """Start it by way of this command, which may well hide it."""
        self._process = subprocess.Popen([*command, str(self.path), "1000"])

    def end(self) -> None:
        """End it as a crash does; one that does not run is fine."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.end()
        self.start()

    @property
    def running(self) -> Daemon | None:
        """It as it runs on the host, as far as can be seen."""
        return next(iter(daemons.running([self.program])), None)


@contextmanager
def both(folder: Path, *, started: bool = True) -> Iterator[tuple[StandIn, StandIn]]:
    """Those of a service like sysbox's, until the end of the block."""
    made = StandIn(folder, unique("fs")), StandIn(folder, unique("mgr"))
    try:
        for one in made if started else ():
            one.start()
        yield made
    finally:
        for one in made:
            one.end()


def unique(kind: str) -> str:
    """A name that no other program has, and that the kernel keeps whole."""
    return f"{kind}-{secrets.token_hex(4)}"


def service(of: Sequence[StandIn]) -> daemons.Service:
    return daemons.Service("stand-in", tuple(one.program for one in of))
