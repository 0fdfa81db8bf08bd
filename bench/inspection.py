"""Inspection: gathering and judging what a job left, against `docker diff` of the same container.

The fresh login and the freezing are not included. Measured after nothing at all, and after a job that wrote so many
files: the cost grows with the changes, not with the image. The goal is 50 ms after a small job.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

from bench.recreate import DEADLINE, docker
from sandbox.inspection import inspector
from sandbox.keeper.builder import Built


def milliseconds(act: Callable[[], object], rounds: int) -> float:
    """Return the median of several rounds."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took)


def measure(sandbox: Built, files: int, rounds: int) -> dict[str, float]:
    """Measure both after a job that wrote so many files where no job should."""
    script = f"mkdir -p /opt/bench && cd /opt/bench && seq {files} | xargs -r touch"
    docker("exec", sandbox.container_id, "bash", "-c", script)
    ours = milliseconds(lambda: inspector.inspect(sandbox.evidence, time.monotonic() + DEADLINE), rounds)
    diff = milliseconds(lambda: docker("diff", sandbox.container_id), rounds)
    return {"files": files, "inspection_ms": round(ours), "docker_diff_ms": round(diff), "ratio": round(ours / diff, 2)}


def report(sandbox: Built, rounds: int) -> None:
    """Measure and print."""
    for files in (0, 1000, 10_000):
        numbers = measure(sandbox, files, rounds)
        print(json.dumps({"bench": "inspection", "rounds": rounds, **numbers}))
        print(
            f"After a job that wrote {files} files: looked at and judged in {numbers['inspection_ms']} ms, "
            f"{numbers['ratio']} times what `docker diff` takes; the goal after a small job is 50 ms."
        )
