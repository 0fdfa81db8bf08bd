"""How a job gets its sandbox: one that was prepared in advance, one that is waited for, or none."""

from __future__ import annotations

import asyncio

import pytest

from runner.errors import LeaseLostError, LeaseUnreachableError
from runner.execution import prepare
from tests.runner.conftest import hang, refuse
from tests.runner.gitlab.conftest import DEADLINE, KEY, Lab, ended, terminate
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_a_sandbox_that_was_prepared_in_advance(lab: Lab) -> None:
    await lab.stand_by(KEY)
    manager = await lab.prepared()
    assert len(lab.leases.leases) == 1
    assert "is ready" in manager.said
    assert (await manager.run("echo built")).out == b"built\n"
    assert (await manager.hook("cleanup")).code == 0
    await eventually(lambda: "give_back:used" in lab.leases.leases[0].calls)


async def test_what_is_amiss_with_a_sandbox_that_was_prepared_in_advance_is_told_as_well(lab: Lab) -> None:
    await lab.stand_by(KEY)
    lab.leases.leases[0].caveat = "It is never made anew."
    assert "runner: It is never made anew.\n" in (await lab.prepared()).said


async def test_a_job_keeps_the_sandbox_that_was_prepared_in_advance_over_a_restart(lab: Lab) -> None:
    """The trap: the service noted its lease, and would return it in its next life."""
    await lab.stand_by(KEY)
    manager = await lab.prepared()
    await lab.leave()
    lab.begin()
    assert lab.jobs.attempts == {lab.leases.leases[0].attempt}
    assert (await manager.run("echo built")).out == b"built\n"


async def test_a_sandbox_that_ended_while_it_waited_is_not_taken(lab: Lab) -> None:
    await lab.stand_by(KEY)
    first = lab.leases.leases[0]

    async def ended() -> None:
        if not first.over:
            raise LeaseLostError("Its container does not run any more.")

    lab.leases.trouble["renew"] = ended
    await lab.prepared()
    assert first.over
    assert len(lab.leases.leases) == 2


async def test_no_sandbox_to_be_had(lab: Lab) -> None:
    manager = lab.manager()
    await manager.config()
    lab.leases.trouble["lend"] = refuse
    end = await manager.hook("prepare")
    assert end.code == 2
    assert "The keeper says no." in end.said
    lab.leases.trouble.clear()
    assert (await manager.hook("prepare")).code == 0


async def test_what_prepare_waits_for_is_in_the_job_s_log_while_it_waits(lab: Lab) -> None:
    """The trap: a log that is silent for ten minutes, and then an error."""
    manager = lab.manager()
    await manager.config()
    lab.leases.trouble["lend"] = hang
    hook = await manager.start("prepare")
    assert hook.stdout
    async with asyncio.timeout(DEADLINE):
        assert await hook.stdout.readline() == b"runner: Waiting for a sandbox of profile default.\n"
    terminate(hook)
    await ended(hook)


async def test_each_thing_on_the_way_to_a_sandbox_is_told_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PAUSE", 0.01)
    asked = 0

    async def come_and_go() -> None:
        nonlocal asked
        asked += 1
        if asked < 20:
            raise LeaseUnreachableError(f"Keeper {asked if asked > 8 else asked % 2} does not answer.")

    lab.leases.trouble["lend"] = come_and_go
    manager = await lab.prepared()
    *told, running = manager.said.splitlines()
    assert told == [
        "runner: Waiting for a sandbox of profile default.",
        "runner: Keeper 1 does not answer. It is asked again.",
        "runner: Keeper 0 does not answer. It is asked again.",
        "runner: Keeper 9 does not answer. It is asked again.",
        "runner: Keeper 10 does not answer. It is asked again.",
    ]
    assert asked == 20
    assert lab.leases.leases[0].sandbox in running


async def test_a_cancel_while_a_sandbox_is_waited_for(lab: Lab) -> None:
    manager = lab.manager()
    await manager.config()
    lab.leases.trouble["lend"] = hang
    hook = await manager.start("prepare")
    await eventually(lambda: any(live.idle == 0 for live in lab.jobs.live))
    terminate(hook)
    assert (await ended(hook)).code == 2
    assert (await manager.hook("cleanup")).code == 0
    await eventually(lambda: not lab.jobs.live)
