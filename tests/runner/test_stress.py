"""A sandbox under stress: full disks, and a job that attacks the processes that keep its log and its result."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.execution import pursuit
from runner.outcome import Outcome, SandboxLost, ScriptFailed, SetupFailed
from tests.runner.conftest import Bench, alive
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit, "PAUSE", 0.05)


@pytest.fixture
def disk(bench: Bench, tmp_path: Path) -> Iterator[Path]:
    """A small disk that holds all places of the sandbox."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", place], check=True)
    bench.settings = replace(bench.settings, workspace=str(place / "workspace"), attempts=str(place / "attempts"))
    yield place
    bench.sandbox.cut()
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> None:
    """Leave no block free."""
    with disk.joinpath("filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    assert os.statvfs(disk).f_bfree < 4  # it counts per processor, and not quite at once


UNTIL_GO = "echo ready; while [ ! -e go ]; do sleep 0.02; done"
WAITS = f"{UNTIL_GO}; echo after; exit 5"


def go(bench: Bench) -> None:
    """Let a script that waits `UNTIL_GO` come to its end."""
    Path(bench.settings.workspace, "go").touch()


async def finished(bench: Bench) -> Outcome:
    """Find the attempt again, in bounded time."""
    async with asyncio.timeout(20):
        return await bench.resume()


async def test_a_disk_that_is_full_before_the_start(bench: Bench, disk: Path) -> None:
    fill(disk)
    outcome = await bench.run("touch /tmp/never")
    assert isinstance(outcome, SetupFailed)
    assert "No space left on device (ENOSPC)" in outcome.why
    assert bench.leases.calls == [f"condemn:{outcome.why}"]


async def test_a_disk_without_room_for_the_script(bench: Bench, disk: Path) -> None:
    outcome = await bench.run(b"echo ran\n" + b"#" * 40 * MIB)
    assert isinstance(outcome, SetupFailed)
    assert "ENOSPC" in outcome.why
    assert bench.output == b""


async def test_a_disk_that_the_log_fills(bench: Bench, disk: Path) -> None:
    assert await bench.run("head -c 5000000 /dev/zero | tr '\\0' x; echo end; exit 4") == ScriptFailed(4)
    assert 0 < len(bench.output) < MIB
    assert set(bench.output) == {ord("x")}
    assert "The log could not be written in the sandbox any more (No space left on device)." in bench.closing
    assert f"{5_000_004 - len(bench.output)} bytes were dropped" in bench.closing


async def test_the_end_survives_a_full_disk(bench: Bench, disk: Path) -> None:
    """The record's blocks were taken at the start, so also somebody who comes later hears how it ended."""
    await bench.leave(f"{UNTIL_GO}; dd if=/dev/zero of=filler bs=4096 || :; exit 3")
    go(bench)
    await eventually(lambda: b"exited" in bench.attempt.joinpath("record").read_bytes())
    assert os.statvfs(disk).f_bfree < 4  # it counts per processor, and not quite at once
    assert await bench.resume() == ScriptFailed(3)
    assert bench.output.startswith(b"ready\n")


async def test_a_log_that_is_deleted_while_nobody_is_there(bench: Bench) -> None:
    """The supervisor still has it open, and hands it to whoever comes; the record too."""
    await bench.leave(WAITS)
    shutil.rmtree(bench.attempt)
    resumed = asyncio.create_task(finished(bench))
    await eventually(lambda: bench.count("resumed") == 1)
    go(bench)
    assert await resumed == ScriptFailed(5)
    assert bench.output == b"ready\nafter\n"
    assert bench.closing == "runner: The script failed with exit code 5.\n"


async def test_a_log_that_is_emptied_while_somebody_follows(bench: Bench) -> None:
    task = await bench.start(WAITS)
    os.truncate(bench.attempt / "log", 0)
    go(bench)
    assert await task == ScriptFailed(5)
    assert bench.output == b"ready\nafter\n"
    assert "The job shortened its log in the sandbox by 6 bytes" in bench.closing


async def test_a_log_that_is_emptied_while_nobody_is_there(bench: Bench) -> None:
    """What was not read before is gone, and the log says so."""
    await bench.leave("echo ready; while [ ! -e more ]; do sleep 0.02; done; echo lost; touch wrote; " + WAITS)
    Path(bench.settings.workspace, "more").touch()
    await eventually(Path(bench.settings.workspace, "wrote").exists)
    await eventually(lambda: b"lost\nready\n" in bench.attempt.joinpath("log").read_bytes())
    os.truncate(bench.attempt / "log", 0)
    go(bench)
    assert await finished(bench) == ScriptFailed(5)
    assert bench.output == b"ready\n" + bytes(len(b"lost\nready\n")) + b"after\n"
    assert "The job shortened its log in the sandbox by 17 bytes; some may be zeros here." in bench.closing


async def test_a_log_that_grows_by_other_hands(bench: Bench) -> None:
    """A sparse file of terabytes: no more is taken than the log may hold."""
    bench.new_log(MIB)
    task = asyncio.create_task(bench.run(WAITS, bench.logs[-1]))
    await bench.until_output(b"ready")
    os.truncate(bench.attempt / "log", 1 << 42)
    go(bench)
    async with asyncio.timeout(20):
        assert await task == ScriptFailed(5)
    assert len(bench.output) <= MIB


async def leave_ended(bench: Bench) -> None:
    """Leave a script that ends while nobody is there, and its supervisor with it."""
    await bench.leave(WAITS)
    supervisor = bench.record["supervisor"][0]
    go(bench)
    await eventually(lambda: not alive(supervisor))


async def replaced(bench: Bench, name: str, make: Callable[[Path], object]) -> Outcome:
    """Have one of the attempt's files replaced after the script's end, while nobody is there; and come back."""
    await leave_ended(bench)
    path = bench.attempt / name
    path.unlink()
    make(path)
    return await finished(bench)


def listen(path: Path) -> None:
    """Leave the name of a socket that nobody listens at."""
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(f"/proc/self/fd/{folder}/{path.name}")  # names of sockets are short
    os.close(folder)


def grow(path: Path) -> None:
    """Leave a sparse file of terabytes."""
    path.touch()
    os.truncate(path, 1 << 42)


ODD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a link": lambda path: path.symlink_to(path.parent / "script"),
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "an empty file": Path.touch,
    "a socket": listen,
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
async def test_a_log_that_is_something_else(bench: Bench, make: Callable[[Path], object]) -> None:
    assert await replaced(bench, "log", make) == ScriptFailed(5)
    assert bench.output == b"ready\n"
    assert "6 bytes of the log are missing: the job shortened it in the sandbox" in bench.closing


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
async def test_a_record_that_is_something_else(bench: Bench, make: Callable[[Path], object]) -> None:
    outcome = await replaced(bench, "record", make)
    assert isinstance(outcome, SandboxLost)
    assert "its record is missing or unreadable" in outcome.why


async def test_a_folder_that_is_a_link(bench: Bench, tmp_path: Path) -> None:
    await leave_ended(bench)
    bench.attempt.rename(tmp_path / "elsewhere")
    bench.attempt.symlink_to(tmp_path / "elsewhere")
    assert isinstance(await finished(bench), SandboxLost)
    bench.attempt.unlink()


async def test_a_log_that_ends_as_a_sparse_file(bench: Bench) -> None:
    """The record says how much of it is the log."""
    assert await replaced(bench, "log", grow) == ScriptFailed(5)
    assert bench.output == b"ready\n" + bytes(6)


FORGED = {
    "no JSON": (b"\xff" * 4096, "missing or unreadable"),
    "deep": (b"[" * 4096, "missing or unreadable"),
    "a list": (b"[1]", "missing or unreadable"),
    "no kind": (b"{}", "no known kind"),
    "a kind of another kind": (b'{"kind": ["exited"]}', "not text"),
    "a code beyond": (b'{"kind": "exited", "code": 4096}', "not a number"),
    "a log beyond": (b'{"kind": "exited", "logged": 1e400}', "not a number"),
    "still running": (b'{"kind": "running"}', "is gone, and its record is running"),
}


@pytest.mark.parametrize(("content", "says"), FORGED.values(), ids=FORGED.keys())
async def test_a_forged_record_that_cannot_be(bench: Bench, content: bytes, says: str) -> None:
    outcome = await replaced(bench, "record", lambda path: path.write_bytes(content))
    assert isinstance(outcome, SandboxLost)
    assert says in outcome.why


async def test_a_record_that_is_forged_while_the_script_runs(bench: Bench) -> None:
    """The supervisor has the last word."""
    await bench.leave(WAITS)
    forged = json.dumps({"kind": "exited", "code": 0, "logged": 6}).encode().ljust(4096)
    bench.attempt.joinpath("record").write_bytes(forged)
    resumed = asyncio.create_task(finished(bench))
    await eventually(lambda: bench.count("resumed") == 1)
    go(bench)
    assert await resumed == ScriptFailed(5)
    assert bench.output == b"ready\nafter\n"
