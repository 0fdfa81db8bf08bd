"""A stream of trivial jobs by one client, on one sandbox at work and two to spare: do they wait for inspections?

A sandbox that comes back is inspected before it is lent again. Prints how many jobs found a sandbox ready, and how long
a lease took: back to back, and at the pace of a client that starts `runner run` for each job (0.6 s of processor time).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.access import WHERE
from bench.recreate import DEADLINE, until
from runner.execution.attempt import run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.log import Log
from runner.execution.options import Note
from runner.job import Job
from runner.keeper_leases import KeeperLeases
from runner.outcome import Succeeded
from sandbox.errors import KeeperError
from sandbox.keeper.client import KeeperClient
from sandbox.places import SOCKET_IN_RUN_FOLDER
from sandbox.state import State

SANDBOXES = 3
PACES = {"back to back": 0.0, "a job every 0.6 s": 0.6}


@contextmanager
def keeper(folder: Path) -> Iterator[KeeperClient]:
    """Run a keeper with every sandbox ready."""
    command = [
        *WHERE,
        sys.executable,
        "-m",
        "sandbox.entry",
        "keeper",
        "--run-folder",
        f"{folder}/run",
        "--home",
        f"{folder}/home",
    ]
    with (folder / "keeper.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "SANDBOX_WARM": str(SANDBOXES)}, stderr=log)
    client = KeeperClient(folder / "run" / SOCKET_IN_RUN_FOLDER)
    try:
        until(lambda: ready(client) == SANDBOXES)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def ready(client: KeeperClient) -> int:
    """Return how many sandboxes can be lent now."""
    try:
        return sum(sandbox.state is State.READY for sandbox in client.listing().sandboxes)
    except KeeperError:
        return 0


class Stream:
    """The observations of a stream of jobs."""

    def __init__(self, client: KeeperClient, folder: Path) -> None:
        self._client = client
        self._leases = KeeperLeases(folder / "run" / SOCKET_IN_RUN_FOLDER)
        self._folder = folder
        self.found_ready: list[bool] = []
        self.lend_ms: list[float] = []

    def run(self, jobs: int, pace: float) -> None:
        """Run so many jobs, beginning at most one every `pace` seconds."""
        for number in range(jobs):
            began = time.monotonic()
            self.found_ready.append(ready(self._client) > 0)
            log = Log(self._folder / f"{pace}-{number}")
            asyncio.run(self._job(log))
            log.close("Measured.")
            time.sleep(max(0.0, began + pace - time.monotonic()))

    async def _job(self, log: Log) -> None:
        at: dict[str, float] = {}

        def tell(note: Note) -> None:
            at.setdefault(note.action, time.perf_counter())

        outcome = await run_attempt(self._leases, Job(b"true", trust_key="bench"), log, Cancellation(), notes=tell)
        assert outcome == Succeeded(), outcome
        self.lend_ms.append((at["leased"] - at["lending"]) * 1000)


def measure(client: KeeperClient, folder: Path, jobs: int, pace: float) -> dict[str, float]:
    """Measure one stream."""
    stream, began = Stream(client, folder), time.monotonic()
    stream.run(jobs, pace)
    cuts = statistics.quantiles(stream.lend_ms, n=100, method="inclusive")
    return {
        "jobs_per_s": round(jobs / (time.monotonic() - began), 1),
        "found_ready": round(statistics.mean(stream.found_ready), 2),
        "lend_p50_ms": round(cuts[49]),
        "lend_p99_ms": round(cuts[98]),
    }


def report(jobs: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, keeper(Path(name)) as client:
        for what, pace in PACES.items():
            numbers = measure(client, Path(name), jobs, pace)
            print(json.dumps({"bench": "stream", "stream": what, "sandboxes": SANDBOXES, "jobs": jobs, **numbers}))
            print(
                f"{jobs} trivial jobs, {what}, on {SANDBOXES} sandboxes: {numbers['found_ready']:.0%} found one ready; "
                f"a lease took {numbers['lend_p50_ms']} ms (p50) and {numbers['lend_p99_ms']} ms (p99)."
            )


if __name__ == "__main__":
    report(jobs=40)
