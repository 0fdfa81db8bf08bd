"""Looks at a sandbox in a child process, which is killed at its deadline, and judges what it found.

The child reads a job's files as the host's root. Whatever blocks it (such as a file system that never answers) blocks
neither the keeper nor the verdict: a missing answer is an answer.
"""

import json

from sandbox import child
from sandbox.errors import Fault, SandboxFault
from sandbox.inspection import gather
from sandbox.inspection.evidence import Baseline, Evidence, EvidenceError, parse_evidence
from sandbox.inspection.judge import Verdict, judge, not_inspected
from sandbox.inspection.places import COMMAND_FOLDERS, JOB_FOLDERS, LISTED_FOLDERS

MOST_ENTRIES = 50_000
MOST_BYTES = 8 * 1024**2
"""Bytes of names."""
_CHILD = gather.__name__


class _NoAnswerError(Exception):
    """There is no evidence; the text says why, as the rest of a sentence."""


def record(container_id: str, init_pid: int, deadline: float) -> Baseline:
    """Record a sandbox at `ready`, before any job, by the monotonic `deadline`.

    Raises `SandboxFault` (`damaged`) when it cannot be looked at: then it could not be judged later either.
    """
    try:
        return Baseline(container_id, init_pid, _gather(_order(container_id, init_pid), deadline))
    except _NoAnswerError as error:
        raise SandboxFault(
            Fault.DAMAGED,
            f"What it is made of could not be recorded: {error}. The keeper needs the host's process ids (`pid: host`) "
            "and the engine's data folder at the same path.",
        ) from error


def inspect(baseline: Baseline, deadline: float) -> Verdict:
    """Judge a frozen sandbox by the monotonic `deadline`. The caller freezes it. No answer means `damaged`."""
    then = baseline.evidence
    order = _order(baseline.container_id, baseline.init_pid) | {
        "start": then.init_start,
        "upper": then.upper,
        "lower": then.lower,
        "mounts": then.mounts,
        "commands": [],
        "kept": [],
    }
    try:
        return judge(then, _gather(order, deadline))
    except _NoAnswerError as error:
        return not_inspected(str(error))


def _order(container_id: str, init_pid: int) -> dict[str, object]:
    return {
        "container": container_id,
        "pid": init_pid,
        "start": None,
        "upper": None,
        "lower": None,
        "mounts": None,
        "own": JOB_FOLDERS,
        "listed": LISTED_FOLDERS,
        "commands": COMMAND_FOLDERS,
        "kept": JOB_FOLDERS,
        "most": [MOST_ENTRIES, MOST_BYTES],
    }


def _gather(order: dict[str, object], deadline: float) -> Evidence:
    try:
        return parse_evidence(child.ask(_CHILD, json.dumps(order).encode(), deadline))
    except child.NoAnswer as error:
        raise _NoAnswerError("its first process is gone" if error.code == gather.GONE else str(error)) from error
    except EvidenceError as error:
        raise _NoAnswerError(f"it makes no sense: {error}") from error
