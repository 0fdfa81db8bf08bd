"""The steps of a job: what each runs, when it runs, and its progress. Pure.

`if` is a small closed language: tests joined by `&&`. `runner.execution.plan`, which goes into the sandbox with the
job, evaluates it; here it is read, checked and written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from runner.errors import BadJobError

MAX_STEPS: Final = 50
MAX_TESTS: Final = 20
"""The most steps of one job, and the most tests of one condition."""
MAX_CONDITION: Final = 4000
"""Longest condition, in characters."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_TEST: Final = re.compile(
    r"\s*(?:(?P<status>success|failure)\(\)"
    r"|(?:env\.(?P<variable>[A-Za-z_][A-Za-z0-9_]*)|steps\.(?P<step>[A-Za-z0-9_.-]+)\.outcome)"
    r"\s*(?P<operator>==|!=)\s*'(?P<text>(?:[^']|'')*)')\s*"
)
_HELP: Final = (
    "Write tests joined by &&: success(), failure(), env.NAME == 'text', steps.NAME.outcome != 'failed'; "
    "'' in a text is a quote."
)


class StepState(StrEnum):
    """The state of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The step ended with an exit code or a signal, even where that is allowed."""
    TIMED_OUT = "timed_out"
    """The step ran into its own timeout."""
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    """The job ended while the step ran."""


OUTCOMES: Final = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.TIMED_OUT, StepState.SKIPPED})
"""The outcomes of an earlier step that `if` can name."""


class Status(StrEnum):
    """The status of the steps so far."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class VariableIs:
    """Tests whether a variable of the job's environment has a value, or has not; a missing variable is empty."""

    name: str
    text: str
    equal: bool = True


@dataclass(frozen=True, slots=True)
class StepIs:
    """Tests whether an earlier step had an outcome, or had not."""

    name: str
    outcome: StepState
    equal: bool = True


Test: TypeAlias = Status | VariableIs | StepIs


@dataclass(frozen=True, slots=True)
class Condition:
    """When a step runs: when all tests hold."""

    tests: tuple[Test, ...] = ()

    def __str__(self) -> str:
        """Return the condition as `parse` reads it."""
        return " && ".join(map(_written, self.tests))


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a script like that of a job. `Job` checks it."""

    name: str
    script: bytes
    condition: Condition = Condition()
    always: bool = False
    """Whether the step runs even after a failed step."""
    allow_failure: bool | frozenset[int] = False
    """Whether the job goes on as usual when the step fails, or the exit codes with which it does."""
    timeout: float | None = None
    """Seconds from the start of the step; None means no limit of its own."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables on top of the job's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The progress of one step, as the sandbox reports it, but for the name."""

    name: str = ""
    state: StepState = StepState.WAITING
    code: int = 0
    """Exit code of a failed step, 128 + N for signal N; else 0."""
    seconds: float = 0.0
    """How long the step took."""
    allowed: bool = False
    """Whether the step failed, and was allowed to."""


def waiting(steps: Sequence[Step]) -> list[StepProgress]:
    """Return the progress of steps that have not started."""
    return [StepProgress(step.name) for step in steps]


def over(progress: Sequence[StepProgress]) -> tuple[StepProgress, ...]:
    """Return the final progress of the steps once their job is over."""
    last = {StepState.RUNNING: StepState.INTERRUPTED, StepState.WAITING: StepState.SKIPPED}
    return tuple(replace(step, state=last.get(step.state, step.state)) for step in progress)


def parse(text: str) -> Condition:
    """Read a condition. Raises BadJobError."""
    if len(text) > MAX_CONDITION:
        raise BadJobError(f"The condition has {len(text)} characters and the limit is {MAX_CONDITION}.")
    tests: list[Test] = []
    place = 0
    while True:
        found = _TEST.match(text, place)
        if found is None:
            raise BadJobError(f"The condition cannot be read from {text[place : place + 40]!r} on. {_HELP}")
        tests.append(_read(found))
        place = found.end()
        if place == len(text):
            break
        if text[place : place + 2] != "&&":
            raise BadJobError(f"The condition cannot be read from {text[place : place + 40]!r} on. {_HELP}")
        place += 2
    if len(tests) > MAX_TESTS:
        raise BadJobError(f"The condition has {len(tests)} tests and the limit is {MAX_TESTS}.")
    return Condition(tuple(tests))


def _read(found: re.Match[str]) -> Test:
    if status := found["status"]:
        return Status(status)
    text, equal = found["text"].replace("''", "'"), found["operator"] == "=="
    if variable := found["variable"]:
        return VariableIs(variable, text, equal)
    if text not in OUTCOMES:
        raise BadJobError(f"A step's outcome is one of {', '.join(sorted(OUTCOMES))}, and never {text[:40]!r}.")
    return StepIs(found["step"], StepState(text), equal)


def _written(test: Test) -> str:
    match test:
        case Status():
            return f"{test}()"
        case VariableIs(name, text, equal):
            quoted = text.replace("'", "''")
            return f"env.{name} {'==' if equal else '!='} '{quoted}'"
        case StepIs(name, outcome, equal):
            return f"steps.{name}.outcome {'==' if equal else '!='} '{outcome}'"


def check(steps: Sequence[Step]) -> None:
    """Raises BadJobError, with the field, when steps cannot be run one after the other."""
    if len(steps) > MAX_STEPS:
        raise BadJobError(f"The job has {len(steps)} steps and the limit is {MAX_STEPS}.", field=("steps",))
    before: set[str] = set()
    for number, step in enumerate(steps):
        if not _NAME.fullmatch(step.name):
            raise BadJobError(
                f"The step's name {step.name[:80]!r} is not allowed. Use 1 to 64 letters, digits, dots, dashes and "
                "underscores, no dot or dash first.",
                field=("steps", number, "name"),
            )
        if step.name in before:
            raise BadJobError(
                f"There is a step {step.name} before. Give each a name of its own.", field=("steps", number, "name")
            )
        _check_references(number, step, before)
        _check_codes(number, step)
        before.add(step.name)


def _check_references(number: int, step: Step, before: set[str]) -> None:
    for test in step.condition.tests:
        if isinstance(test, StepIs) and test.name not in before:
            raise BadJobError(
                f"There is no step {test.name[:80]!r} before this one. Name one that has ended by then.",
                field=("steps", number, "if"),
            )


def _check_codes(number: int, step: Step) -> None:
    codes = step.allow_failure
    if not isinstance(codes, bool) and not all(0 < code < 256 for code in codes):
        raise BadJobError("An exit code that is allowed is from 1 to 255.", field=("steps", number, "allow_failure"))


def to_json(step: Step) -> dict[str, object]:
    """Return the step as a JSON object."""
    allowed = step.allow_failure
    return {
        "name": step.name,
        "script": base64.b64encode(step.script).decode(),
        "if": str(step.condition),
        "always": step.always,
        "allow_failure": allowed if isinstance(allowed, bool) else sorted(allowed),
        "timeout": step.timeout,
        "environment": dict(step.environment),
    }


def from_json(document: Any) -> Step:  # noqa: ANN401 - whatever was read
    """Return the step that `to_json` wrote. Raises ValueError, TypeError, KeyError or BadJobError on anything else."""
    allowed = document["allow_failure"]
    environment = document["environment"]
    if not all(isinstance(text, str) for text in environment.values()):
        raise ValueError("A step's variable is no text.")
    return Step(
        name=str(document["name"]),
        script=base64.b64decode(document["script"], validate=True),
        condition=parse(document["if"]) if document["if"] else Condition(),
        always=bool(document["always"]),
        allow_failure=allowed if isinstance(allowed, bool) else frozenset(map(int, allowed)),
        timeout=None if document["timeout"] is None else float(document["timeout"]),
        environment=environment,
    )
