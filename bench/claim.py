"""What a claim costs while 10 to 100,000 jobs wait: milliseconds at the median, and how it grows.

python -m bench.claim
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from runner.store import queue
from runner.store.database import Database
from runner.store.jobs import Jobs
from runner.store.seal import Seal

DEPTHS = (10, 100, 1_000, 10_000, 100_000)
KEYS, CLAIMS = 20, 9


def fill(database: Database, depth: int) -> None:
    """Fill the queue with so many jobs, of all trust keys."""
    with database.transaction("The queue cannot be filled") as connection:
        for number in range(depth):
            row = connection.execute(
                "INSERT INTO job (id, state, submitted, priority, trust_key) VALUES (?, 'queued', 0, 0, ?)",
                (f"{number:032x}", f"key-{number % KEYS}"),
            )
            assert row.lastrowid
            if number < KEYS:
                queue.enter(connection, row.lastrowid)


def claim(depth: int) -> float:
    """Return the median milliseconds of one claim."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "runner.db")
        jobs = Jobs(database, Seal(Path(folder) / "key"))
        fill(database, depth)
        took = []
        for _ in range(CLAIMS):
            start = time.perf_counter()
            assert jobs.claim(CLAIMS)
            took.append((time.perf_counter() - start) * 1000)
        database.close()
    return statistics.median(took)


def main() -> None:
    """Measure and print."""
    costs = {depth: round(claim(depth), 3) for depth in DEPTHS}
    print(json.dumps({"claim_ms": costs, "growth": round(costs[DEPTHS[-1]] / costs[DEPTHS[0]], 2)}))


if __name__ == "__main__":
    main()
