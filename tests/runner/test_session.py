"""How a session reads its connection."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket

import asyncssh
import pytest

from runner.execution.lease import Access
from runner.execution.options import DEFAULTS
from runner.execution.session import READ, ShortReads, connect
from tests.runner.conftest import Sandbox, connected_pair

pytestmark = pytest.mark.anyio

MAPPED_FROM, OVERHEAD = 128 * 1024, 64
"""glibc's M_MMAP_THRESHOLD, and what CPython adds to the bytes of a `bytes` object."""


class Reader(asyncio.Protocol):
    """Notes how much came at once."""

    def __init__(self, expected: int) -> None:
        self.sizes: list[int] = []
        self._expected = expected
        self.done = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        if sum(self.sizes) == self._expected:
            self.done.set()


async def test_no_read_is_so_long_that_its_memory_is_mapped() -> None:
    """The trap: asyncio reads 256 KiB at once, and each of those costs the kernel 64 cleared pages."""
    ours, theirs = socket.socketpair()
    size = 4 * READ
    with theirs:
        theirs.setblocking(False)
        link = ShortReads(fileno=ours.detach())
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(lambda: Reader(size), sock=link)
        sent = theirs.send(bytes(size))
        assert sent > READ  # more waits than one read takes
        await loop.sock_sendall(theirs, bytes(size - sent))
        await asyncio.wait_for(reader.done.wait(), 10)
        transport.close()
    assert max(reader.sizes) == READ
    assert READ + OVERHEAD < MAPPED_FROM


async def test_what_cannot_be_logged_in_over_is_closed() -> None:
    ours, theirs = connected_pair()
    with theirs:
        with pytest.raises(asyncssh.KeyImportError):
            await connect(Access(ours, "nobody", "no key", "no key"), DEFAULTS)
        theirs.settimeout(10)
        assert theirs.recv(1) == b""
    assert ours.fileno() == -1


async def test_a_user_without_a_passwd_entry_logs_in(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: asyncssh wants to know who we are, though it is told whom to log in as."""
    access = sandbox.access()

    def nobody(_uid: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    connection = await connect(access, DEFAULTS)
    connection.abort()
    assert os.environ["HOME"] == "/"
