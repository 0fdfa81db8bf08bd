"""The tests that every source of leases must pass. A test module of each source inherits from them.

The fixture `leases` is a source with exactly two sandboxes, fit and fresh.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from runner.errors import LeaseError, LeaseLostError
from runner.execution.lease import Lease, LeaseSource, new_token

SOON = 30.0
"""Seconds for a sandbox to be looked at, or made again."""


async def lend(leases: LeaseSource, attempt: str, key: str = "team", wait: float = SOON, token: str = "") -> Lease:
    """Lend under a token that follows from the attempt, and hang up."""
    lease = await leases.lend(attempt, token or token_of(attempt), "default", key, wait, 60.0)
    assert lease.access.socket.fileno() >= 0
    lease.access.socket.close()
    return lease


def token_of(attempt: str) -> str:
    return f"token-of-{attempt:_<30}"


def identity(lease: Lease) -> tuple[str, int]:
    """Which sandbox it is. Another lease of the same sandbox may have another generation where nobody recreates."""
    return lease.sandbox, lease.generation


class LeaseConformance:
    """Inherited by a class `Test…` beside the fixture `leases`."""

    pytestmark = pytest.mark.anyio

    async def test_a_request_is_idempotent_and_its_lease_can_be_resumed(self, leases: LeaseSource) -> None:
        first = await lend(leases, "a")
        assert (first.attempt, first.term > 0, bool(first.access.host_key)) == ("a", True, True)
        assert identity(await lend(leases, "a")) == identity(first)
        resumed = await leases.resume("a", token_of("a"))
        resumed.access.socket.close()
        assert identity(resumed) == identity(first)
        await resumed.renew()
        with pytest.raises(LeaseError):
            await lend(leases, "a", token=new_token())
        with pytest.raises(LeaseError):
            await lend(leases, "a", "another")
        await resumed.give_back(used=False)
        with pytest.raises(LeaseLostError):
            await leases.resume("a", token_of("a"))

    async def test_there_are_the_profiles_that_it_tells_and_no_others(self, leases: LeaseSource) -> None:
        there = await leases.profiles()
        assert "default" in there
        lease = await lend(leases, "a")
        await lease.give_back(used=False)
        assert "unheard-of" not in there
        with pytest.raises(LeaseError, match="no profile unheard-of"):
            await leases.lend("b", token_of("b"), "unheard-of", "team", 0.0, 60.0)

    async def test_who_does_not_know_the_token_gets_nothing(self, leases: LeaseSource) -> None:
        lease = await lend(leases, "a")
        with pytest.raises(LeaseLostError):
            await leases.resume("a", new_token())
        await lease.renew()
        await lease.give_back(used=False)

    async def test_a_lease_is_ended_by_its_token_alone(self, leases: LeaseSource) -> None:
        lent = [await lend(leases, "a"), await lend(leases, "b")]
        given_back, condemned = (leases.handle(lease.attempt, token_of(lease.attempt)) for lease in lent)
        with pytest.raises(LeaseLostError):
            await leases.handle("a", new_token()).give_back(used=True)
        await lent[0].renew()
        await given_back.kill()
        await given_back.give_back(used=True)
        await given_back.condemn("Too late.")
        await condemned.condemn("It broke.")
        await condemned.condemn("It broke again.")
        for lease in lent:
            with pytest.raises(LeaseLostError):
                await lease.renew()
            with pytest.raises(LeaseLostError):
                await leases.handle(lease.attempt, token_of(lease.attempt)).condemn("Too late.")
        again = await lend(leases, "c")
        assert again.sandbox != lent[1].sandbox
        await again.give_back(used=True)

    async def test_no_two_attempts_share_a_sandbox(self, leases: LeaseSource) -> None:
        first, second = await asyncio.gather(lend(leases, "a"), lend(leases, "b"))
        assert first.sandbox != second.sandbox
        with pytest.raises(LeaseError):
            await lend(leases, "c", wait=0.0)
        waiting = asyncio.create_task(lend(leases, "d"))
        given_up = asyncio.create_task(lend(leases, "e"))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await first.give_back(used=True)
        third = await waiting
        await second.give_back(used=True)
        fourth = await lend(leases, "f")
        for lease in (third, fourth):
            await lease.give_back(used=True)

    async def test_a_condemned_sandbox_is_never_lent_again(self, leases: LeaseSource) -> None:
        broken = await lend(leases, "a")
        await broken.condemn("It broke.")
        await broken.condemn("It broke again.")
        await broken.give_back(used=True)
        with pytest.raises(LeaseLostError):
            await broken.renew()
        lent = [await lend(leases, "b")]
        with suppress(LeaseError):
            lent.append(await lend(leases, "c", wait=1.0))
        assert broken.sandbox not in {lease.sandbox for lease in lent}
        for lease in lent:
            await lease.give_back(used=False)

    @pytest.mark.parametrize(("first", "second"), [("team", "others"), ("untrusted", "untrusted")])
    async def test_leftovers_never_meet_another_trust_key(self, leases: LeaseSource, first: str, second: str) -> None:
        """`untrusted` is another one each time."""
        used = await lend(leases, "a", first)
        await used.give_back(used=True)
        await used.give_back(used=True)
        lent = [await lend(leases, "b", second)]
        with suppress(LeaseError):
            lent.append(await lend(leases, "c", second, wait=1.0))
        assert used.sandbox not in {lease.sandbox for lease in lent}
        for lease in lent:
            await lease.give_back(used=False)

    async def test_one_that_nobody_used_is_fresh_for_anybody(self, leases: LeaseSource) -> None:
        for lease in [await lend(leases, "a"), await lend(leases, "b")]:
            await lease.give_back(used=False)
        for lease in [await lend(leases, "c", "others"), await lend(leases, "d", "untrusted")]:
            await lease.give_back(used=False)

    async def test_a_kill_is_not_the_end_of_the_lease(self, leases: LeaseSource) -> None:
        lease = await lend(leases, "a")
        await lease.kill()
        await lease.kill()
        await lease.renew()
        await lease.give_back(used=True)
