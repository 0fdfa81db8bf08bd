"""Takes a large log and prints the memory that it took. test_large_log.py runs it in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
from pathlib import Path

from runner.execution.attempt import run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.lease import Access
from runner.execution.log import Log
from runner.execution.options import Settings
from runner.job import Job
from tests.runner.conftest import FakeLeases


def peak_kib() -> int:
    """Return the most memory that this process ever had, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def main() -> None:
    """Run two scripts with what the first argument says, and print what came of the second."""
    given = json.loads(sys.argv[1])
    inherited = [socket.socket(fileno=number) for number in given["sockets"]]
    leases = FakeLeases(lambda: Access(inherited.pop(), given["user"], given["host_key"], given["client_key"]))
    settings = Settings(workspace=given["workspace"], attempts=given["attempts"])
    folder = Path(given["folder"])
    await run_attempt(leases, Job(b"true"), Log(folder / "small"), Cancellation(), settings=settings)
    before = peak_kib()
    log = Log(folder / "large")
    outcome = await run_attempt(leases, Job(given["script"].encode()), log, Cancellation(), settings=settings)
    after = peak_kib()
    with log.path.open("rb") as file:
        digest = hashlib.sha256()
        left = log.output
        while left:
            piece = file.read(min(left, 1 << 20))
            digest.update(piece)
            left -= len(piece)
    found = {"outcome": repr(outcome), "bytes": log.output, "sha256": digest.hexdigest()}
    print(json.dumps({**found, "grown_mib": (after - before) / 1024, "peak_mib": after / 1024}))


if __name__ == "__main__":
    asyncio.run(main())
