"""Log throughput: a large log through the runner into its file, against OpenSSH's client into a file.

    python -m bench.log_throughput --host … --host-key … --client-key …

Both write the same bytes, made by the same command in the sandbox, to the same folder, in turn. Prints one line of JSON
and one for people. The goal is a ratio of at least 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.access import Target, openssh, parser
from runner.execution.attempt import run
from runner.execution.cancellation import Cancellation
from runner.execution.log import Log
from runner.execution.prepare import prepare
from runner.job import Job
from runner.outcome import Succeeded
from runner.placement import Wanted

MB = 1_000_000


def producer(megabytes: int) -> str:
    """Return the command that writes the log from memory, so that no disk in the sandbox takes part."""
    return f"head -c {megabytes * MB} /dev/zero"


async def through_runner(target: Target, megabytes: int, folder: Path) -> float:
    """Return MB/s from the request to the outcome."""
    prepared = await prepare(target, Wanted("bench"), settings=target.settings())
    log = Log(folder / "runner.log")
    start = time.perf_counter()
    outcome = await run(prepared, Job(producer(megabytes).encode()), log, Cancellation())
    seconds = time.perf_counter() - start
    assert outcome == Succeeded(), outcome
    assert log.output == megabytes * MB
    log.close("Measured.")
    log.path.unlink()
    return megabytes / seconds


def through_openssh(given: argparse.Namespace, megabytes: int, folder: Path) -> float:
    """Return MB/s of OpenSSH's client on an open connection.

    It also removes what earlier rounds left in the sandbox, so that every round finds the same memory free.
    """
    command = openssh(folder, given.port, given.user, given.host_key.read_text(), given.client_key)
    command += ["-o", f"ControlPath={folder / 'control'}"]
    subprocess.run(
        [*command, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", given.host, f"rm -rf {given.attempts}/*"],
        check=True,
    )
    output = folder / "openssh.log"
    with output.open("wb") as file:
        start = time.perf_counter()
        subprocess.run([*command, given.host, producer(megabytes)], stdout=file, check=True)
        seconds = time.perf_counter() - start
    assert output.stat().st_size == megabytes * MB
    output.unlink()
    subprocess.run([*command, "-O", "exit", given.host], check=True, stderr=subprocess.DEVNULL)
    return megabytes / seconds


async def measure(given: argparse.Namespace) -> dict[str, float]:
    """Measure both in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for _ in range(given.rounds):
            theirs.append(await asyncio.to_thread(through_openssh, given, given.megabytes, Path(folder)))
            ours.append(await through_runner(Target(given), given.megabytes, Path(folder)))
    runner, openssh = statistics.median(ours), statistics.median(theirs)
    return {"runner_mb_s": round(runner), "openssh_mb_s": round(openssh), "ratio": round(runner / openssh, 2)}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser("Log throughput of the runner against OpenSSH.")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--megabytes", type=int, default=1000)
    arguments.add_argument("--folder", type=Path, help="where the logs are written; default: the temporary folder")
    given = arguments.parse_args(words)
    numbers = asyncio.run(measure(given))
    print(json.dumps({"bench": "log_throughput", "megabytes": given.megabytes, "rounds": given.rounds, **numbers}))
    print(
        f"{given.megabytes} MB of log: {numbers['runner_mb_s']} MB/s through the runner, "
        f"{numbers['openssh_mb_s']} MB/s through OpenSSH's client: {numbers['ratio']} times as fast; the goal is 1."
    )


if __name__ == "__main__":
    main()
