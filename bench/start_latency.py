"""Start latency: a warm job, from the request to its outcome, against a raw warm `true` over SSH.

    python -m bench.start_latency --host … --host-key … --client-key …

Both are measured in turn on the same server, each on a connection that stands: the raw command opens a channel on it,
the job goes to a launcher that waits. Prints one line of JSON and one for people. The goal is a difference of at most
6 ms at the median.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from bench.access import Target, parser
from runner.execution.attempt import run
from runner.execution.cancellation import Cancellation
from runner.execution.log import Log
from runner.execution.prepare import prepare
from runner.job import Job
from runner.outcome import Succeeded
from runner.placement import Wanted


async def raw_command(connection: asyncssh.SSHClientConnection) -> float:
    """Return the milliseconds of one raw command on an open connection."""
    start = time.perf_counter()
    result = await connection.run("true")
    assert result.exit_status == 0
    return (time.perf_counter() - start) * 1000


async def warm_job(target: Target, path: Path) -> float:
    """Return the milliseconds of one job on a prepared sandbox, from the request to the returned outcome."""
    prepared = await prepare(target, Wanted("bench"), settings=target.settings())
    start = time.perf_counter()
    log = Log(path)
    outcome = await run(prepared, Job(b"true\n"), log, Cancellation())
    log.close("Measured.")
    assert outcome == Succeeded(), outcome
    return (time.perf_counter() - start) * 1000


async def measure(target: Target, rounds: int) -> dict[str, float]:
    """Measure both in turn."""
    raw: list[float] = []
    job: list[float] = []
    access = target.access()
    connection = await asyncssh.connect(
        "sandbox",
        sock=access.socket,
        config=None,
        username=access.user,
        known_hosts=([asyncssh.import_public_key(access.host_key)], [], []),
        client_keys=[asyncssh.import_private_key(access.client_key)],
        agent_path=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 3):
            raw.append(await raw_command(connection))
            job.append(await warm_job(target, Path(folder, str(number))))
    connection.close()
    return summary(raw[3:], job[3:])


def summary(raw: list[float], job: list[float]) -> dict[str, float]:
    """Return medians and 99th percentiles in milliseconds."""
    numbers = {
        "raw_p50_ms": statistics.median(raw),
        "job_p50_ms": statistics.median(job),
        "raw_p99_ms": statistics.quantiles(raw, n=100)[98],
        "job_p99_ms": statistics.quantiles(job, n=100)[98],
    }
    numbers["difference_p50_ms"] = numbers["job_p50_ms"] - numbers["raw_p50_ms"]
    return {name: round(value, 2) for name, value in numbers.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser("Start latency of a warm job.")
    arguments.add_argument("--rounds", type=int, default=100)
    given = arguments.parse_args(words)
    numbers = asyncio.run(measure(Target(given), given.rounds))
    print(json.dumps({"bench": "start_latency", "rounds": given.rounds, **numbers}))
    print(
        f"A warm job took {numbers['job_p50_ms']} ms, a raw command {numbers['raw_p50_ms']} ms (medians): "
        f"{numbers['difference_p50_ms']} ms apart; the goal is 6."
    )


if __name__ == "__main__":
    main()
