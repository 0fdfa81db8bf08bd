"""The log: bytes in order, bounded, private, readable while it grows."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import LogError
from runner.execution.log import LiveCopy, Log

pytestmark = pytest.mark.anyio


def test_bytes_and_reason(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append(b"one\n")
    log.append(memoryview(b"\xff\x00two"))
    log.remark("Something to know.")
    log.close("The script succeeded.")
    log.close("Only the first close counts.")
    assert log.path.read_bytes() == b"one\n\xff\x00two\nrunner: Something to know.\nrunner: The script succeeded.\n"
    assert log.output == len(b"one\n\xff\x00two")
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_an_empty_log_has_a_reason(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.close("The script succeeded.")
    assert log.path.read_bytes() == b"runner: The script succeeded.\n"


def test_what_is_too_much_is_counted(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", limit=5)
    log.append(b"abc")
    log.append(b"defg")
    log.append(b"h")
    log.close("End.")
    assert log.path.read_bytes() == b"abcde\nrunner: End.\n"
    assert log.dropped == 3


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("precious")
    with pytest.raises(LogError, match="cannot be made"):
        Log(tmp_path / "log")
    with pytest.raises(LogError):
        Log(tmp_path / "no-such-folder" / "log")


async def test_a_large_log_is_brought_to_disk_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.execution.log.FLUSH", 4)
    flushed: list[bytes] = []
    monkeypatch.setattr("runner.durable.sync", lambda path: flushed.append(path.read_bytes()))
    log = Log(tmp_path / "log")
    for piece in (b"abc", b"def", b"ghi", b"jkl"):
        log.append(piece)
        await log.flushed()
    log.close("End.")
    assert flushed == [b"abcdef", b"abcdefghijkl"]


async def test_a_disk_that_refuses_what_it_had_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.execution.log.FLUSH", 4)
    log = Log(tmp_path / "log")
    log.path.unlink()
    log.append(b"abcd")
    await log.flushed()
    log.append(b"more")
    assert "No such file" in log.failure
    assert (log.output, log.dropped) == (4, 4)
    log.shut()


def test_a_full_disk_does_not_stop_the_job(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    log = Log(tmp_path / "other")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file)
    os.close(full)
    log.append(b"lost")
    log.append(b"lost too")
    log.close("End.")
    assert log.dropped == 12
    assert log.failure == "No space left on device"


def test_an_earlier_log_goes_on(tmp_path: Path) -> None:
    earlier = Log(tmp_path / "log")
    earlier.append(b"one\ntw")
    again = Log.reopen(earlier.path, limit=8)
    assert (again.output, again.size) == (6, 6)
    again.append(b"o\n")
    again.append(b"three\n")
    closing = again.closing("End.")
    again.close("End.")
    assert again.path.read_bytes() == b"one\ntwo\n" + closing
    assert (again.output, again.dropped, closing) == (8, 6, b"runner: End.\n")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_an_earlier_log_that_is_something_else(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "log")
    with pytest.raises(LogError, match="cannot be opened again"):
        Log.reopen(tmp_path / "log")


async def test_followers_see_all_of_it_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append(b"early ")

    async def read(offset: int) -> bytes:
        return b"".join([data async for data in log.follow(offset)])

    readers = [asyncio.create_task(read(offset)) for offset in (0, 3)]
    for _ in range(100):
        await asyncio.sleep(0)
        log.append(b"x" * 1000)
    log.close("End.")
    whole = log.path.read_bytes()
    assert await asyncio.gather(*readers) == [whole, whole[3:]]
    assert await read(0) == whole


async def test_a_live_copy_is_the_output_and_nothing_else(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    reader, writer = os.pipe()
    live = LiveCopy(log, writer)
    received: list[bytes] = []
    drain = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(reader, 65536), b"")))
    drain.start()
    for number in range(50):
        log.append(b"%d " % number * 1000)
        await asyncio.sleep(0)
    log.close("End.")
    assert await live.finish(20)
    os.close(writer)
    drain.join()
    os.close(reader)
    assert b"".join(received) == log.path.read_bytes()[: log.output]


async def test_a_reader_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    reader, writer = os.pipe()
    live = LiveCopy(log, writer)
    log.append(b"x" * 1_000_000)
    log.close("End.")
    assert not await live.finish(0.05)
    os.close(reader)
    assert await live.finish(20)
    assert live.broken
    os.close(writer)
