"""The steps of a job: what each runs, when it does, and how it goes. Pure.

`if` is a small closed language: tests joined by `&&`. What it means is decided in `runner.execution.plan`, which goes
into the sandbox with the job; here it is read, checked and written.
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
"""Steps of one job, and tests of one condition."""
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
    """How far a step is, and how it ended."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """By an exit code or a signal; also where that is allowed."""
    TIMED_OUT = "timed_out"
    """It ran into its own timeout."""
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    """The job ended while it ran."""


OUTCOMES: Final = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.TIMED_OUT, StepState.SKIPPED})
"""What a step before may have come to, as `if` names it."""


class Status(StrEnum):
    """What the steps so far have come to."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class VariableIs:
    """Whether a variable of the job's environment has a value, or has not; one that is not there is empty."""

    name: str
    text: str
    equal: bool = True


@dataclass(frozen=True, slots=True)
class StepIs:
    """Whether a step before came to something, or did not."""

    name: str
    outcome: StepState
    equal: bool = True


Test: TypeAlias = Status | VariableIs | StepIs


@dataclass(frozen=True, slots=True)
class Condition:
    """When a step runs: where all tests hold."""

    tests: tuple[Test, ...] = ()

    def __str__(self) -> str:
        """The condition as `parse` reads it."""
        return " && ".join(map(_written, self.tests))


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a script like that of a job. `Job` checks it."""

    name: str
    script: bytes
    condition: Condition = Condition()
    always: bool = False
    """Whether it runs also after a step before failed."""
    allow_failure: bool | frozenset[int] = False
    """Whether the job goes on as if nothing were when it fails, or with which exit codes it does."""
    timeout: float | None = None
    """Seconds from its start; None is no limit of its own."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """On top of the job's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far one step is. It is what the sandbox says, which does not say the name."""

    name: str = ""
    state: StepState = StepState.WAITING
    code: int = 0
    """Exit code of one that failed, 128 + N for signal N; else 0."""
    seconds: float = 0.0
    """How long it took."""
    allowed: bool = False
    """Whether it failed, and was allowed to."""


def waiting(steps: Sequence[Step]) -> list[StepProgress]:
    """Return how far the steps of a job are that did not start."""
    return [StepProgress(step.name) for step in steps]


def over(progress: Sequence[StepProgress]) -> tuple[StepProgress, ...]:
    """Return what is left to say of the steps when their job is over."""
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
