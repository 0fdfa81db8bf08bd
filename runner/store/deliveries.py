"""The outbox of webhooks. A message enters it in the same transaction as the fact that it tells."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from runner.store.database import Database

_SHOWN: Final = 100
"""The most given-up messages to keep and show."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one receiver."""

    sequence: int
    job: str
    receiver: str = field(repr=False)
    body: bytes = field(repr=False)
    created: float
    """Seconds since the epoch."""
    tries: int
    """The number of failed tries."""
    due: float | None
    """When to send it; None when it was given up."""
    problem: str
    """The problem of the last try."""


def announce(connection: sqlite3.Connection, job: str, message: object, receivers: Collection[str]) -> None:
    """Add a message for each receiver, within the transaction of the fact that it tells."""
    now, body = time.time(), json.dumps(message).encode()
    connection.executemany(
        "INSERT INTO delivery (job, receiver, body, created, due) VALUES (?, ?, ?, ?, ?)",
        [(job, receiver, body, now, now) for receiver in receivers],
    )


class Deliveries:
    """The table of waiting messages. Every method blocks for as long as the disk takes, and raises StateError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, receiver: str, longest: float, limit: int) -> list[Delivery]:
        """Return the due messages to a receiver, the oldest first.

        No message waits longer than `longest` seconds: only a wrong clock can have written a later time.
        """
        now = time.time()
        rows = self._database.read(
            "SELECT * FROM delivery WHERE receiver = ? AND (due <= ? OR due > ?) ORDER BY sequence LIMIT ?",
            receiver,
            now,
            now + longest,
            limit,
        )
        return [_delivery(row) for row in rows]

    def next(self, receiver: str) -> float | None:
        """Return when the next message to a receiver is due; None when there is none."""
        found = self._database.read("SELECT min(due) FROM delivery WHERE receiver = ?", receiver)[0][0]
        return None if found is None else float(found)

    def delivered(self, delivery: Delivery) -> None:
        """Remove a message that was taken."""
        with self._database.transaction("The delivery cannot be written down", durable=False) as connection:
            connection.execute("DELETE FROM delivery WHERE sequence = ?", (delivery.sequence,))

    def failed(self, delivery: Delivery, problem: str, due: float | None) -> None:
        """Note a failed try: send the message again at `due`, or give it up if that is None."""
        with self._database.transaction("The delivery cannot be written down", durable=False) as connection:
            connection.execute(
                "UPDATE delivery SET tries = tries + 1, problem = ?, due = ? WHERE sequence = ?",
                (problem, due, delivery.sequence),
            )
            connection.execute(
                "DELETE FROM delivery WHERE due IS NULL AND sequence <= "
                "(SELECT sequence FROM delivery WHERE due IS NULL ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
                (_SHOWN,),
            )

    def give_up_older(self, seconds: float) -> int:
        """Give up old messages, also those for receivers that are gone; return how many."""
        with self._database.transaction("The deliveries cannot be given up", durable=False) as connection:
            return connection.execute(
                "UPDATE delivery SET due = NULL WHERE due IS NOT NULL AND created <= ?", (time.time() - seconds,)
            ).rowcount

    def in_trouble(self) -> list[Delivery]:
        """Return the messages with failed tries, the oldest first."""
        rows = self._database.read("SELECT * FROM delivery WHERE tries > 0 OR due IS NULL ORDER BY sequence LIMIT 1000")
        return [_delivery(row) for row in rows]


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        row["sequence"], row["job"], row["receiver"], row["body"], row["created"], row["tries"], row["due"],
        row["problem"],
    )  # fmt: skip
