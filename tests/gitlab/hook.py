"""One call of a hook, as gitlab-runner makes it: a process group, pipes read to their end, TERM, grace, KILL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

Sink = Callable[[bytes], None]
MAX_VARIABLE = 128 * 1024
"""Linux' limit for one string of an environment; above it no process starts."""


class Why(Enum):
    """Why a scope is over before its work."""

    CANCELLED = "canceled"
    TIMED_OUT = "timed out"


class Scope:
    """What a context is in Go: over when somebody cancels it, at its deadline, or with the one around it."""

    def __init__(self, parent: Scope | None = None, seconds: float | None = None) -> None:
        self.why: Why | None = None
        self._over = asyncio.Event()
        self._inside: list[Scope] = []
        if parent is not None:
            parent._inside.append(self)
            if parent.why is not None:
                self.end(parent.why)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self.end, Why.TIMED_OUT)

    def end(self, why: Why = Why.CANCELLED) -> None:
        """The first cause stays."""
        if self.why is None:
            self.why = why
            self._over.set()
        for scope in self._inside:
            scope.end(why)

    async def over(self) -> None:
        await self._over.wait()


@dataclass(frozen=True)
class Graces:
    """Seconds: `graceful_kill_timeout` and `force_kill_timeout` of config.toml."""

    term: float = 2.0
    kill: float = 2.0


@dataclass(frozen=True)
class Call:
    """How one call ended; `code` is negative for a signal, None for a process that was abandoned or never started."""

    code: int | None
    group: int = 0
    """Its process group; 0 when it was never started."""
    error: str = ""
    ending: float | None = None
    """Seconds from the end of its scope to its own; None when it ended before."""
    took: float = 0.0
    """Seconds in all."""


class _Process(asyncio.SubprocessProtocol):
    """Done when Go's `cmd.Wait` is: at the end of the process and of both pipes, however long somebody holds them."""

    def __init__(self, out: Sink, err: Sink) -> None:
        self._sinks = {1: out, 2: err}
        self.done = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._sinks[fd](data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def call(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    scope: Scope,
    graces: Graces,
    out: Sink,
    err: Sink,
) -> Call:
    """Run a hook until it has ended and nobody holds its pipes, or until the scope is over and it is killed."""
    started = time.monotonic()
    try:
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Process(out, err),
            *command,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        return Call(None, error=f"fork/exec {command[0]}: {os.strerror(error.errno or 0).lower()}")
    over, group = asyncio.ensure_future(scope.over()), transport.get_pid()
    ending = None
    try:
        await asyncio.wait({process.done, over}, return_when=asyncio.FIRST_COMPLETED)
        if not process.done.done():
            began = time.monotonic()
            await _kill(group, process.done, graces)
            ending = time.monotonic() - began
        if process.done.done():
            return Call(transport.get_returncode(), group, "", ending, time.monotonic() - started)
        return Call(None, group, "failed to kill process", ending, time.monotonic() - started)
    finally:
        over.cancel()
        transport.close()


async def _kill(group: int, done: asyncio.Future[None], graces: Graces) -> None:
    for number, grace in ((signal.SIGTERM, graces.term), (signal.SIGKILL, graces.kill)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        await asyncio.wait({done}, timeout=grace)
        if done.done():
            return
