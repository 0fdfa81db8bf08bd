"""A consistent copy of a service's database, whether the service runs or not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from runner.store.database import told
from runner.store.migrations import MIGRATIONS

VERSION = len(MIGRATIONS)
"""The version of the tables that this runner makes. It also reads older ones."""


def copy(source: Path, target: Path) -> int:
    """Copy a database, as it is at one moment, into one new file. Returns its version. Raises StateError.

    The copy changes nothing, whichever version of the runner uses the database.
    """
    with (
        told(f"The database {source} cannot be copied"),
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode=DELETE")  # else the copy needs the files beside it
        return int(writer.execute("PRAGMA user_version").fetchone()[0])


def recorded(database: Path) -> dict[str, int]:
    """Return the length of each job's log in a copy at its end, or when it was started again. Raises StateError."""
    with told(f"The database {database} cannot be read"), closing(sqlite3.connect(database)) as reader:
        rows = reader.execute("SELECT id, output + length(CAST(closing AS BLOB)) FROM job WHERE output IS NOT NULL")
        return {str(job_id): int(size) for job_id, size in rows}
