"""The order of jobs: the highest priority first, then each trust key in turn, then the oldest job of that key.

The waiting jobs of one trust key and one priority are a lane. Lanes take turns: a lane that was served, or that has
jobs again, goes behind all others. So a key with thousands of jobs delays another one's by one job for each slot, and a
client that always uses new keys passes nobody. The time that a function takes depends on the number of lanes whose key
is at its limit, never on the number of jobs.

The functions work within a transaction of the caller.
"""

from __future__ import annotations

import sqlite3


def enter(connection: sqlite3.Connection, number: int) -> None:
    """Put the lane of a waiting job into the queue, unless it is there."""
    priority, trust_key = _lane(connection, number)
    connection.execute(
        f"INSERT INTO lane VALUES (?, ?, {_BEHIND_ALL}) ON CONFLICT DO NOTHING",  # noqa: S608 - a constant of ours
        (priority, trust_key),
    )


def first(connection: sqlite3.Connection, per_key: int) -> int | None:
    """Return the next job, or None when no job may start; `per_key` is the most jobs of one trust key at once."""
    found = connection.execute(
        """
        SELECT (SELECT number FROM job WHERE state = 'queued'
                AND job.priority = lane.priority AND job.trust_key = lane.trust_key ORDER BY number LIMIT 1)
        FROM lane WHERE trust_key NOT IN (
            SELECT trust_key FROM job WHERE state IN ('starting', 'running')
            GROUP BY trust_key HAVING count(*) >= ?
        ) ORDER BY priority DESC, turn LIMIT 1
        """,
        (per_key,),
    ).fetchone()
    return int(found[0]) if found else None


def leave(connection: sqlite3.Connection, number: int, *, served: bool) -> None:
    """Note that a job waits no more. Its lane goes behind all others if the job was `served`, and away if empty."""
    lane = _lane(connection, number)
    waiting = connection.execute(
        "SELECT 1 FROM job WHERE state = 'queued' AND priority = ? AND trust_key = ? LIMIT 1", lane
    ).fetchone()
    if not waiting:
        connection.execute("DELETE FROM lane WHERE priority = ? AND trust_key = ?", lane)
    elif served:
        connection.execute(
            f"UPDATE lane SET turn = {_BEHIND_ALL} WHERE priority = ? AND trust_key = ?",  # noqa: S608 - as above
            lane,
        )


_BEHIND_ALL = "(SELECT coalesce(max(turn), 0) + 1 FROM lane)"


def _lane(connection: sqlite3.Connection, number: int) -> tuple[int, str]:
    row = connection.execute("SELECT priority, trust_key FROM job WHERE number = ?", (number,)).fetchone()
    return int(row["priority"]), str(row["trust_key"])
