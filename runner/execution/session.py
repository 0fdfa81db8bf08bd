"""A session with the launcher in one sandbox, over one SSH connection.

The job may have taken over the sandbox's SSH server. The server must show the pinned host key, and is offered nothing
of the runner's (no agent, no keys but the sandbox's own, no forwarding, no configuration files). SSH's window, `wire`,
and the deadlines of the callers bound what the server sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Final, Self, TypeAlias

import asyncssh

from runner.errors import (
    AttemptLostError,
    ConnectError,
    ConnectionLostError,
    LaunchRefusedError,
    ProtocolError,
    SandboxError,
)
from runner.execution import program, wire
from runner.execution.lease import Access
from runner.execution.options import Settings

WINDOW: Final = 2 * 1024 * 1024
"""Bytes in flight. A larger window would only outgrow the processor's cache."""
READ: Final = 120 * 1024
"""Bytes to read from a connection at once. asyncio asks for 256 KiB, for which glibc's malloc has the kernel map and
clear memory at each read (M_MMAP_THRESHOLD is 128 KiB); asyncssh copies the rest of a read with each packet."""
MAX_DIAGNOSIS: Final = 1000
"""Bytes of the launcher's standard error that are kept for the error message."""
CLOSE_DEADLINE: Final = 2.0
"""Seconds to close the connection properly before it is aborted."""
CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr")
"""Authenticated ciphers; the fastest first if both sides have AES in hardware."""
_PIECE: Final = 256 * 1024

Output: TypeAlias = Callable[[Sequence[memoryview]], None]
"""Takes the next bytes of a script's output. Must not keep the views. A SandboxError from it ends the session."""
News: TypeAlias = Callable[[wire.Progress], None]
"""Takes the progress of the steps. May raise the same errors as `Output`, with the same effect."""

SENTENCES: Final[Mapping[type[Exception], str]] = {
    asyncssh.HostKeyNotVerifiable: "The sandbox showed another host key than the one it was made with",
    asyncssh.PermissionDenied: "The sandbox refused the login key",
    asyncssh.ConnectionLost: "The connection to the sandbox was lost",
    asyncssh.KeyExchangeFailed: "The sandbox's SSH server has no encryption in common with the runner",
    asyncssh.MACError: "The connection to the sandbox was tampered with",
    asyncssh.CompressionError: "The sandbox's SSH server sent data that cannot be read",
    asyncssh.ProtocolError: "The sandbox's SSH server broke the SSH protocol",
    asyncssh.ProtocolNotSupported: "What answers at the sandbox's address is not an SSH server of version 2",
    asyncssh.ServiceNotAvailable: "The sandbox's SSH server does not offer logins",
    asyncssh.IllegalUserName: "The sandbox's SSH server does not accept the user name",
    asyncssh.DisconnectError: "The sandbox's SSH server ended the connection",
    asyncssh.ChannelOpenError: "The sandbox's SSH server did not open a session",
    asyncssh.ProcessError: "The sandbox's SSH server ended the session",
    asyncssh.TimeoutError: "The sandbox's SSH server did not answer in time",
    asyncssh.SFTPError: "The sandbox's file transfer failed",
    asyncssh.Error: "The sandbox's SSH server failed",
    asyncssh.KeyImportError: "A key of the sandbox cannot be read",
    TimeoutError: "The sandbox did not answer in time",
    ConnectionResetError: "The sandbox reset the connection",
    BrokenPipeError: "The sandbox closed the connection",
    OSError: "The connection to the sandbox failed",
}
"""The meaning of each of the library's errors. A test fails when the library has an error that is not listed."""

asyncssh.set_log_level(logging.WARNING)


def describe(error: Exception) -> str:
    """Return one of the library's or the system's errors as a sentence."""
    text = next((SENTENCES[kind] for kind in type(error).__mro__ if kind in SENTENCES), "The SSH session failed")
    detail = wire.clean(str(error)).rstrip(".")
    return f"{text} ({detail})." if detail else f"{text}."


@contextlib.contextmanager
def translated(kind: type[SandboxError]) -> Iterator[None]:
    try:
        yield
    except (asyncssh.Error, asyncssh.KeyImportError, OSError) as error:
        raise kind(describe(error)) from error


class Session:
    """A launcher in a sandbox. It waits for a script, or an attempt to follow, and reports its course.

    After the end of one script it waits for the next.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, conversation: _Conversation) -> None:
        """Only `open` calls this."""
        self._connection = connection
        self._conversation = conversation

    @classmethod
    async def open(cls, access: Access, settings: Settings) -> Self:
        """Log in, start the launcher and wait for its hello, all within `settings.open_deadline` seconds.

        Owns `access.socket` from here on. Errors: ConnectError; ProtocolError. After an error nothing stays open.
        """
        connection = None
        conversation = _Conversation()
        deadline = settings.open_deadline
        try:
            async with asyncio.timeout(deadline):
                with translated(ConnectError):
                    connection = await connect(access, settings)
                    await connection.create_session(
                        lambda: conversation, program.LAUNCHER.command, encoding=None, window=WINDOW
                    )
                await conversation.greet()
        except BaseException as error:
            if connection:
                connection.abort()
            if isinstance(error, TimeoutError):
                raise ConnectError(f"The sandbox did not get ready for a script within {deadline:g} s.") from error
            raise
        return cls(connection, conversation)

    @property
    def usable(self) -> bool:
        """Whether the session works, as far as is known."""
        return not self._conversation.error

    @property
    def free(self) -> bool:
        """Whether the launcher waits for a request, as far as is known."""
        return self.usable and not self._conversation.busy

    @property
    def hello(self) -> wire.Hello:
        """The launcher's first frame."""
        assert self._conversation.hello
        return self._conversation.hello

    async def launch(self, launch: wire.Launch, scripts: Sequence[bytes], output: Output, news: News) -> None:
        """Send the scripts of all steps. From the first byte on they count as started.

        Their output goes to `output` as it arrives. Errors: ConnectionLostError. Waits while the sandbox does not
        read: the caller sets the deadline.
        """
        self._conversation.begin(output, news)
        head = wire.encode_launch(launch, len(scripts[0]))
        for number, script in enumerate(scripts):
            # Head and script together, so that a small script is one packet: each packet wakes three processes.
            await self._conversation.write((wire.encode_script(len(script)) if number else head) + script[:_PIECE])
            for start in range(_PIECE, len(script), _PIECE):
                await self._conversation.write(script[start : start + _PIECE])

    async def follow(self, follow: wire.Follow, output: Output, news: News) -> None:
        """Ask for a script that an earlier session launched. Errors: ConnectionLostError."""
        self._conversation.begin(output, news)
        await self._conversation.write(wire.encode_follow(follow))

    async def end(self) -> wire.Ended:
        """Wait until the script has ended and all of its output was passed on.

        Waits as long as the connection lasts: the caller sets a deadline, if there is one.
        Errors: ConnectionLostError; AttemptLostError; ProtocolError; LaunchRefusedError; any error of `output`.
        """
        return await self._conversation.end()

    def signal(self, number: int) -> None:
        """Ask the launcher to signal the script's process group. Nothing says whether it did."""
        self._conversation.write_now(wire.encode_signal(number))

    @contextlib.asynccontextmanager
    async def command(self, command: str) -> AsyncIterator[Pipe]:
        """Run one of the runner's own commands beside the launcher, and end it when the block is left.

        Waits as long as the connection lasts: the caller sets a deadline. Errors: ConnectionLostError.
        """
        with translated(ConnectionLostError):
            process = await self._connection.create_process(command, encoding=None, window=WINDOW)
        try:
            yield Pipe(process)
        finally:
            process.close()

    async def close(self) -> None:
        """Close the connection properly, or abort it after `CLOSE_DEADLINE` seconds. A running script goes on.

        Nothing goes to `output` any more.
        """
        self._conversation.stop()
        self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, "done")
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self._connection.wait_closed()
        except TimeoutError:
            self._connection.abort()


class Pipe:
    """The standard streams of a command in the sandbox. At most SSH's window is kept of the output.

    Errors of every method: ConnectionLostError.
    """

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    async def read(self, size: int) -> bytes:
        """Return the next bytes of the output, at most `size`; none at its end."""
        with translated(ConnectionLostError):
            return await self._process.stdout.read(size)

    async def write(self, data: bytes) -> None:
        """Send bytes to the command's input, and wait while it does not read. Bytes that nobody reads are dropped."""
        with translated(ConnectionLostError), contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def end(self) -> str | None:
        """Close the input, wait for the end, drop the output, and return what was wrong; None if nothing was."""
        with translated(ConnectionLostError):
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write_eof()
            while await self.read(_PIECE):
                pass
            diagnosis = await self._process.stderr.read(MAX_DIAGNOSIS)
            await self._process.wait_closed()
        if self._process.exit_status == 0:
            return None
        return wire.clean(diagnosis.decode(errors="replace")) or f"exit code {self._process.exit_status}"


class ShortReads(socket.socket):
    """A socket that returns at most `READ` bytes at once."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(min(size, READ), flags)


async def connect(access: Access, settings: Settings) -> asyncssh.SSHClientConnection:
    """Log in. Owns `access.socket` from here on, also on failure."""
    _be_somebody()
    link = ShortReads(fileno=access.socket.detach())
    try:
        return await asyncssh.connect(
            "sandbox",
            sock=link,
            config=None,
            username=access.user,
            known_hosts=([asyncssh.import_public_key(access.host_key)], [], []),
            client_keys=[asyncssh.import_private_key(access.client_key)],
            agent_path=None,
            preferred_auth="publickey",
            gss_host=None,
            x509_trusted_certs=None,
            compression_algs=["none"],
            encryption_algs=CIPHERS,
            login_timeout=settings.open_deadline,
            keepalive_interval=settings.keepalive_interval,
            keepalive_count_max=settings.keepalive_count,
        )
    except BaseException:
        link.close()
        raise


def _be_somebody() -> None:
    """Give a user id without a passwd entry a name and a home folder.

    asyncssh looks both up, does not use them here, and fails without them, as if that were the sandbox's fault.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", "runner")
        os.environ.setdefault("HOME", "/")


class _Conversation(asyncssh.SSHClientSession[bytes]):
    """The launcher's standard streams.

    Output is passed on soon after the callback that brings it: it is still in the processor's cache, nothing queues,
    and a slow sink slows the sandbox by itself.
    """

    def __init__(self) -> None:
        self.output: Output | None = None
        self.news: News | None = None
        self.error: SandboxError | None = None
        self._decoder = wire.Decoder()
        self.hello: wire.Hello | None = None
        self._last: wire.Ended | wire.Refused | wire.Lost | None = None
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._diagnosis = b""
        self._held: list[memoryview] = []
        self._channel: asyncssh.SSHClientChannel[bytes]

    # Called by asyncssh.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            self._diagnosis = (self._diagnosis + data)[:MAX_DIAGNOSIS]
            return
        if self.error:
            return
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except SandboxError as error:
            self._fail(error)
            self._channel.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deliver()
        self._fail(ConnectionLostError(describe(exc) if exc else self._farewell()))

    def _take(self, frame: wire.Frame) -> None:
        match frame:
            case wire.LogData(data) if self.output and not self._last:
                self._hold(data)
            case wire.Progress() if self.news and not self._last:
                self._deliver()
                self.news(frame)
            case wire.Hello() if not self.hello:
                self.hello = frame
                self._news.set()
            case wire.Ended() | wire.Refused() | wire.Lost() if self.output and not self._last:
                self._deliver()
                self._last = frame
                self._news.set()
            case _:
                raise ProtocolError("The sandbox sent something out of turn.")

    def _hold(self, data: memoryview) -> None:
        """Keep output until the loop's next turn: several packets arrive at a time, and are written together."""
        if not self._held:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._held.append(data)

    def _deliver(self) -> None:
        held, self._held = self._held, []
        if not held or not self.output or self.error:
            return
        try:
            self.output(held)
        except SandboxError as error:
            self._fail(error)
            self._channel.abort()

    def _fail(self, error: SandboxError) -> None:
        self.error = self.error or error
        self._news.set()
        self._writable.set()

    def _farewell(self) -> str:
        said = wire.clean(self._diagnosis.decode(errors="replace"))
        status = self._channel.get_exit_status()
        code = "" if status is None else f" with exit code {status}"
        return f"The sandbox's side ended the session{code}{': ' + said if said else ''}."

    # Called by the session.

    @property
    def busy(self) -> bool:
        """Whether the launcher has a request whose end it has not reported."""
        return self.output is not None and not self._last

    def begin(self, output: Output, news: News) -> None:
        """Pass on output and news from now on to `output` and `news`."""
        assert not self.busy
        self.output, self.news = output, news
        self._last = None

    async def greet(self) -> None:
        """Send the launcher, and wait for its hello."""
        try:
            await self.write(program.LAUNCHER.source)
            while not self.hello:
                await self._next()
        except ConnectionLostError as error:
            raise ConnectError(f"The launcher did not start. {error}") from error

    async def end(self) -> wire.Ended:
        """Wait for the launcher's last frame on its request."""
        while not self._last:
            await self._next()
        match self._last:
            case wire.Refused(why):
                raise LaunchRefusedError(why)
            case wire.Lost(why):
                raise AttemptLostError(why)
            case ended:
                return ended

    async def write(self, data: bytes) -> None:
        """Write, and wait while the server does not read. Raises no error after the launcher's last frame."""
        self.write_now(data)
        await self._writable.wait()
        if self.error and not self._last:
            raise self.error

    def write_now(self, data: bytes) -> None:
        """Write without waiting, and without an error when the connection is gone: reading reports that."""
        with contextlib.suppress(OSError):
            if not self.error and not self._channel.is_closing():
                self._channel.write(data)

    def stop(self) -> None:
        """Take no more data."""
        self._deliver()
        self._fail(ConnectionLostError("The runner ended the session."))

    async def _next(self) -> None:
        if self.error:
            raise self.error
        self._news.clear()
        await self._news.wait()
