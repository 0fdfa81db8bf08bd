"""Steps: the language of conditions, refused steps, and the choice of the steps that run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import steps
from runner.api.models import JobRequest
from runner.errors import BadJobError
from runner.execution import plan, wire
from runner.job import Job, from_json, to_json
from runner.steps import OUTCOMES, Condition, Status, Step, StepIs, StepState, VariableIs, parse

_NAMES = st.sampled_from(["build", "1", "a.b-c", "_", "Unit_Tests", "x" * 64])
_VARIABLES = st.sampled_from(["A", "CI_BRANCH", "_1"])


def _conditions(before: Sequence[str]) -> st.SearchStrategy[Condition]:
    """Conditions of a step that has certain steps before it."""
    tests: list[st.SearchStrategy[steps.Test]] = [
        st.sampled_from(Status),
        st.builds(VariableIs, _VARIABLES, st.text(max_size=6), st.booleans()),
    ]
    if before:
        tests.append(st.builds(StepIs, st.sampled_from(before), st.sampled_from(sorted(OUTCOMES)), st.booleans()))
    return st.builds(Condition, st.lists(st.one_of(tests), max_size=3).map(tuple))


@st.composite
def _some_steps(draw: st.DrawFn) -> tuple[Step, ...]:
    names = draw(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
    codes = st.booleans() | st.frozensets(st.integers(1, 4), max_size=2)
    return tuple(
        Step(name, b"true", draw(_conditions(names[:number])), draw(st.booleans()), draw(codes))
        for number, name in enumerate(names)
    )


@given(_conditions(["build", "a.b-c"]).filter(lambda condition: condition.tests))
def test_a_condition_is_read_as_it_is_written(condition: Condition) -> None:
    assert parse(str(condition)) == condition


@given(
    st.text(max_size=40) | st.lists(st.sampled_from([*"'=!&() ", "env.A", "steps.a.outcome", "success"])).map("".join)
)
def test_what_is_no_condition_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        condition = parse(text)
    except BadJobError:
        return
    assert parse(str(condition)) == condition


def test_a_condition_as_people_write_it() -> None:
    assert parse("failure() && env.CI_BRANCH=='it''s main'&& steps.unit.outcome != 'skipped' ") == Condition(
        (Status.FAILURE, VariableIs("CI_BRANCH", "it's main"), StepIs("unit", StepState.SKIPPED, equal=False))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"if": "suceeded()"}, "steps.1.if: The condition cannot be read from 'suceeded()' on."),
        ({"if": "success() || failure()"}, "steps.1.if: The condition cannot be read from '|| failure()' on."),
        ({"if": "steps.build.outcome == 'ok'"}, "steps.1.if: A step's outcome is one of failed, skipped, succeeded, "),
        ({"if": "steps.later.outcome == 'failed'"}, "steps.1.if: There is no step 'later' before this one."),
        ({"if": "steps.test.outcome == 'failed'"}, "steps.1.if: There is no step 'test' before this one."),
        ({"if": " && ".join(["success()"] * 21)}, "steps.1.if: The condition has 21 tests"),
        ({"if": "x" * 5000}, "steps.1.if: The condition has 5000 characters"),
        ({"if": "env.TOKEN == 'hunter2'"}, "steps.1.if: The condition would compare the secret TOKEN"),
        ({"name": "build"}, "steps.1.name: There is a step build before."),
        ({"name": "a b"}, "steps.1.name: The step's name 'a b' is not allowed."),
        ({"script": ""}, "steps.1.script: The script is empty."),
        ({"timeout": 1e9}, "steps.1.timeout: A timeout of 1e+09 seconds"),
        ({"environment": {"1": "x"}}, "steps.1.environment: The variable name '1'"),
        ({"environment": {"TOKEN": "x"}}, "steps.1.environment: The variable TOKEN is both"),
        ({"allow_failure": [256]}, "steps.1.allow_failure: An exit code that is allowed"),
    ],
)
def test_what_is_wrong_with_a_step_is_named_by_field(changes: dict[str, Any], message: str) -> None:
    names = [
        {"name": "build", "script": "x"},
        {"name": "test", "script": "x", **changes},
        {"name": "later", "script": "x"},
    ]
    request = JobRequest.model_validate({"steps": names, "secrets": {"TOKEN": "hunter2"}})
    with pytest.raises(BadJobError) as caught:
        request.to_job()
    assert str(caught.value).startswith(message)


def test_a_job_has_a_script_or_steps_and_not_too_many() -> None:
    step = Step("a", b"true")
    with pytest.raises(BadJobError, match="either a script"):
        Job(b"true", steps=(step,))
    with pytest.raises(BadJobError, match="either a script"):
        Job(args=("a",), steps=(step,))
    with pytest.raises(BadJobError, match="51 steps"):
        Job(steps=tuple(Step(f"s{number}", b"true") for number in range(51)))


@given(_some_steps())
def test_steps_survive_being_written_down(some: tuple[Step, ...]) -> None:
    job = Job(steps=some)
    assert from_json(json.loads(json.dumps(to_json(job)))) == job


@pytest.mark.parametrize("odd", [[1], [{}], [{"name": "a"}], {"a": 1}, "x", None])
def test_steps_that_were_tampered_with_are_refused(odd: object) -> None:
    with pytest.raises(ValueError, match="job"):
        from_json({**to_json(Job(steps=(Step("a", b"true"),))), "steps": odd})


def _run(some: Sequence[Step], codes: Sequence[int], variables: dict[str, str]) -> list[plan.Row]:
    """Run steps as the supervisor does, where each that runs ends with its code."""
    encoded = json.loads(json.dumps([wire.encode_step(step) for step in some]))
    rows = [plan.Row() for _ in some]
    for number, row in enumerate(rows):
        if not plan.wanted(number, encoded, rows, variables):
            row.state = "skipped"
        elif row_code := codes[number]:
            row.state, row.code = "failed", row_code
            row.allowed = plan.allows(encoded[number], row_code, timed_out=False)
        else:
            row.state = "succeeded"
    return rows


_CODES = st.lists(st.sampled_from([0, 0, 1, 3, 137]), min_size=6, max_size=6)


@given(_some_steps(), _CODES, st.dictionaries(_VARIABLES, st.text(max_size=6), max_size=3))
def test_the_job_fails_like_the_first_step_that_may_not(
    some: tuple[Step, ...], codes: list[int], variables: dict[str, str]
) -> None:
    rows = _run(some, codes, variables)
    failures = [
        number
        for number, (step, row) in enumerate(zip(some, rows, strict=True))
        if row.state == "failed" and step.allow_failure is not True and row.code not in _allowed(step)
    ]
    assert plan.deciding(rows) == (failures[0] if failures else None)


def _allowed(step: Step) -> frozenset[int]:
    return step.allow_failure if isinstance(step.allow_failure, frozenset) else frozenset()


@given(_some_steps(), _CODES)
def test_after_a_failure_only_steps_run_that_ask_for_it(some: tuple[Step, ...], codes: list[int]) -> None:
    rows = _run(some, codes, {})
    first = plan.deciding(rows)
    if first is None:
        return
    for step, row in list(zip(some, rows, strict=True))[first + 1 :]:
        asks = step.always or any(test is Status.FAILURE or isinstance(test, StepIs) for test in step.condition.tests)
        assert row.state == "skipped" or asks
        assert row.state == "skipped" or Status.SUCCESS not in step.condition.tests


@given(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
def test_steps_without_conditions_run_in_order_until_one_fails(names: list[str]) -> None:
    some = [Step(name, b"true") for name in names]
    assert {row.state for row in _run(some, [0] * 6, {})} == {"succeeded"}
    states = [row.state for row in _run(some, [0, 1, 0, 0, 0, 0], {})]
    assert states == ["succeeded", "failed", *["skipped"] * 4][: len(names)]


@pytest.mark.parametrize(
    ("condition", "ran"),
    [
        ("env.A == 'x'", True),
        ("env.A != 'x'", False),
        ("env.MISSING == ''", True),
        ("steps.one.outcome == 'failed'", True),
        ("steps.one.outcome == 'failed' && success()", True),
        ("steps.two.outcome == 'skipped'", True),
        ("failure()", False),
    ],
)
def test_what_conditions_mean(condition: str, ran: bool) -> None:
    """The first step fails, which is allowed; the second is not wanted."""
    some = [
        Step("one", b"x", allow_failure=frozenset({7})),
        Step("two", b"x", parse("failure()")),
        Step("three", b"x", parse(condition)),
    ]
    rows = _run(some, [7, 0, 0], {"A": "x"})
    assert [row.state for row in rows] == ["failed", "skipped", "succeeded" if ran else "skipped"]
    assert plan.deciding(rows) is None


def test_a_timeout_is_allowed_by_true_and_by_no_code() -> None:
    assert plan.allows({"allowed": True}, 0, timed_out=True)
    assert not plan.allows({"allowed": [124]}, 124, timed_out=True)
