"""Whether the promises held, judged by the clients' observations. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.soak.plan import COSTS, Fault

EXCUSED: Final = "sandbox_lost"
"""The end that a fault may bring. All others but success are the runner's failure."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One job, as its client has seen it in the end."""

    name: str
    state: str
    outcome: str | None
    """None while there is none."""
    log: bytes
    """The whole log, with the runner's closing lines."""
    expected: bytes
    """What its script writes."""


def complaints(jobs: Sequence[Seen], struck: Iterable[Fault] = ()) -> list[str]:
    """Return a sentence for each promise that was broken, with what struck meanwhile."""
    told = [f"{job.name}: {what}" for job in jobs for what in _of(job)]
    lost = sum(job.outcome == EXCUSED for job in jobs)
    if lost > (most := sum(COSTS.get(fault, 0) for fault in struck)):
        told.append(f"{lost} jobs lost their sandbox, and what struck may have cost {most}")
    return told if jobs else [*told, "there were no jobs"]


def _of(job: Seen) -> list[str]:
    if job.state != "finished" or job.outcome is None:
        return [f"it is lost: {job.state}"]
    starts = job.log.count(b"begin " + job.name.encode() + b"\n")
    told = [f"it started {starts} times"] if starts > 1 else []
    written, closed, _ = job.log.rpartition(b"runner: ")
    if not closed:
        return [*told, "its log has no last line"]
    if job.outcome == "succeeded":
        if hashlib.sha256(written).digest() != hashlib.sha256(job.expected).digest():
            told.append("it succeeded, and its log is another one")
    elif job.outcome != EXCUSED:
        told.append(f"it ended as {job.outcome}")
    elif not job.expected.startswith(written.split(b"runner: ")[0].rstrip(b"\n")):
        told.append("its log has a hole")
    return told


def report(jobs: list[Seen], faults: Iterable[str], seconds: float) -> str:
    """Return a few lines for people."""
    ends = ", ".join(f"{count} {end}" for end, count in Counter(str(job.outcome) for job in jobs).most_common())
    broken = ", ".join(f"{count} x {fault}" for fault, count in sorted(Counter(faults).items()))
    return f"{len(jobs)} jobs in {seconds:.0f} s: {ends}\nwhat happened: {broken or 'nothing'}"
