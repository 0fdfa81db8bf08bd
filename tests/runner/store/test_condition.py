"""The condition of a database as seen from outside: whole, damaged, newer, in use."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runner.errors import StateError
from runner.store.condition import condition_of
from runner.store.database import Database
from runner.store.migrations import MIGRATIONS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runner.db"


def test_one_in_use_is_whole(file: Path) -> None:
    assert condition_of(file) is None
    database = Database(file)
    with database.transaction("test") as writing:
        writing.execute("INSERT INTO job (id, state, submitted, priority, trust_key) VALUES ('a', 'queued', 1, 0, 'k')")
        writing.execute("INSERT INTO event (job, at, state) VALUES (1, 77.5, 'queued')")
        seen_by_others = condition_of(file)
    assert seen_by_others is not None
    assert seen_by_others.latest == 0.0
    found = condition_of(file)
    assert found is not None
    assert (found.version, found.known, found.complaint, found.latest) == (len(MIGRATIONS), len(MIGRATIONS), "", 77.5)
    database.close()
    assert condition_of(file) == found


def test_a_newer_one_is_told_by_its_version(file: Path) -> None:
    Database(file).close()
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA user_version=999")
    raw.close()
    found = condition_of(file)
    assert found is not None
    assert (found.version, found.known) == (999, len(MIGRATIONS))


def test_a_damaged_one_is_told(file: Path) -> None:
    Database(file).close()
    content = bytearray(file.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    file.write_bytes(content)
    found = condition_of(file)
    assert found is not None
    assert found.complaint.startswith("*** in database main ***")
    assert "\n" not in found.complaint


def test_what_is_no_database_is_told(file: Path) -> None:
    file.write_text("something else" * 1000)
    with pytest.raises(StateError, match="is no database"):
        condition_of(file)
