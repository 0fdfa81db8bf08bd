"""Expired sandboxes are ended, and the host's own tables tell who is connected."""

import os
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import pytest

from sandbox.adhoc import reaper
from sandbox.adhoc.record import Record
from sandbox.adhoc.store import Store
from sandbox.errors import EngineError
from tests.sandbox.adhoc.records import record

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100D50A:A1B2 0200D50A:0016 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 20 4 30 10 -1
   1: 0100007F:A1B2 0100007F:0017 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 20 4 30 10 -1
   2: 0900D50A:A1B2 0A00D50A:0016 06 00000000:00000000 03:00000F00 00000000     0        0 0 3 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 0000000000000000FFFF00000100D50A:A1B2 0000000000000000FFFF00000300D50A:0016 01 00000000:00000000 00:00000000
"""


def test_who_is_connected_is_read_from_the_kernels_tables(tmp_path: Path) -> None:
    """IPv4, IPv4 by an IPv6 socket, and what ended within the last minute; other ports are nothing of ours."""
    for name, text in (("tcp", TCP), ("tcp6", TCP6)):
        (tmp_path / name).write_text(text)
    found = reaper.last_connected([tmp_path / "tcp", tmp_path / "tcp6", tmp_path / "not-there"])
    ago = 60 - 0xF00 / 100
    assert found == {IPv4Address("10.213.0.2"): 0, IPv4Address("10.213.0.10"): ago, IPv4Address("10.213.0.3"): 0}


def test_the_kernels_own_tables_can_be_read() -> None:
    assert all(0 <= ago <= 60 for ago in reaper.last_connected().values())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def test_what_is_over_goes_and_the_rest_stays(store: Store) -> None:
    now = time.time()
    store.claim(record(store, "old", 1, ends=now - 1))
    store.claim(record(store, "young", 2))
    removed: list[str] = []
    reaper.sweep(store, lambda one: removed.append(one.name))
    assert removed == ["old"]


def test_one_that_will_not_go_keeps_no_other(store: Store) -> None:
    for number in (1, 2, 3):
        store.claim(record(store, f"old{number}", number, ends=time.time() - 1))
    removed: list[str] = []

    def remove(one: Record) -> None:
        if one.name == "old1":
            raise EngineError("It hangs.")
        removed.append(one.name)

    with pytest.raises(EngineError, match="hangs"):
        reaper.sweep(store, remove)
    assert removed == ["old2", "old3"]


def test_idle_is_judged_only_where_connections_are_seen(store: Store) -> None:
    """The trap: from another network namespace than its user's, every sandbox would look idle."""
    removed: list[str] = []

    def look() -> list[str]:
        os.utime(store.folder / "mine.json", (1000, 1000))
        reaper.sweep(store, lambda one: removed.append(one.name))
        return removed

    store.claim(record(store, network=1))
    assert look() == []
    store.change(record(store), lambda _: record(store))
    assert look() == ["mine"]


class _Engine(NamedTuple):
    """Has one sandbox."""

    there: str
    removed: list[str]

    def names(self, _installation: str) -> set[str]:
        return {self.there}

    def remove(self, _installation: str, name: str) -> None:
        self.removed.append(name)


@pytest.mark.parametrize("readable", [True, False])
def test_a_sandbox_whose_record_cannot_be_read_is_no_stranger(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], readable: bool
) -> None:
    """Somebody works in it; another version wrote its record."""
    mine = record(store, unwalled="They are not tested here.")
    store.claim(mine)
    if not readable:
        (store.folder / "mine.json").write_text("{}")
    engine = _Engine(str(mine.sandbox), [])
    monkeypatch.setattr(reaper, "Engine", lambda: engine)
    monkeypatch.setattr(reaper, "INTERVAL", 0.01)
    monkeypatch.setattr(reaper, "GIVES_UP", 0.2)
    monkeypatch.setattr(sys, "argv", ["reaper", str(store.folder)])
    if readable:
        monkeypatch.setattr(reaper, "sweep", lambda *_: store.drop(mine))  # it goes on for as long as there is one
    reaper.main()
    assert engine.removed == []
    assert ("mine.json" in capsys.readouterr().err) is not readable
