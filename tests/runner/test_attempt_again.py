"""Attempts that are found again: after a broken connection, and by a later life of the runner."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runner.errors import DetachedError, LeaseUnreachableError, StateError
from runner.execution import flight, pursuit
from runner.execution.attempt import run_attempt
from runner.execution.marker import Marker
from runner.execution.options import Settings
from runner.job import Job
from runner.outcome import Cancelled, Limit, Outcome, SandboxLost, ScriptFailed, SetupFailed, Succeeded, TimedOut
from tests.runner.conftest import Bench, alive, hang, lose, refuse
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

NOISE = """#!/usr/bin/env python3
import hashlib, os, random, sys, time
noise, digest, left = random.Random(7), hashlib.sha256(), {size}
while left:
    piece = noise.randbytes(min(left, 65536))
    digest.update(piece)
    left -= len(piece)
    os.write(1, piece)
    time.sleep(0.001)
open("sum", "w").write(digest.hexdigest())
"""
"""Prints as many pseudo-random bytes as it is told, in pieces, and their sum into a file."""
WAITS = "echo $$ ready; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 5"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit, "PAUSE", 0.05)


def go(bench: Bench) -> None:
    """Let the script `WAITS` come to its end."""
    Path(bench.settings.workspace, "go").touch()


async def test_a_connection_that_is_cut_in_the_middle(bench: Bench) -> None:
    task = await bench.start(WAITS)
    bench.sandbox.cut()
    await eventually(lambda: bench.count("resumed") == 1)
    go(bench)
    assert await task == ScriptFailed(5)
    assert bench.output.split()[1:] == [b"ready", b"after"]
    assert bench.leases.calls == ["give_back:used"]
    assert len(bench.leases.leases) == 1  # nothing was started again


async def test_the_log_is_whole_after_cuts_anywhere(bench: Bench) -> None:
    """50 MB, and the connection killed at random offsets."""
    size, log = 50_000_000, bench.new_log()
    task = asyncio.create_task(bench.run(NOISE.format(size=size), log))
    cuts = [int(size * (number + random.random()) / 5) for number in range(5)]
    for cut in cuts:
        await eventually(lambda: log.output >= cut or task.done())  # noqa: B023 - awaited at once
        bench.sandbox.cut()
    assert await task == Succeeded()
    assert bench.count("resumed") >= 2, cuts
    assert bench.logs[-1].output == size
    written = Path(bench.settings.workspace, "sum").read_text()
    assert hashlib.sha256(bench.output).hexdigest() == written, cuts


async def test_a_black_hole_is_noticed_and_left(bench: Bench) -> None:
    """A follower that hangs in a dead connection does not hold the next one up."""
    default = Settings()
    assert 15 <= default.keepalive_interval * (default.keepalive_count + 1) <= 20
    bench.settings = replace(bench.settings, keepalive_interval=0.1)
    task = await bench.start(WAITS)
    bench.sandbox.signal(signal.SIGSTOP)
    await eventually(lambda: bench.count("resumed") == 1)
    go(bench)
    assert await task == ScriptFailed(5)
    assert "not responding" in next(note.text for note in bench.notes if note.action == "lost")


async def test_news_come_at_once_after_a_cut(bench: Bench) -> None:
    """Nothing polls: a follower that came later hears of output as fast as the first one."""
    task = await bench.start("mkfifo fifo; echo ready; while read -r line; do echo $line; done <fifo")
    fifo = Path(bench.settings.workspace, "fifo").open("w")  # noqa: ASYNC230, SIM115 - a FIFO with a reader
    bench.sandbox.cut()
    await eventually(lambda: bench.count("resumed") == 1)
    took = []
    for number in range(5):
        begin = time.monotonic()
        print(f"line {number}", file=fifo, flush=True)
        await bench.until_output(b"line %d" % number)
        took.append(time.monotonic() - begin)
    fifo.close()
    assert await task == Succeeded()
    assert min(took) < 0.05, took


async def test_the_runner_leaves_and_comes_back(bench: Bench) -> None:
    await bench.leave(WAITS)
    assert bench.leases.calls == []
    assert not bench.logs[-1].closed
    assert alive(bench.record["script"][0])
    go(bench)
    assert await bench.resume() == ScriptFailed(5)
    assert bench.output.split()[1:] == [b"ready", b"after"]
    assert bench.leases.calls == ["give_back:used"]


async def test_a_script_that_ended_while_nobody_was_there(bench: Bench) -> None:
    await bench.leave(WAITS)
    go(bench)
    await eventually(lambda: "code" in bench.record)
    assert await bench.resume() == ScriptFailed(5)
    assert bench.output.split()[1:] == [b"ready", b"after"]


async def test_a_timeout_while_nobody_was_there(bench: Bench) -> None:
    """The deadline is the launcher's: it holds without any runner, and a later one hears of it."""
    await bench.leave("trap '' TERM; echo $$ ready; while :; do sleep 0.02; done", timeout=1.0)
    await eventually(lambda: "code" in bench.record)
    assert not alive(int(bench.logs[-1].path.read_bytes().split()[0]))
    assert await bench.resume() == TimedOut(Limit.JOB)
    assert bench.leases.calls == ["kill", "give_back:used"]


async def test_an_end_in_time_is_heard_long_after_the_deadline(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: the runner's own backstop had run out while it was away, and it reported a timeout that never was."""
    await bench.leave(WAITS, timeout=60.0)
    monkeypatch.setattr(flight, "BACKSTOP", -100.0)
    go(bench)
    assert await bench.resume() == ScriptFailed(5)


async def test_a_sandbox_that_does_not_end_the_script_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backstop counts from the start, also in a later life: a supervisor that is stopped enforces nothing."""
    await bench.leave("echo ready; sleep 300", timeout=0.5)
    os.kill(bench.record["supervisor"][0], signal.SIGSTOP)
    monkeypatch.setattr(flight, "BACKSTOP", 0.0)
    monkeypatch.setattr(pursuit, "CATCH_UP", 0.2)
    monkeypatch.setattr(flight, "CATCH_UP", 0.2)
    bench.settings = replace(bench.settings, reconnect_deadline=0.5, grace=0.1)
    async with asyncio.timeout(10):
        assert await bench.resume() == TimedOut(Limit.JOB)
    assert bench.leases.calls == ["kill", "give_back:used"]


async def test_the_source_of_leases_is_away_for_a_while(bench: Bench) -> None:
    async def away() -> None:
        if len(bench.leases.resumed) < 4:
            raise LeaseUnreachableError("No keeper answers.")

    bench.leases.trouble["resume"] = away
    task = await bench.start(WAITS)
    bench.sandbox.cut()
    go(bench)
    assert await task == ScriptFailed(5)
    assert len(bench.leases.resumed) == 4


async def test_a_lease_that_is_over(bench: Bench) -> None:
    bench.leases.trouble["resume"] = lose
    task = await bench.start(WAITS)
    bench.sandbox.cut()
    assert await task == SandboxLost("The lease is gone.")
    assert len(bench.leases.resumed) == 1


async def test_no_way_in_until_the_deadline(bench: Bench) -> None:
    bench.settings = replace(bench.settings, reconnect_deadline=0.3)
    bench.leases.trouble["resume"] = refuse
    task = await bench.start(WAITS)
    bench.sandbox.cut()
    outcome = await task
    assert isinstance(outcome, SandboxLost)
    assert outcome.why == "There was no way back into it for 0.3 s. The keeper says no."
    assert bench.leases.calls == [f"condemn:{outcome.why}"]
    assert len(bench.leases.resumed) > 1


@pytest.mark.parametrize("change", [{"generation": 2}, {"sandbox": "another"}, {"boot_id": "another"}])
async def test_another_sandbox_is_not_asked(bench: Bench, change: dict[str, object]) -> None:
    await bench.leave("echo ready; sleep 300")
    outcome = await bench.resume(replace(bench.markers[-1], **change))  # type: ignore[arg-type]
    assert isinstance(outcome, SandboxLost)
    assert "leads to" in outcome.why or "host was restarted" in outcome.why


@pytest.mark.parametrize("source", ["answers", "comes back", "is gone"])
async def test_a_cancel_while_there_is_no_connection(bench: Bench, source: str) -> None:
    """It ends the job from outside: no signal can be sent, and the source of leases may be away for a moment too."""
    killed = []

    async def kill() -> None:
        killed.append(source)
        if source == "is gone" or (source == "comes back" and len(killed) < 3):
            raise LeaseUnreachableError("No keeper answers.")

    bench.settings = replace(bench.settings, return_deadline=2.0)
    bench.leases.trouble.update(resume=hang, kill=kill)
    task = await bench.start("echo ready; sleep 300")
    bench.sandbox.cut()
    await eventually(lambda: bench.leases.resumed != [])
    bench.cancellation.request("the user")
    async with asyncio.timeout(10):
        assert await task == Cancelled("the user")
    assert bench.output == b"ready\n"
    expected = "condemn:Processes of the job may be left in it." if source == "is gone" else "give_back:used"
    assert [call for call in bench.leases.calls if call != "kill"] == [expected]


async def test_a_cancel_before_the_attempt_was_found_again(bench: Bench) -> None:
    await bench.leave("echo ready; sleep 300")
    bench.cancellation.request("the user")
    assert await bench.resume() == Cancelled("the user")
    assert bench.leases.calls == ["kill", "give_back:used"]


@pytest.mark.parametrize("kill", ["works", "is refused"])
async def test_a_cancel_while_the_attempt_is_not_found_again(bench: Bench, kill: str) -> None:
    """The trap: it waited for the way in, for an hour, and the job may be what had closed that."""
    await bench.leave("echo ready; sleep 300")
    bench.leases.trouble["resume"] = hang
    task = asyncio.create_task(bench.resume())
    await eventually(lambda: bench.leases.resumed != [])
    if kill == "is refused":
        bench.leases.trouble["kill"] = refuse
    bench.cancellation.request("the user")
    async with asyncio.timeout(10):
        assert await task == Cancelled("the user")
    assert bench.output == b"ready\n"
    expected = "give_back:used" if kill == "works" else "condemn:Processes of the job may be left in it."
    assert bench.leases.calls == ["kill", expected]


async def test_an_attempt_that_is_not_found_again_leaves_no_lease(bench: Bench) -> None:
    """The trap: its sandbox was kept for a day, and for longer where a job may take longer."""
    await bench.leave("echo ready; sleep 300")
    bench.settings = replace(bench.settings, reconnect_deadline=0.2)
    bench.leases.trouble["resume"] = refuse
    outcome = await bench.resume()
    assert outcome == SandboxLost("There was no way back into it for 0.2 s. The keeper says no.")
    assert bench.leases.calls == [f"condemn:{outcome.why}"]


async def test_leaving_again_before_the_attempt_was_found(bench: Bench) -> None:
    await bench.leave("echo ready; sleep 300")
    bench.leases.trouble["resume"] = hang
    task = asyncio.create_task(bench.resume())
    await eventually(lambda: bench.leases.resumed != [])
    bench.cancellation.detach()
    bench.cancellation.request("the user")  # too late
    with pytest.raises(DetachedError):
        await task
    assert bench.leases.calls == []


async def test_leaving_before_anything_was_sent(bench: Bench) -> None:
    bench.cancellation.detach()
    with pytest.raises(DetachedError):
        await bench.run("echo ran")
    assert bench.markers == []
    assert bench.leases.calls in ([], ["give_back:unused"])


async def test_the_marker_comes_before_the_first_byte(bench: Bench) -> None:
    async def full(marker: Marker) -> None:
        assert not Path(bench.settings.attempts, marker.attempt).exists()
        raise StateError("The marker could not be written: the disk is full.")

    log = bench.new_log()
    outcome = await run_attempt(
        bench.leases, Job(b"true"), log, bench.cancellation, settings=bench.settings, on_start=full
    )
    assert outcome == SetupFailed("The marker could not be written: the disk is full.")
    assert bench.leases.calls == ["give_back:unused"]
    assert not any(Path(bench.settings.attempts).glob("*"))


async def test_the_outcome_is_kept_before_the_sandbox_goes_back(bench: Bench) -> None:
    seen: list[tuple[Outcome, list[str], int]] = []
    log = bench.new_log()

    async def keep(outcome: Outcome) -> None:
        seen.append((outcome, list(bench.leases.calls), log.output))

    await run_attempt(bench.leases, Job(b"echo hi"), log, bench.cancellation, settings=bench.settings, on_end=keep)
    assert seen == [(Succeeded(), [], 3)]
    assert bench.leases.calls == ["give_back:used"]


async def test_an_outcome_that_is_left_for_later(bench: Bench) -> None:
    """A full disk, and the runner is told to leave: nothing is given back, and the next life finds all of it again."""

    async def leave(outcome: Outcome) -> None:
        raise DetachedError("The outcome could not be written.")

    log = bench.new_log()
    with pytest.raises(DetachedError):
        await run_attempt(
            bench.leases,
            Job(b"echo hi; exit 3"),
            log,
            bench.cancellation,
            settings=bench.settings,
            on_start=bench.mark,
            on_end=leave,
        )
    assert bench.leases.calls == []
    assert await bench.resume() == ScriptFailed(3)
    assert bench.output == b"hi\n"


async def test_a_launch_that_never_arrived(bench: Bench) -> None:
    """The runner was killed between marker and first byte. Unknown counts as started: nothing is tried again."""
    await bench.leave("echo ready; sleep 300")
    outcome = await bench.resume(replace(bench.markers[-1], attempt="never-sent"))
    assert isinstance(outcome, SandboxLost)


async def test_a_connection_that_is_cut_while_the_script_is_sent(bench: Bench) -> None:
    """Unknown counts as started, and what was not sent whole is never run."""
    log = bench.new_log()
    task = asyncio.create_task(bench.run(b"touch ran\n" + b"#" * 60_000_000, log))
    await eventually(lambda: bench.leases.leases != [] and (bench.attempt / "script").exists())
    bench.sandbox.cut()
    outcome = await task
    assert isinstance(outcome, SandboxLost)
    assert "its record is starting" in outcome.why
    assert not Path(bench.settings.workspace, "ran").exists()
    assert len(bench.leases.leases) == 1


async def test_a_cut_at_any_time_of_the_start(bench: Bench) -> None:
    """However far the start came, the script ran once or not at all, and the outcome says which."""
    for turns in range(0, 40, 4):
        runs, leased = bench.sandbox.folder / f"runs-{turns}", bench.count("leased")
        task = asyncio.create_task(bench.run(f"echo x >>{runs}; exit 3", bench.new_log()))
        await eventually(lambda: bench.count("leased") > leased)  # noqa: B023 - awaited at once
        for _ in range(turns):
            await asyncio.sleep(0)
        bench.sandbox.cut()
        outcome = await task
        ran = runs.read_text() if runs.exists() else ""
        if outcome == ScriptFailed(3):
            assert ran == "x\n"
        elif isinstance(outcome, SandboxLost):
            assert ran in ("", "x\n")
        else:
            assert isinstance(outcome, SetupFailed)
            assert ran == ""


async def test_sessions_that_break_again_and_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ends every session makes the runner neither spin nor wait for ever."""
    bench.settings = replace(bench.settings, reconnect_deadline=1.0)
    monkeypatch.setattr(pursuit, "PAUSE", 0.2)
    task = await bench.start("echo ready; sleep 300")
    cuts = 0
    while not task.done():
        bench.sandbox.cut()
        cuts += 1
        await eventually(lambda: bench.count("resumed") >= cuts or task.done())  # noqa: B023 - awaited at once
    outcome = await task
    assert isinstance(outcome, SandboxLost)
    assert outcome.why.startswith("There was no way back into it for 1 s.")
    assert 1 < len(bench.leases.resumed) < 8
