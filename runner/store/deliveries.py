"""What is still to be told to others: the outbox of webhooks. A message comes into it together with what it tells."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from runner.store.database import Database

_SHOWN: Final = 100
"""Messages that were given up and are still shown."""


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
    """How often it was sent in vain."""
    due: float | None
    """When it is to be sent; None when it was given up."""
    problem: str
    """What was wrong the last time."""


def announce(connection: sqlite3.Connection, job: str, message: object, receivers: Collection[str]) -> None:
    """Have a message to all receivers, within the transaction of what it tells."""
    now, body = time.time(), json.dumps(message).encode()
    connection.executemany(
        "INSERT INTO delivery (job, receiver, body, created, due) VALUES (?, ?, ?, ?, ?)",
        [(job, receiver, body, now, now) for receiver in receivers],
    )


class Deliveries:
    """The table of messages that wait. Every method blocks for as long as the disk takes, and raises StateError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, receiver: str, longest: float, limit: int) -> list[Delivery]:
        """The messages to a receiver whose time has come, the oldest first.

        None waits for longer than `longest` seconds: what is due later than that was written by a clock that was wrong.
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
        """When the next message to a receiver is due; None when there is none."""
        found = self._database.read("SELECT min(due) FROM delivery WHERE receiver = ?", receiver)[0][0]
        return None if found is None else float(found)

    def delivered(self, delivery: Delivery) -> None:
        """It was taken."""
        with self._database.transaction("The delivery cannot be written down", durable=False) as connection:
            connection.execute("DELETE FROM delivery WHERE sequence = ?", (delivery.sequence,))

    def failed(self, delivery: Delivery, problem: str, due: float | None) -> None:
        """It was sent in vain: try again then, or give it up with None."""
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
        """Give up what nobody takes, also of receivers that are not there any more; return how many messages."""
        with self._database.transaction("The deliveries cannot be given up", durable=False) as connection:
            return connection.execute(
                "UPDATE delivery SET due = NULL WHERE due IS NOT NULL AND created <= ?", (time.time() - seconds,)
            ).rowcount

    def in_trouble(self) -> list[Delivery]:
        """The messages that were sent in vain, the oldest first."""
        rows = self._database.read("SELECT * FROM delivery WHERE tries > 0 OR due IS NULL ORDER BY sequence LIMIT 1000")
        return [_delivery(row) for row in rows]


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        row["sequence"], row["job"], row["receiver"], row["body"], row["created"], row["tries"], row["due"],
        row["problem"],
    )  # fmt: skip
