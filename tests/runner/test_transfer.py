"""Files to and from a sandbox that may lie about them, over a real SSH server."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.errors import ConnectionLostError, TransferError
from runner.execution import transfer
from runner.execution.session import Session
from runner.execution.transfer import File
from tests.runner.conftest import Sandbox

pytestmark = pytest.mark.anyio

SOME = os.urandom(3 * transfer.PIECE + 17)


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    session = await Session.open(sandbox.access(), sandbox.settings())
    yield session
    await session.close()


async def test_a_file_goes_in_and_comes_out_with_its_time(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "new" / 'it\'s a "cache" $(false)'
    await transfer.bring_in(session, io.BytesIO(SOME), str(path), len(SOME), changed=1_600_000_000)
    assert (path.read_bytes(), path.stat().st_mtime, path.stat().st_mode & 0o777) == (SOME, 1_600_000_000, 0o600)
    assert await transfer.listing(session, str(tmp_path)) == [
        File(f"new/{path.name}", len(SOME), 1_600_000_000),
    ]
    sink = io.BytesIO()
    await transfer.take_out(session, str(path), len(SOME), sink)
    assert sink.getvalue() == SOME
    assert session.free


async def test_a_program_can_be_executed(session: Session, tmp_path: Path) -> None:
    await transfer.bring_in(session, io.BytesIO(b"#!/bin/sh\n"), str(tmp_path / "p"), 10, executable=True)
    assert os.access(tmp_path / "p", os.X_OK)


async def test_names_that_lead_elsewhere_or_are_no_text_are_left_out(session: Session, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"12")
    (tmp_path / "two\nlines").touch()
    (tmp_path / os.fsdecode(b"\xff")).touch()
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert [file.path for file in await transfer.listing(session, str(tmp_path))] == ["good"]
    assert await transfer.listing(session, str(tmp_path / "none")) == []


@pytest.mark.parametrize("name", [b"../../up", b"/etc/passwd", b"a/../../b", b"", b"."])
def test_a_listing_that_leads_upwards_is_a_lie(name: bytes) -> None:
    assert transfer._file(b"1 2 " + name) is None


@pytest.mark.parametrize("line", [b"-1 2 a", b"1e9 2 a", b"9" * 30 + b" 2 a", b"1 x a", b"1 2", b"\xb2 2 a"])
def test_a_listing_with_numbers_that_are_none_is_a_lie(line: bytes) -> None:
    assert transfer._file(line) is None


async def test_a_listing_without_end_ends(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: what a hostile sandbox sends must not be kept without a bound."""
    monkeypatch.setattr(transfer, "_LIST", "yes # {folder}")
    with pytest.raises(TransferError, match="too many"):
        await transfer.listing(session, str(tmp_path))
    assert session.free


@pytest.mark.parametrize("said", [5, 7])
async def test_a_file_of_another_size_than_said_is_refused(session: Session, tmp_path: Path, said: int) -> None:
    (tmp_path / "file").write_bytes(b"123456")
    sink = io.BytesIO()
    with pytest.raises(TransferError, match="does not have"):
        await transfer.take_out(session, str(tmp_path / "file"), said, sink)
    assert len(sink.getvalue()) <= said


async def test_a_file_that_cannot_be_read_says_why(session: Session, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="No such file"):
        await transfer.take_out(session, str(tmp_path / "none"), 0, io.BytesIO())


async def test_half_a_file_never_takes_its_place(session: Session, tmp_path: Path) -> None:
    """The trap: a connection that breaks looks like the file's end to the other side."""
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    with pytest.raises(TransferError):
        await transfer.bring_in(session, io.BytesIO(b"ne"), str(path), 3)
    assert path.read_bytes() == b"old"


async def test_a_place_that_cannot_be_written_says_why(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransferError, match=r"cannot be written in the sandbox: .*director"):
        await transfer.bring_in(session, io.BytesIO(SOME), str(tmp_path / "file" / "below"), len(SOME))


async def test_a_lost_connection_is_told_apart(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sandbox.cut()
            return b"x" * (size or 0)

    with pytest.raises(ConnectionLostError):
        await transfer.bring_in(session, Cut(), str(tmp_path / "file"), len(SOME))
    assert not (tmp_path / "file").exists()


async def test_an_error_of_the_disk_is_its_own(session: Session, tmp_path: Path) -> None:
    """The trap: an OSError in the middle of a transfer is not the connection's."""
    (tmp_path / "file").write_bytes(b"123456")

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        await transfer.take_out(session, str(tmp_path / "file"), 6, Full())
    assert session.free
