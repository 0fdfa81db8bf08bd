"""Jobs of several steps: their progress while they run, over a restart, and in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import LeaseLostError
from runner.job import Job
from runner.outcome import Limit, SandboxLost, ScriptFailed, TimedOut
from runner.service.record import Record
from runner.steps import Step, StepState
from tests.runner.service.conftest import Host, Life
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


def three(gate: Path) -> Job:
    """A job whose second step waits for a file, and fails."""
    waits = f"echo start >>{gate}.starts; until [ -e {gate} ]; do sleep 0.02; done; exit 3"
    steps = (Step("build", b"echo built"), Step("test", waits.encode()), Step("clean", b"echo cleaned", always=True))
    return Job(trust_key="default", steps=steps)


def states(life: Life, record: Record) -> list[tuple[str, StepState]]:
    summary = life.service.records.summary(record.id)
    assert summary
    return [(step.name, step.state) for step in summary.steps]


async def test_how_far_the_steps_are_is_known_also_after_a_restart(host: Host, gate: Path) -> None:
    running = [("build", StepState.SUCCEEDED), ("test", StepState.RUNNING), ("clean", StepState.WAITING)]
    async with host.life() as first:
        record = await first.service.submit(three(gate))
        await eventually(lambda: states(first, record) == running)
        await first.detach()
    async with host.life() as second:
        found = await second.job(record.id)
        await eventually(lambda: states(second, found) == running)
        gate.touch()
        assert await second.outcome(record.id) == ScriptFailed(3)
        log = (await second.log(record.id)).decode()
    async with host.life() as third:
        assert states(third, await third.job(record.id)) == [
            ("build", StepState.SUCCEEDED),
            ("test", StepState.FAILED),
            ("clean", StepState.SUCCEEDED),
        ]
        assert [step.code for step in (await third.job(record.id)).steps] == [0, 3, 0]
    assert Path(f"{gate}.starts").read_text() == "start\n"
    assert log.count("runner: step 2 of 3, test: begins\n") == 1
    assert log.endswith("succeeded after 0.0 s\nrunner: The script failed with exit code 3.\n")


async def test_a_sandbox_that_is_lost_in_a_step_leaves_no_step_open(host: Host, gate: Path) -> None:
    async with host.life() as life:
        record = await life.service.submit(three(gate))
        await eventually(lambda: ("test", StepState.RUNNING) in states(life, record))
        host.leases.trouble |= {"resume": _gone, "renew": _gone}
        host.sandbox.cut()
        assert isinstance(await life.outcome(record.id), SandboxLost)
        assert [state for _, state in states(life, record)] == [
            StepState.SUCCEEDED,
            StepState.INTERRUPTED,
            StepState.SKIPPED,
        ]


async def test_a_steps_own_timeout_is_named(host: Host) -> None:
    async with host.life() as life:
        job = Job(trust_key="default", steps=(Step("slow", b"sleep 60", timeout=0.3), Step("next", b"true")))
        record = await life.service.submit(job)
        assert await life.outcome(record.id) == TimedOut(Limit.STEP)
        assert states(life, record) == [("slow", StepState.TIMED_OUT), ("next", StepState.SKIPPED)]


async def test_a_step_with_an_interpreter_that_is_not_there_is_told_by_its_own_line(host: Host) -> None:
    async with host.life() as life:
        steps = (Step("a", b"true"), Step("b", b"#!/no/such/thing\n"))
        record = await life.service.submit(Job(trust_key="default", steps=steps))
        assert await life.outcome(record.id) == ScriptFailed(127)
        assert b"(#!/no/such/thing) names an interpreter" in await life.log(record.id)


async def _gone() -> None:
    raise LeaseLostError("The sandbox is gone.")
