"""Runs commands in a sandbox, over an open login.

The script and its environment travel on the channel's standard input, so they are in no process's arguments. SSH alone
ends nothing reliably. So each command carries a mark, by which a second channel finds and ends everything that the
command started.
"""

from __future__ import annotations

import codecs
import re
import secrets
import select
import shlex
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sandbox import ssh
from sandbox.errors import CommandFailed, CommandTimedOut, ConnectionLost, OutputTooLarge
from sandbox.ssh import words

MOST_OUTPUT = 64 * 1024**2
"""Bytes of each of stdout and stderr that `Result` keeps. Longer output must be streamed."""
LONGEST_LINE = 1024**2
"""Characters after which a line is returned in pieces."""
OPEN_DEADLINE = 30.0
END_DEADLINE = 15.0
_LOOK_INTERVAL = 0.1
_LATE_OUTPUT = 0.5
"""Seconds to wait for output after a command's end, when a child in the background keeps the stream open."""
_PIECE = 65536
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MARK = "SANDBOX_COMMAND"
_END = """\
marked() { grep -lzsxF "$1" /proc/[0-9]*/environ | cut -d / -f 3; }
all() {
    local found sessions
    found=$(marked "$1")
    [ -n "$found" ] || return 1
    sessions=$(ps -o sid= -p "$(echo $found | tr ' ' ,)" | sort -u | tr -d ' ')
    echo $found $(for session in $sessions; do ps -o pid= -s "$session"; done)
}
for signal in TERM KILL; do
    for try in $(seq 30); do
        pids=$(all "$1") || exit 0
        [ "$try" -gt 1 ] && [ $signal = TERM ] || kill -$signal $pids 2>/dev/null
        sleep 0.05
    done
done
exit 1
"""
"""Ends every process with the mark, and its whole session: `sudo` clears the mark but stays in the session."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it printed."""

    command: str
    exit_code: int
    """The command's exit code; 128 + N when signal N ended it."""
    stdout: str
    stderr: str

    def check(self) -> Result:
        """Return this result if the command succeeded. Raises `CommandFailed` with the end of the command's output."""
        if self.exit_code:
            raise CommandFailed(_failure(self.command, self.exit_code, self.stderr or self.stdout), self.exit_code)
        return self


def run(
    transport: ssh.Transport,
    command: str | Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
) -> Result:
    """Run a command to its end. See `Sandbox.run`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    text = command if isinstance(command, str) else shlex.join(command)
    stdout, stderr = bytearray(), bytearray()
    with Command(transport, text, cwd, env) as running:
        running.feed([stdin] if stdin else [])
        for out, err in running.pieces(deadline):
            stdout += out
            stderr += err
            if max(len(stdout), len(stderr)) > MOST_OUTPUT:
                raise OutputTooLarge(
                    f"{_short(text)} printed more than {MOST_OUTPUT >> 20} MiB. Use `stream`, or print to a file."
                )
        return Result(text, running.exit_code(), _text(stdout), _text(stderr))


class Stream:
    """The lines of a running command, stdout and stderr together, without their ends.

    Iterating waits for the command; leaving the block early ends the command.
    """

    def __init__(
        self,
        transport: ssh.Transport,
        command: str | Sequence[str],
        cwd: str | None,
        env: Mapping[str, str] | None,
        timeout: float | None,
        check: bool,
    ) -> None:
        self._text = command if isinstance(command, str) else shlex.join(command)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._check = check
        self._running = Command(transport, self._text, cwd, env, merged=True)
        self._lines = self._read()
        self._exit_code: int | None = None

    @property
    def exit_code(self) -> int | None:
        """Return the command's exit code after the last line; None before."""
        return self._exit_code

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the command if it still runs."""
        self._lines.close()
        self._running.close()

    def _read(self) -> Generator[str, None, None]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = last = ""
        with self._running:
            self._running.feed([])
            for out, _ in self._running.pieces(self._deadline):
                *lines, rest = (rest + decoder.decode(out)).split("\n")
                for line in lines:
                    last = line
                    yield line
                if len(rest) > LONGEST_LINE:
                    yield rest
                    rest = ""
            if rest := rest + decoder.decode(b"", final=True):
                yield rest
            self._exit_code = self._running.exit_code()
        if self._check and self._exit_code:
            raise CommandFailed(_failure(self._text, self._exit_code, rest or last), self._exit_code)


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal to run a command on."""

    kind: str
    """The value of the environment variable TERM."""
    columns: int
    rows: int


class Command:
    """One started command. Leaving its block ends everything of it that still runs."""

    def __init__(
        self,
        transport: ssh.Transport,
        text: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        merged: bool = False,
        terminal: Terminal | None = None,
    ) -> None:
        """Start the command. Raises `ValueError` for an impossible variable, or `ConnectionLost`."""
        self.text = text
        self._transport = transport
        self._mark = f"{_MARK}={secrets.token_hex(8)}"
        given = _given(text, cwd, env or {}, merged)
        self._over = False
        try:
            self.channel = transport.open_session(timeout=OPEN_DEADLINE)
            with _closed_after(OPEN_DEADLINE, self.channel):
                if terminal is not None:  # the script cannot be sent ahead of what a person types
                    self.channel.get_pty(terminal.kind, terminal.columns, terminal.rows)
                    script = shlex.quote(_script(text, cwd))
                    self.channel.exec_command(_ON_TERMINAL.format(mark=self._mark, script=script))
                else:
                    self.channel.exec_command(_READ_AND_RUN.format(mark=self._mark))
                    self.channel.sendall(given)
        except ssh.LOST as error:
            raise lost(transport, error) from error

    def feed(self, source: Iterable[bytes]) -> None:
        """Send this to the command's standard input, in a thread of its own, and then close the input."""
        if source == []:
            self._send(source)
        else:
            threading.Thread(target=self._send, args=(source,), daemon=True).start()

    def pieces(self, deadline: float | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the command's output to stdout and stderr as it comes, until the command has ended.

        Raises `CommandTimedOut` at the monotonic `deadline`; leaving the block then ends the command.
        """
        channel, quiet_since = self.channel, time.monotonic()
        while True:
            if deadline is not None and time.monotonic() >= deadline:
                raise CommandTimedOut(f"{_short(self.text)} took too long, and was ended.")
            out = channel.recv(_PIECE) if channel.recv_ready() else b""
            err = channel.recv_stderr(_PIECE) if channel.recv_stderr_ready() else b""
            if out or err:
                yield out, err
                quiet_since = time.monotonic()
            elif self._ended(quiet_since):
                self._over = True
                return
            elif channel.eof_received:  # the command closed its output, and goes on
                channel.status_event.wait(_LOOK_INTERVAL)
            else:
                select.select([channel], [], [], _LOOK_INTERVAL)

    def exit_code(self) -> int:
        """Return the exit code, after the last piece. Raises `ConnectionLost` when the connection broke before."""
        if self.channel.exit_status_ready() and self.channel.exit_status >= 0:
            return self.channel.exit_status
        if not self._transport.is_active():
            raise lost(self._transport, None)
        return 255  # a signal ended its shell; SSH does not say which, and ssh(1) returns 255 too

    def end(self) -> bool:
        """End everything that the command started, from inside the sandbox. Returns whether all of it is gone."""
        with suppress(*ssh.LOST):
            channel = self._transport.open_session(timeout=OPEN_DEADLINE)
            with closing(channel), _closed_after(END_DEADLINE, channel):
                channel.exec_command(f"exec sudo -n bash -s -- {self._mark}")
                channel.sendall(_END.encode())
                channel.shutdown_write()
                while channel.recv(_PIECE) and not channel.closed:  # a closed channel may still receive something
                    pass
                return channel.recv_exit_status() == 0
        return False

    def close(self) -> None:
        """End the command if it still runs."""
        if not self._over and self._transport.is_active():
            self.end()
        self._over = True
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _send(self, source: Iterable[bytes]) -> None:
        with suppress(*ssh.LOST):  # the command reads no more, or has ended: its output and its code tell
            for content in source:
                self.channel.sendall(content)
            self.channel.shutdown_write()

    def _ended(self, quiet_since: float) -> bool:
        if self.channel.closed or self.channel.eof_received:
            return self.channel.exit_status_ready() or self.channel.closed
        return self.channel.exit_status_ready() and time.monotonic() - quiet_since > _LATE_OUTPUT


_ON_TERMINAL = """exec env {mark} bash -c 'trap : INT QUIT; bash -c "$0"; exit $?' {script}"""
"""Ctrl-C goes to the command. A shell outlives it to return 130: SSH has no exit code for an end by a signal."""
_READ_AND_RUN = """exec env {mark} bash -c 'IFS= read -r -d "" given; eval "$given"'"""


@contextmanager
def _closed_after(seconds: float, channel: ssh.Channel) -> Iterator[None]:
    """Close the channel after so many seconds, which ends each wait of the block: the sshd there may be a job's.

    Some waits of paramiko have no timeout, and the timeout of the others begins anew with each byte.
    """

    def close() -> None:
        with suppress(*ssh.LOST):  # the connection broke meanwhile
            channel.close()

    timer = threading.Timer(seconds, close)
    timer.daemon = True  # telling the other side may take long, too
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _given(text: str, cwd: str | None, env: Mapping[str, str], merged: bool) -> bytes:
    """Return the shell text to send on standard input, ended by a NUL."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable.")
        if "\0" in value:
            raise ValueError(f"The environment variable {name} has a NUL character in it.")
    if "\0" in text or "\0" in (cwd or ""):
        raise ValueError("A command, or its folder, has a NUL character in it.")
    lines = ["unset given"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    lines += ["exec 2>&1"] if merged else []
    return "\n".join([*lines, _script(text, cwd)]).encode() + b"\0"


def _script(text: str, cwd: str | None) -> str:
    return text if cwd is None else f"cd -- {shlex.quote(cwd)} || exit 126\n{text}"


def lost(transport: ssh.Transport, error: BaseException | None) -> ConnectionLost:
    """Return the error for a broken connection. The transport's own error says more than the one its user got."""
    reason = transport.get_exception() or error
    why = f": {words(reason)}" if reason else ""
    return ConnectionLost(f"The connection to the sandbox broke{why}. Was it removed? `sandbox ls` tells.")


def _failure(text: str, exit_code: int, printed: str) -> str:
    tail = " | ".join(printed.strip().splitlines()[-3:])
    return f"{_short(text)} ended with exit code {exit_code}" + (f": {words(tail)}" if tail else ".")


def _short(text: str) -> str:
    first, *more = text.strip().splitlines() or [""]
    return f"`{first[:80]}{' …' if more or len(first) > 80 else ''}`"


def _text(content: bytearray) -> str:
    return content.decode(errors="replace")
