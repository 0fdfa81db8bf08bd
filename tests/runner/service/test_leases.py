"""A lease that was asked for is never forgotten, wherever the runner dies."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from runner.errors import LeaseError, LeaseLostError
from runner.execution.lease import Access, Lease
from runner.service import leases as leases_module
from runner.service.leases import NotedLeases

pytestmark = pytest.mark.anyio


@dataclass
class Returned:
    """A lease that is asked for only to be returned."""

    attempt: str
    calls: list[str]
    sandbox: str = "sandbox-1"

    def __post_init__(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        self.access = Access(ours, "sandbox", "", "")

    async def give_back(self, *, used: bool) -> None:
        self.calls.append(f"give_back {self.attempt} used={used} closed={self.access.socket.fileno() == -1}")


@dataclass
class Source:
    """Says no where a test wants it, and sees what is on disk when it is asked."""

    path: Path
    gone: set[str] = field(default_factory=set)
    away: int = 0
    calls: list[str] = field(default_factory=list)
    on_disk: list[list[str]] = field(default_factory=list)

    async def lend(self, attempt: str, token: str, *rest: object) -> Lease:
        self.on_disk = json.loads(self.path.read_text())
        raise LeaseError("Lent to somebody else.")

    async def resume(self, attempt: str, token: str) -> Lease:
        if self.away:
            self.away -= 1
            raise LeaseError("No keeper answers.")
        if attempt in self.gone:
            raise LeaseLostError("It is over.")
        return cast(Lease, Returned(attempt, self.calls))


async def lend(noted: NotedLeases, attempt: str) -> None:
    with pytest.raises(LeaseError):
        await noted.lend(attempt, f"token-{attempt}", "default", "default", 1.0, 60.0)


async def test_the_token_is_on_disk_before_the_lease_is_asked_for(tmp_path: Path) -> None:
    source = Source(tmp_path / "leases.json")
    await lend(NotedLeases(source, source.path, 2), "a")
    assert source.on_disk == [["a", "token-a"]]
    assert source.path.stat().st_mode & 0o777 == 0o600


async def test_nothing_is_asked_for_that_cannot_be_noted(tmp_path: Path) -> None:
    source = Source(tmp_path / "missing" / "leases.json")
    with pytest.raises(LeaseError, match="cannot be noted"):
        await NotedLeases(source, source.path, 2).lend("a", "t", "default", "default", 1.0, 60.0)
    assert source.on_disk == []


async def test_the_next_life_returns_all_but_what_it_follows(tmp_path: Path) -> None:
    """The trap: a sandbox whose runner died before it wrote the marker stays leased for a day."""
    source = Source(tmp_path / "leases.json", gone={"c"})
    earlier = NotedLeases(source, source.path, 2)
    for attempt in "abcd":
        await lend(earlier, attempt)
    await NotedLeases(source, source.path, 2).return_earlier({"a"})
    assert source.calls == [f"give_back {attempt} used=True closed=True" for attempt in "bd"]


async def test_a_keeper_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "_INTERVAL", 0.0)
    source = Source(tmp_path / "leases.json", away=3)
    await lend(NotedLeases(source, source.path, 2), "a")
    await asyncio.wait_for(NotedLeases(source, source.path, 2).return_earlier(set()), 20)
    assert len(source.calls) == 1


async def test_what_was_not_returned_yet_is_still_known_to_the_life_after(tmp_path: Path) -> None:
    source = Source(tmp_path / "leases.json")
    await lend(NotedLeases(source, source.path, 2), "a")
    await lend(NotedLeases(source, source.path, 2), "b")
    await NotedLeases(source, source.path, 2).return_earlier(set())
    assert len(source.calls) == 2


async def test_the_file_does_not_grow_without_end(tmp_path: Path) -> None:
    source = Source(tmp_path / "leases.json")
    noted = NotedLeases(source, source.path, 1)
    for number in range(100):
        await lend(noted, str(number))
    assert source.on_disk[-1] == ["99", "token-99"]
    assert len(source.on_disk) == 16


@pytest.mark.parametrize("content", ["", "{", "{}", "7", '[["a"], ["b", 1], "cd", ["", "t"], [["a"], "t"], null]'])
async def test_a_file_that_is_none_of_ours_is_not_believed(tmp_path: Path, content: str) -> None:
    source = Source(tmp_path / "leases.json")
    source.path.write_text(content)
    noted: Any = NotedLeases(source, source.path, 1)
    await noted.return_earlier(set())
    assert source.calls == []
    await lend(noted, "a")
    assert source.on_disk == [["a", "token-a"]]
