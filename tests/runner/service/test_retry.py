"""Jobs that may be started again: after which outcomes, how often, and with what log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.execution.log import Log
from runner.job import Job
from runner.outcome import Cancelled, SandboxLost, ScriptFailed, SetupFailed, Succeeded
from runner.service.record import Record
from runner.steps import Step, StepState
from runner.store.states import JobState
from tests.runner.conftest import away, hang, refuse
from tests.runner.service.conftest import Host, Life
from tests.runner.service.state import State, locked
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

LOST = b"runner: The sandbox was lost: The lease is over. The job is started again (retry 1 of 2).\n"
"""How the log goes on after a start that was lost."""


def flaky(gate: Path, **more: object) -> Job:
    """A job that says which start it is, and waits in each for a file of its own."""
    script = (
        f"echo start >>{gate}.starts; n=$(wc -l <{gate}.starts); echo up $n; "
        f"until [ -e {gate}.$n ]; do sleep 0.02; done; echo end $n"
    )
    return Job(script.encode(), trust_key="default", retry=2, **more)  # type: ignore[arg-type]


def starts(gate: Path) -> int:
    path = Path(f"{gate}.starts")
    return len(path.read_text().splitlines()) if path.exists() else 0


async def lose(host: Host) -> None:
    """Have the sandbox be gone, and another one there for who asks."""
    lease = host.leases.leases[-1]
    lease.calls.append("condemn:it is gone")
    host.sandbox.cut()


async def test_a_lost_sandbox_is_followed_by_another_start_in_the_same_log(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(flaky(gate))
        reading = life.log(record.id)
        await eventually(lambda: starts(gate) == 1 and b"up 1" in record.log_path.read_bytes())
        await lose(host)
        await eventually(lambda: starts(gate) == 2)
        Path(f"{gate}.2").touch()
        assert await life.outcome(record.id) == Succeeded()
        assert await reading == b"up 1\n" + LOST + b"up 2\nend 2\nrunner: The script succeeded.\n"
        assert await life.log(record.id, 5) == LOST + b"up 2\nend 2\nrunner: The script succeeded.\n"
        summary = life.service.records.summary(record.id)
        assert summary
        assert summary.retries == 1


async def test_it_ends_when_there_are_no_retries_left(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(flaky(gate))
        for number in (1, 2, 3):
            await eventually(lambda number=number: starts(gate) == number)  # type: ignore[misc]
            await lose(host)
        assert isinstance(await life.outcome(record.id), SandboxLost)
        assert starts(gate) == 3
        assert (await life.log(record.id)).count(b"is started again") == 2


async def test_what_the_script_itself_comes_to_is_never_tried_again(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(Job(f"echo start >>{gate}.starts; exit 1".encode(), retry=3))
        assert await life.outcome(record.id) == ScriptFailed(1)
        assert starts(gate) == 1


async def test_without_its_word_nothing_is_started_twice(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(replace(flaky(gate), retry=0))
        await eventually(lambda: starts(gate) == 1)
        await lose(host)
        assert isinstance(await life.outcome(record.id), SandboxLost)
        assert starts(gate) == 1


async def test_a_keeper_that_answers_nobody_counts_as_a_start(host: Host) -> None:
    """The trap: the question for the profile came before whatever minds the retries."""
    host.settings = replace(host.settings, source_deadline=0.0)
    host.leases.trouble["profiles"] = away
    async with host.life() as life:
        record = await life.service.submit(Job(b"echo hello", retry=2, labels=frozenset({"large"})))
        assert isinstance(await life.outcome(record.id), SetupFailed)
        assert (await life.log(record.id)).count(b"The job is started again") == 2


async def test_a_sandbox_that_cannot_be_made_is_asked_for_again(host: Host, gate: Path) -> None:
    async with host.life() as life:
        host.leases.trouble["lend"] = refuse
        record = await life.service.submit(Job(b"echo hello", trust_key="default", retry=1))
        await eventually(lambda: record.log_path.exists() and b"(retry 1 of 1)" in record.log_path.read_bytes())
        del host.leases.trouble["lend"]
        assert isinstance(await life.outcome(record.id), Succeeded | SetupFailed)
        log = await life.log(record.id)
        assert log.startswith(b"runner: The script was not started: The keeper says no. The job is started again")


@pytest.mark.parametrize("secrets", [{}, {"TOKEN": "up 2\nend"}], ids=["plain", "masked"])
async def test_a_restart_in_the_second_start_goes_on_at_the_right_byte(
    host: Host, gate: Path, secrets: dict[str, str]
) -> None:
    """The trap: the sandbox counts the bytes of its own start, and the log has those of the first one before them."""
    async with host.life() as first:
        job = flaky(gate, secrets=secrets)
        record = await first.service.submit(job)
        await eventually(lambda: starts(gate) == 1 and b"up 1" in record.log_path.read_bytes())
        await lose(host)
        await eventually(lambda: starts(gate) == 2 and record.state is JobState.RUNNING)
        await first.detach()
    async with host.life() as second:
        Path(f"{gate}.2").touch()
        assert await second.outcome(record.id) == Succeeded()
        own = b"[masked] 2\n" if secrets else b"up 2\nend 2\n"
        assert await second.log(record.id) == b"up 1\n" + LOST + own + b"runner: The script succeeded.\n"
    assert starts(gate) == 2


@pytest.mark.parametrize("held", [True, False], ids=["while it waits", "while a sandbox is looked for"])
async def test_a_cancel_between_two_starts_keeps_the_log(host: Host, gate: Path, held: bool) -> None:
    """The trap: an end without a start must not be taken for the end of the start before, which asked for another."""
    async with host.life(slots=1) as life:
        record = await life.service.submit(flaky(gate))
        await eventually(lambda: starts(gate) == 1 and b"up 1" in record.log_path.read_bytes())
        if held:
            await life.service.drain("the test")
        host.leases.trouble["lend"] = hang
        await lose(host)
        await eventually(lambda: _retries(life, record) == 1)
        await life.service.cancel(record, "the test")
        assert await life.outcome(record.id) == Cancelled("the test")
        log = await life.log(record.id)
        assert log == b"up 1\n" + LOST + b"runner: The script was cancelled by the test.\n"


def _retries(life: Life, record: Record) -> int:
    summary = life.service.records.summary(record.id)
    return summary.retries if summary else 0


async def test_a_locked_store_delays_the_next_start_and_loses_nothing(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(flaky(gate))
        await eventually(lambda: starts(gate) == 1 and b"up 1" in record.log_path.read_bytes())
        with locked(host.state):
            await lose(host)
            await eventually(lambda: b"retry 1 of 2" in record.log_path.read_bytes())
            assert record.state is JobState.RUNNING
        await eventually(lambda: starts(gate) == 2)
        Path(f"{gate}.2").touch()
        assert await life.outcome(record.id) == Succeeded()
        assert (await life.log(record.id)).count(LOST) == 1


async def test_a_crash_before_the_next_start_is_written_down_is_followed_by_it(host: Host, gate: Path) -> None:
    async with host.life() as first:
        record = await first.service.submit(flaky(gate))
        await eventually(lambda: starts(gate) == 1 and b"up 1" in record.log_path.read_bytes())
        await first.detach()
    host.leases.leases[-1].calls.append("condemn:gone while nobody looked")
    async with host.life() as second:
        await eventually(lambda: starts(gate) == 2)
        Path(f"{gate}.2").touch()
        assert await second.outcome(record.id) == Succeeded()
        assert (await second.log(record.id)).count(b"retry 1 of 2") == 1


async def test_each_start_begins_with_the_first_step(host: Host, gate: Path) -> None:
    waits = f"echo start >>{gate}.starts; until [ -e {gate}.go ]; do sleep 0.02; done"
    steps = (Step("one", b"true"), Step("two", waits.encode()))
    async with host.life() as life:
        record = await life.service.submit(Job(trust_key="default", retry=1, steps=steps))
        await eventually(lambda: starts(gate) == 1 and b"two: begins" in record.log_path.read_bytes())
        await lose(host)
        await eventually(lambda: starts(gate) == 2)
        Path(f"{gate}.go").touch()
        assert await life.outcome(record.id) == Succeeded()
        assert (await life.log(record.id)).count(b"step 1 of 2, one: begins") == 2
        assert [step.state for step in record.steps] == [StepState.SUCCEEDED] * 2


def test_it_keeps_its_place_among_the_jobs_of_its_key(tmp_path: Path) -> None:
    state = State(tmp_path)
    ids = [state.jobs.add(Job(b"true", retry=1))[0] for _ in range(3)]
    first = state.jobs.claim(9)
    assert first
    assert first.id == ids[0]
    state.jobs.put_back()
    assert [entry.id for _ in range(3) if (entry := state.jobs.claim(9))] == ids


@given(st.binary(max_size=30), st.lists(st.binary(max_size=10), max_size=5), st.integers(0, 40))
def test_a_log_that_is_continued_keeps_its_limit_for_each_start(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, pieces: list[bytes], limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(before)
    log = Log.reopen(path, limit, start=len(before))
    log.append(*pieces)
    output = b"".join(pieces)
    assert path.read_bytes() == before + output[:limit]
    assert (log.received, log.dropped) == (len(output), max(0, len(output) - limit))
    again = Log.reopen(path, limit, start=len(before))
    assert again.received == min(len(output), limit)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.execution.pursuit.PAUSE", 0.05)
