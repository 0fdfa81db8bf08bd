"""How a database is, seen without being its service and without changing it: also while the service runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from runner.store.database import told
from runner.store.migrations import MIGRATIONS


@dataclass(frozen=True, slots=True)
class Condition:
    """What was seen of a database."""

    version: int
    known: int
    """Of its tables, and the newest that this runner knows."""
    complaint: str
    """What SQLite finds broken in it; empty when it is whole."""
    latest: float
    """When the last event was noted, in seconds since 1970; 0 when there is none."""


def condition_of(path: Path) -> Condition | None:
    """Return None when there is none yet. Reads all of it. Raises StateError."""
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
