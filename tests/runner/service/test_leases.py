"""A lease that was asked for is never forgotten, wherever the runner dies."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runner.errors import LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution import overdue_leases
from runner.execution.lease import Access, Lease, LeaseHandle
from runner.execution.options import Settings
from runner.execution.prepare import prepare
from runner.placement import ONLY_DEFAULT, Profiles, Wanted
from runner.service.leases import NotedLeases
from tests.runner.conftest import FakeLeases, away, lose
from tests.runner.service.state import State, locked
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


@dataclass
class Returned:
    """What ends a lease of the source."""

    source: Source
    attempt: str

    async def kill(self) -> None:
        raise NotImplementedError

    async def condemn(self, reason: str) -> None:
        raise NotImplementedError

    async def give_back(self, *, used: bool) -> None:
        if self.attempt in self.source.deaf:
            raise LeaseError("It does not answer.")
        if self.source.away:
            self.source.away -= 1
            raise LeaseError("No keeper answers.")
        if self.attempt in self.source.gone:
            raise LeaseLostError("It is over.")
        self.source.calls.append(f"give_back {self.attempt} used={used}")


@dataclass
class Source:
    """Says no where a test wants it, and sees what is on disk when it is asked."""

    folder: Path
    gone: set[str] = field(default_factory=set)
    away: int = 0
    deaf: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    on_disk: list[tuple[str, str]] = field(default_factory=list)

    async def profiles(self) -> Profiles:
        return ONLY_DEFAULT

    async def lend(self, attempt: str, token: str, *rest: object) -> Lease:
        self.on_disk = State(self.folder).leases.all()
        raise LeaseError("Lent to somebody else.")

    async def resume(self, attempt: str, token: str) -> Lease:
        raise LeaseError("Its sandbox does not answer.")

    def handle(self, attempt: str, token: str) -> LeaseHandle:
        return Returned(self, attempt)


async def lend(noted: NotedLeases, attempt: str) -> None:
    with pytest.raises(LeaseError):
        await noted.lend(attempt, f"token-{attempt}", "default", "default", 1.0, 60.0)


async def test_the_token_is_on_disk_before_the_lease_is_asked_for(tmp_path: Path) -> None:
    source = Source(tmp_path)
    await lend(NotedLeases(source, State(tmp_path).leases), "a")
    assert source.on_disk == [("a", "token-a")]
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"token-a" not in path.read_bytes()


async def test_nothing_is_asked_for_that_cannot_be_noted(tmp_path: Path) -> None:
    source = Source(tmp_path)
    noted = NotedLeases(source, State(tmp_path).leases)
    with locked(tmp_path), pytest.raises(LeaseError, match="cannot be noted"):
        await noted.lend("a", "t", "default", "default", 1.0, 60.0)
    assert source.on_disk == []


async def test_the_next_life_returns_all_but_what_it_follows(tmp_path: Path) -> None:
    """The trap: a sandbox whose runner died before it wrote the marker stays leased for a day."""
    source = Source(tmp_path, gone={"c"})
    earlier = NotedLeases(source, State(tmp_path).leases)
    for attempt in "abcd":
        await lend(earlier, attempt)
    await NotedLeases(source, State(tmp_path).leases).return_earlier({"a"})
    assert source.calls == [f"give_back {attempt} used=True" for attempt in "bd"]


async def test_what_somebody_else_goes_on_with_is_not_returned(tmp_path: Path) -> None:
    """A GitLab job keeps its own note of a sandbox that the service had taken in advance."""
    source = Source(tmp_path)
    for attempt in "ab":
        await lend(NotedLeases(source, State(tmp_path).leases), attempt)
    next_life = NotedLeases(source, State(tmp_path).leases)
    next_life.keep({"a"})
    await next_life.return_earlier(set())
    assert source.calls == ["give_back b used=True"]


async def test_a_keeper_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue_leases, "INTERVAL", 0.0)
    source = Source(tmp_path, away=3)
    await lend(NotedLeases(source, State(tmp_path).leases), "a")
    await asyncio.wait_for(NotedLeases(source, State(tmp_path).leases).return_earlier(set()), 20)
    assert len(source.calls) == 1


async def test_one_that_cannot_be_returned_holds_up_no_other(tmp_path: Path) -> None:
    """The trap: those after it were kept for a day."""
    source = Source(tmp_path, deaf={"a"})
    for attempt in "abc":
        await lend(NotedLeases(source, State(tmp_path).leases), attempt)
    returning = asyncio.create_task(NotedLeases(source, State(tmp_path).leases).return_earlier(set()))
    await eventually(lambda: sorted(source.calls) == ["give_back b used=True", "give_back c used=True"])
    await eventually(lambda: [attempt for attempt, _ in State(tmp_path).leases.all()] == ["a"])
    returning.cancel()


async def test_what_was_not_returned_yet_is_still_known_to_the_life_after(tmp_path: Path) -> None:
    source = Source(tmp_path)
    await lend(NotedLeases(source, State(tmp_path).leases), "a")
    await lend(NotedLeases(source, State(tmp_path).leases), "b")
    await NotedLeases(source, State(tmp_path).leases).return_earlier(set())
    assert len(source.calls) == 2
    assert State(tmp_path).leases.all() == []


def nowhere() -> Access:
    """A way in that nobody uses."""
    return Access(socket.socket(), "sandbox", "", "")


async def test_a_note_lasts_as_long_as_its_lease(tmp_path: Path) -> None:
    """The trap: only the newest were kept, and a job of hours that ended beside a keeper's upgrade left its sandbox."""
    source, notes = FakeLeases(nowhere), State(tmp_path).leases
    noted = NotedLeases(source, notes)

    async def lend(attempt: str) -> Lease:
        lease = await noted.lend(attempt, f"token-{attempt}", "default", "default", 1.0, 60.0)
        lease.access.socket.close()
        return lease

    long = await lend("long")
    for number in range(40):
        short = await lend(str(number))
        await (short.condemn("It broke.") if number % 2 else short.give_back(used=True))
    assert notes.all() == [("long", "token-long")]
    source.trouble["give_back"] = away
    with pytest.raises(LeaseUnreachableError):
        await long.give_back(used=True)
    assert notes.all() == [("long", "token-long")]
    source.trouble["give_back"] = lose
    with pytest.raises(LeaseLostError):
        await long.give_back(used=True)
    assert notes.all() == []
    source.trouble.clear()
    lent = await lend("resumed"), await lend("by its token")
    resumed = await noted.resume("resumed", "token-resumed")
    resumed.access.socket.close()
    await resumed.give_back(used=True)
    await noted.handle(lent[1].attempt, "token-by its token").condemn("It broke.")
    assert notes.all() == []


async def test_a_request_that_came_to_nothing_leaves_no_note(tmp_path: Path) -> None:
    notes = State(tmp_path).leases
    noted = NotedLeases(FakeLeases(nowhere, {"lend": away}), notes)
    with pytest.raises(LeaseUnreachableError):
        await prepare(noted, Wanted("default"), settings=Settings(source_deadline=0.0, patience=60.0))
    await eventually(lambda: notes.all() == [])


async def test_a_note_that_cannot_be_read_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    source = Source(tmp_path)
    noted = NotedLeases(source, State(tmp_path).leases)
    for attempt in "ab":
        await lend(noted, attempt)
    with State(tmp_path).database.transaction("test") as connection:
        connection.execute("UPDATE lease SET token = x'00' WHERE attempt = 'a'")
    await NotedLeases(source, State(tmp_path).leases).return_earlier(set())
    assert source.calls == ["give_back b used=True"]
