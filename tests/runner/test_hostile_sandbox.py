"""A sandbox whose SSH server belongs to the job: the runner bounds all that it sends, and tells it in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncssh
import pytest

from runner.execution import program
from runner.execution.lease import Access
from runner.execution.wire import MAX_TEXT
from runner.outcome import Outcome, SandboxLost, SetupFailed, Succeeded
from tests.runner.conftest import Bench, connected_pair

pytestmark = pytest.mark.anyio

Liar = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


def frame(kind: bytes, payload: bytes | dict[str, object]) -> bytes:
    """Encode a frame as a launcher would."""
    data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    return struct.pack(">cI", kind, len(data)) + data


HELLO = frame(b"h", {"boot_id": "x"})
ENDED = frame(b"e", {"kind": "exited", "code": 0})


@contextlib.asynccontextmanager
async def lying(bench: Bench, liar: Liar, **server: object) -> AsyncIterator[None]:
    """Have every lease of a test lead to an SSH server that behaves as `liar` does."""
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[str(bench.sandbox.folder / "host_key")],
        authorized_client_keys=str(bench.sandbox.folder / "client_key.pub"),
        process_factory=liar,
        encoding=None,
        **server,
    )
    honest = bench.sandbox.access()
    honest.socket.close()

    def access() -> Access:
        connected = socket.create_connection(("127.0.0.1", listener.get_port()))
        return Access(connected, honest.user, honest.host_key, honest.client_key)

    bench.leases.new_access = access
    try:
        yield
    finally:
        listener.close()
        await listener.wait_closed()


async def outcome_with(bench: Bench, liar: Liar, **server: object) -> Outcome:
    """Run a script in a lying sandbox."""
    bench.settings = bench.sandbox.settings(open_deadline=2.0, grace=0.1, reconnect_deadline=0.5)
    async with lying(bench, liar, **server), asyncio.timeout(30):
        return await bench.run("echo hi")


def says(*pieces: bytes, close: bool = True) -> Liar:
    """Return a liar that says the first piece when it has the launcher, each further one when it heard more."""

    async def liar(process: asyncssh.SSHServerProcess[bytes]) -> None:
        awaited = len(program.LAUNCHER.source)
        for piece in pieces:
            await process.stdin.readexactly(awaited)
            process.stdout.write(piece)
            awaited = 1
        if close:
            process.exit(0)
        else:
            await process.wait_closed()

    return liar


BEFORE = {
    "nothing": says(),
    "garbage": says(b"GET / HTTP/1.1\r\n\r\n"),
    "a huge length": says(struct.pack(">cI", b"h", 0xFFFFFFFF)),
    "an end instead of a hello": says(ENDED),
    "log before a job": says(HELLO + frame(b"l", b"x")),
    "two hellos": says(HELLO + HELLO),
    "silence": says(close=False),
}


@pytest.mark.parametrize("liar", BEFORE.values(), ids=BEFORE.keys())
async def test_lies_before_the_job_is_sent(bench: Bench, liar: Liar) -> None:
    outcome = await outcome_with(bench, liar)
    assert isinstance(outcome, SetupFailed)
    assert all(call.startswith("condemn:") for call in bench.leases.calls)
    assert bench.output == b""


AFTER = {
    "nothing": says(HELLO, b""),
    "garbage": says(HELLO, b"garbage"),
    "a hello": says(HELLO, HELLO),
    "a huge log frame": says(HELLO, struct.pack(">cI", b"l", 0x7FFFFFFF)),
    "half a log frame": says(HELLO, struct.pack(">cI", b"l", 100) + b"x"),
    "an unknown end": says(HELLO, frame(b"e", {"kind": "splendid"})),
    "lost": says(HELLO, frame(b"x", {"why": "because\x1b[31m" + "x" * 9000})),
}


@pytest.mark.parametrize("liar", AFTER.values(), ids=AFTER.keys())
async def test_lies_after_the_job_was_sent(bench: Bench, liar: Liar) -> None:
    outcome = await outcome_with(bench, liar)
    assert isinstance(outcome, SandboxLost)
    assert len(outcome.why) < MAX_TEXT + 200
    assert "\x1b" not in outcome.why
    assert [call[:8] for call in bench.leases.calls] == ["condemn:"]


async def test_a_refusal_is_not_tried_again(bench: Bench) -> None:
    outcome = await outcome_with(bench, says(HELLO, frame(b"r", {"why": "No space left on device."})))
    assert outcome == SetupFailed("No space left on device.")
    assert len(bench.leases.leases) == 1


async def test_a_refusal_of_what_was_sent_before(bench: Bench) -> None:
    """Only before the first byte could it mean that user code did not run: a job may say it after it ran."""
    sessions: list[asyncssh.SSHServerProcess[bytes]] = []

    async def liar(process: asyncssh.SSHServerProcess[bytes]) -> None:
        sessions.append(process)
        say = says(HELLO, b"") if len(sessions) == 1 else says(HELLO, frame(b"r", {"why": "It never ran."}))
        await say(process)

    bench.settings = bench.sandbox.settings(open_deadline=2.0, grace=0.1)
    async with lying(bench, liar), asyncio.timeout(30):
        outcome = await bench.run("echo hi")
    assert outcome == SandboxLost("The sandbox refused what was sent to it before: It never ran.")


async def test_nothing_counts_after_the_end(bench: Bench) -> None:
    """The end is the last word: what follows changes neither log nor outcome."""
    more = frame(b"l", b"more") + frame(b"e", {"kind": "exited", "code": 1}) + b"garbage"
    assert await outcome_with(bench, says(HELLO, ENDED + more)) == Succeeded()
    assert bench.output == b""


async def test_more_output_than_agreed(bench: Bench) -> None:
    async def flood(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(HELLO)
        data = frame(b"l", bytes(100_000))
        while not process.is_closing():
            process.stdout.write(data)
            await process.stdout.drain()

    bench.settings = bench.sandbox.settings(open_deadline=5.0)
    async with lying(bench, flood), asyncio.timeout(30):
        outcome = await bench.run("echo hi", bench.new_log(1_000_000))
    assert isinstance(outcome, SandboxLost | SetupFailed)  # the flood may come before the job is sent
    assert bench.logs[-1].output <= 1_000_000


async def test_a_flood_of_errors(bench: Bench) -> None:
    async def noisy(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for _ in range(100):
            process.stderr.write(b"\x1b]0;evil\x07" * 10_000)
        process.exit(9)

    outcome = await outcome_with(bench, noisy)
    assert isinstance(outcome, SetupFailed)
    assert "with exit code 9" in outcome.why
    assert "\x1b" not in outcome.why
    assert len(outcome.why) < MAX_TEXT + 200


async def test_a_long_welcome(bench: Bench) -> None:
    class Chatty(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            for _ in range(100):
                conn.send_auth_banner("welcome " * 10_000)

    outcome = await outcome_with(bench, says(HELLO, ENDED), server_factory=Chatty)
    assert outcome == Succeeded()  # banners are not kept


RAW = {
    "endless lines before the version": b"hello\r\n" * 200_000,
    "a line without end": b"x" * 2_000_000,
    "a version and then noise": b"SSH-2.0-x\r\n" + b"\xff" * 100_000,
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an old version": b"SSH-1.5-x\r\n",
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
async def test_no_ssh_server_at_all(bench: Bench, data: bytes) -> None:
    ends = []

    def access() -> Access:
        honest = bench.sandbox.access()
        honest.socket.close()
        ours, theirs = connected_pair()
        theirs.setblocking(False)
        ends.append(theirs)
        sending.append(asyncio.create_task(pour(theirs)))
        return Access(ours, honest.user, honest.host_key, honest.client_key)

    async def pour(theirs: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(theirs, data)
            theirs.shutdown(socket.SHUT_WR)

    sending: list[asyncio.Task[None]] = []
    bench.leases.new_access = access
    bench.settings = bench.sandbox.settings(open_deadline=2.0)
    async with asyncio.timeout(30):
        outcome = await bench.run("echo hi")
    assert isinstance(outcome, SetupFailed)
    for task in sending:
        task.cancel()
    await asyncio.wait(sending)
    for end in ends:
        end.close()
