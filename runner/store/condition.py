"""The condition of a database, found without changing it, also while its service runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from runner.store.database import told
from runner.store.migrations import MIGRATIONS


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a database."""

    version: int
    known: int
    """The version of its tables, and the newest version that this runner knows."""
    complaint: str
    """The damage that SQLite finds; empty when the database is whole."""
    latest: float
    """The time of the last event in seconds since the epoch; 0 when there is none."""


def condition_of(path: Path) -> Condition | None:
    """Return the condition of a database, or None if it does not exist. Reads all of it. Raises StateError."""
    with told(f"The database {path} cannot be read"):
        if not path.exists():
            return None
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as database:
            [version] = database.execute("PRAGMA user_version").fetchone()
            [said] = database.execute("PRAGMA quick_check(1)").fetchone()
            latest = database.execute("SELECT at FROM event ORDER BY sequence DESC LIMIT 1").fetchone()
    return Condition(
        version, len(MIGRATIONS), "" if said == "ok" else " ".join(said.split()), latest[0] if latest else 0.0
    )
