"""Requested leases, with the tokens that resume them."""

from __future__ import annotations

from runner.store.database import Database
from runner.store.seal import Seal


class LeaseNotes:
    """The table of leases. Every method blocks for as long as the disk takes, and raises StateError."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal

    def all(self) -> list[tuple[str, str]]:
        """Return attempts and their tokens, oldest first. Skips an unreadable note: its lease runs out by itself."""
        found = []
        for row in self._database.read("SELECT attempt, token FROM lease ORDER BY sequence"):
            try:
                found.append((str(row["attempt"]), self._seal.open(row["token"], row["attempt"]).decode()))
            except ValueError:
                continue
        return found

    def note(self, attempt: str, token: str) -> None:
        """Note a request for a lease."""
        sealed = self._seal.close(token.encode(), attempt)
        with self._database.transaction("The lease cannot be noted") as connection:
            connection.execute("INSERT OR REPLACE INTO lease (attempt, token) VALUES (?, ?)", (attempt, sealed))

    def forget(self, attempt: str) -> None:
        """Remove the note of a lease that is over."""
        with self._database.transaction("The lease cannot be forgotten", durable=False) as connection:
            connection.execute("DELETE FROM lease WHERE attempt = ?", (attempt,))
