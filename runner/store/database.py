"""The database: one file, one writer at a time, and every promise on disk before anybody is told.

SQLite in write-ahead mode. A transaction that returned is on disk (`synchronous=FULL`) unless it asked for less. Nobody
ever sees half a transaction, whichever process is killed when (https://sqlite.org/atomiccommit.html).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from runner.errors import StateBusyError, StateError
from runner.store.migrations import MIGRATIONS

APPLICATION_ID: Final = 0x72756E6E
"""Marks the file as ours in its header: `runn`."""
_BUSY: Final = 2000
"""Milliseconds to wait while another program holds the database."""
_WAL: Final = 4 * 1024 * 1024
"""Bytes that the write-ahead log may keep on disk while it is empty."""
_CAUSES: Final = {
    "SQLITE_FULL": "No space left on device. Make room in the state folder.",
    "SQLITE_IOERR": "The disk failed, or it is full. Look at the disk of the state folder.",
    "SQLITE_BUSY": "Another program holds the database locked. Close it.",
    "SQLITE_LOCKED": "Another program holds the database locked. Close it.",
    "SQLITE_READONLY": "The state folder is read-only. Make it writable.",
    "SQLITE_CANTOPEN": "The database cannot be opened. Look at the state folder and who may read it.",
    "SQLITE_CORRUPT": "The database is damaged. Move the state folder away and start anew.",
    "SQLITE_NOTADB": "The file is no database. Move the state folder away and start anew.",
}
"""Causes and next steps, by SQLite's names of errors."""


class Database:
    """The connection to one database. Any thread may use it; each call blocks for as long as the disk takes.

    Every method raises StateError, whose sentence begins with what could not be done.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database, and migrate it to this version."""
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self.on_failure: Callable[[], object] = lambda: None
        """Called for each failure, on the thread that met it."""
        with told(f"The database {path} cannot be used"):
            self._writer = _connect(path)
            path.chmod(0o600)  # the files beside it get the same mode
            _check(self._writer, path)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute(f"PRAGMA journal_size_limit={_WAL}")
            self._writer.execute("PRAGMA secure_delete=ON")
            self._writer.execute("PRAGMA foreign_keys=ON")
            _migrate(self._writer)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only=ON")

    @contextmanager
    def transaction(self, purpose: str, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Do all of the block or nothing. `purpose` says what could not be done if it fails.

        Without `durable`, a crash of the host may undo the transaction and all later ones.
        """
        with self._writing, self._counted(), told(purpose):
            self._writer.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def read(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Return the rows of a SELECT. Never waits for a writer."""
        with self._reading, self._counted(), told("The state cannot be read"):
            return self._reader.execute(statement, values).fetchall()

    def try_writing(self) -> None:
        """Check that the database can be written, by writing a value that is there already."""
        with self.transaction("The state folder cannot be written", durable=False) as connection:
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except StateError:
            self.on_failure()
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY / 1000, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file of another program or of another version of this one."""
    version, owner = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return
    if owner != APPLICATION_ID:
        raise StateError(f"The database {path} belongs to another program. Give the runner a state folder of its own.")
    if version > len(MIGRATIONS):
        raise StateError(
            f"The database {path} was written by a newer runner (version {version} of its tables, this one knows "
            f"{len(MIGRATIONS)}). Start that version, or give this one another state folder."
        )


def _migrate(connection: sqlite3.Connection) -> None:
    done = _pragma(connection, "user_version")
    for number, statements in enumerate(MIGRATIONS[done:], start=done + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in (
            *statements,
            f"PRAGMA application_id={APPLICATION_ID}",
            f"PRAGMA user_version={number}",
            "COMMIT",
        ):
            connection.execute(statement)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: Any = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return int(value)


@contextmanager
def told(purpose: str) -> Iterator[None]:
    """Turn the errors of the block into StateError, which begins with what could not be done."""
    try:
        yield
    except sqlite3.Error as error:
        busy = _name(error).startswith("SQLITE_BUSY")
        raise (StateBusyError if busy else StateError)(f"{purpose}: {_cause(error)}") from error
    except OSError as error:
        raise StateError(f"{purpose}: {error.strerror}. Look at the state folder.") from error


def _cause(error: sqlite3.Error) -> str:
    known = [cause for kind, cause in _CAUSES.items() if _name(error).startswith(kind)]
    return known[0] if known else f"{error}. This is a defect; please report it."


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
