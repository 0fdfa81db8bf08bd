"""Which step of a job runs next, and which step decides the job's end. Pure.

The runner sends this module into the sandbox with `supervisor.py`, whose rules apply: standard library only, Python
3.11 or later, no slow imports. A step has the form that `wire` writes: `name`, `tests`, `always`, `allowed` (true,
false or exit codes), `timeout` and `environment`. A list of `Row`s beside the steps holds the state of each.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs milliseconds
    from collections.abc import Mapping, Sequence
    from typing import Any


class Row:
    """The state of one step; a state is the text of a `runner.steps.StepState`."""

    def __init__(self) -> None:
        self.state = "waiting"
        self.code = 0
        self.seconds = 0.0
        self.allowed = False

    def to_json(self) -> list[object]:
        """Return the row as the runner receives it."""
        return [self.state, self.code, round(self.seconds, 3), self.allowed]


def wanted(number: int, steps: Sequence[dict[str, Any]], rows: Sequence[Row], variables: Mapping[str, str]) -> bool:
    """Return whether a step must run, now that all steps before it have ended.

    After a failure a step runs only if it asks for that: by `always`, `failure()` or the outcome of a step.
    """
    step = steps[number]
    failed = deciding(rows[:number]) is not None
    asks = any(kind in ("failure", "step") for kind, *_ in step["tests"])
    if failed and not step["always"] and not asks:
        return False
    states = {steps[before]["name"]: rows[before].state for before in range(number)}
    return all(holds(test, states, variables, failed) for test in step["tests"])


def holds(test: Sequence[Any], states: Mapping[str, str], variables: Mapping[str, str], failed: bool) -> bool:
    """Return whether one test holds."""
    match test:
        case ["success"]:
            return not failed
        case ["failure"]:
            return failed
        case ["variable", name, text, equal]:
            return bool((variables.get(name, "") == text) == equal)
        case ["step", name, outcome, equal]:
            return bool((states[name] == outcome) == equal)
    return False


def allows(step: dict[str, Any], code: int, *, timed_out: bool) -> bool:
    """Return whether the job goes on after this failure of the step."""
    allowed = step["allowed"]
    return allowed if isinstance(allowed, bool) else not timed_out and code in allowed


def deciding(rows: Sequence[Row]) -> int | None:
    """Return the step that makes the job fail: the first that failed and was not allowed to; None without one."""
    for number, row in enumerate(rows):
        if row.state in ("failed", "timed_out", "interrupted") and not row.allowed:
            return number
    return None
