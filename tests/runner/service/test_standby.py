"""A sandbox that is held for a future job never keeps a present one waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runner.errors import LeaseError
from runner.placement import Wanted
from runner.service import standby as standby_module
from runner.service.standby import Standby
from tests.runner.conftest import FakeLeases, Sandbox, hang
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


class Host:
    """Tells how many sandboxes are ready, and lends."""

    def __init__(self, sandbox: Sandbox, ready: int) -> None:
        self.ready = ready
        self.leases = FakeLeases(sandbox.access)
        self.trouble = False

    async def count(self, profile: str) -> int:
        if self.trouble:
            raise LeaseError("No keeper answers.")
        return self.ready


@asynccontextmanager
async def standing_by(host: Host) -> AsyncIterator[Standby]:
    standby = Standby(host.leases, host.count)
    try:
        yield standby
    finally:
        await standby.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby_module, "_INTERVAL", 0.01)


def held(standby: Standby) -> bool:
    return standby._held is not None and standby._held.task.done()


async def test_one_is_prepared_while_others_are_ready_besides(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
        prepared = await standby.take(Wanted("default"))
        assert prepared is not None
        assert prepared.usable
        await prepared.release()


async def test_the_last_one_is_never_taken(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=1)
    asked = asyncio.Event()

    async def count(profile: str) -> int:
        asked.set()
        return 1

    standby = Standby(host.leases, count)
    await asyncio.wait_for(asked.wait(), 5)
    assert await standby.take(Wanted("default")) is None
    await standby.close()
    assert host.leases.leases == []


async def test_it_is_given_back_unused_when_nobody_else_would_find_one(sandbox: Sandbox) -> None:
    """The trap: with two sandboxes, one held and one busy, the next job waited for the busy one."""
    host = Host(sandbox, ready=2)
    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
        host.ready = 0
        await eventually(lambda: host.leases.calls == ["give_back:unused"])
        assert await standby.take(Wanted("default")) is None


async def test_one_for_another_trust_key_is_given_back_unused(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
        assert await standby.take(Wanted("another")) is None
        assert "give_back:unused" in host.leases.calls


async def test_one_that_broke_while_it_waited_is_condemned_and_replaced(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
        sandbox.cut()
        await eventually(lambda: any(call.startswith("condemn") for call in host.leases.calls))
        await eventually(lambda: len(host.leases.leases) == 2 and held(standby))


async def test_a_keeper_that_is_away_is_asked_again(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    host.trouble = True
    async with standing_by(host) as standby:
        assert await standby.take(Wanted("default")) is None
        host.trouble = False
        await eventually(lambda: held(standby))


async def test_nothing_stays_leased_after_close(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
    assert host.leases.calls == ["give_back:unused"]


async def test_one_that_is_still_prepared_is_nobody_s_when_who_waits_for_it_is_cancelled(sandbox: Sandbox) -> None:
    """The trap: it was taken out of the standby's hands by then, and stayed leased for a day."""
    host = Host(sandbox, ready=2)
    opening, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        opening.set()
        await go_on.wait()

    host.leases.trouble["lend"] = slowly
    async with standing_by(host) as standby:
        await asyncio.wait_for(opening.wait(), 20)
        host.ready = 0
        taking = asyncio.create_task(standby.take(Wanted("default")))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        go_on.set()
        assert taking.cancelled()
        assert standby._held is None
    assert all(lease.over for lease in host.leases.leases)


async def test_one_that_is_still_prepared_for_another_trust_key_is_not_waited_for(sandbox: Sandbox) -> None:
    """The trap: a job waited for minutes for a sandbox that it could not use."""
    host = Host(sandbox, ready=2)
    opening = asyncio.Event()

    async def never() -> None:
        opening.set()
        await hang()

    host.leases.trouble["lend"] = never
    async with standing_by(host) as standby:
        await asyncio.wait_for(opening.wait(), 20)
        assert await asyncio.wait_for(standby.take(Wanted("another")), 20) is None


async def test_who_is_cancelled_does_not_wait_until_it_went_back(sandbox: Sandbox) -> None:
    host = Host(sandbox, ready=2)
    returning, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        returning.set()
        await go_on.wait()

    async with standing_by(host) as standby:
        await eventually(lambda: held(standby))
        host.leases.trouble["give_back"] = slowly
        taking = asyncio.create_task(standby.take(Wanted("another")))
        await asyncio.wait_for(returning.wait(), 20)
        taking.cancel()
        await asyncio.wait([taking], timeout=20)
        assert taking.cancelled()
        go_on.set()
    assert all(lease.over for lease in host.leases.leases)


async def test_a_keeper_that_is_away_is_told_once(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host = Host(sandbox, ready=2)
    host.trouble = True
    asked = 0

    async def count(profile: str) -> int:
        nonlocal asked
        asked += 1
        return await host.count(profile)

    standby = Standby(host.leases, count)
    await eventually(lambda: asked > 5)
    assert caplog.text.count("No keeper answers.") == 1
    host.trouble = False
    await eventually(lambda: held(standby))
    host.trouble = True  # another time
    await eventually(lambda: caplog.text.count("No keeper answers.") == 2)
    await standby.close()
