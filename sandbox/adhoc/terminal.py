"""Runs a command in a sandbox on this process's own streams: on a terminal if they are one, else on pipes."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from sandbox import ssh
from sandbox.adhoc.execution import Command, Terminal

_PIECE = 65536
_STDIN, _STDOUT = 0, 1
_ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_PRESS = 2.0
"""Seconds in which more signals count as the same one: a parent program may pass on a signal that we also got."""


def attach(transport: ssh.Transport, text: str, cwd: str | None = None) -> int:
    """Run a command with our standard streams, and return its exit code. An exception ends the command.

    Raises `ConnectionLost`.
    """
    terminal = _terminal() if os.isatty(_STDIN) and os.isatty(_STDOUT) else None
    with Command(transport, text, cwd, terminal=terminal) as command, ExitStack() as stack:
        if terminal is not None:
            stack.enter_context(_raw())
            stack.enter_context(_followed_by(command.channel))
        command.feed(iter(lambda: os.read(_STDIN, _PIECE), b""))
        for out, err in command.pieces(None):
            _write(sys.stdout.fileno(), out)
            _write(sys.stderr.fileno(), err)
        return command.exit_code()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Leave the block and then the process on Ctrl-C, TERM, HUP or a closed output pipe, with the usual codes.

    The block's own cleanup may wait for the sandbox; a later signal interrupts that wait.
    """
    last = -_ONE_PRESS

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _ONE_PRESS:
            last = now
            raise SystemExit(128 + number)

    for number in _ENDED_BY:
        signal.signal(number, leave)
    try:
        yield
    except BrokenPipeError:
        sys.stdout = None  # else Python would complain again when it flushes stdout
        raise SystemExit(128 + signal.SIGPIPE) from None


def _terminal() -> Terminal:
    size = os.get_terminal_size(_STDIN)
    return Terminal(os.environ.get("TERM", "dumb"), size.columns, size.lines)


@contextmanager
def _raw() -> Iterator[None]:
    """Pass typed keys on to the sandbox uninterpreted, even Ctrl-C; restore the terminal afterwards."""
    before = termios.tcgetattr(_STDIN)
    tty.setraw(_STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextmanager
def _followed_by(channel: ssh.Channel) -> Iterator[None]:
    """Keep the size of the channel's terminal equal to ours."""

    def resize() -> None:
        size = os.get_terminal_size(_STDIN)
        with suppress(*ssh.LOST):
            channel.resize_pty(size.columns, size.lines)

    def changed(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=resize, daemon=True).start()  # the interrupted thread may hold a lock that this needs

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
