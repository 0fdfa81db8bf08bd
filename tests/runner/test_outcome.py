"""The closed set of outcomes and its one table."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import outcome as outcomes
from runner.outcome import (
    BadRequest,
    BadSource,
    Cancelled,
    Killed,
    Limit,
    Outcome,
    RunnerStopped,
    SandboxLost,
    ScriptFailed,
    SetupFailed,
    Succeeded,
    TimedOut,
)

TEXT = st.text(max_size=outcomes.MAX_TEXT)
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Succeeded()),
    st.builds(ScriptFailed, st.integers(1, 255)),
    st.builds(Killed, st.integers(1, 64)),
    st.builds(TimedOut, st.sampled_from(Limit)),
    st.builds(Cancelled, TEXT),
    *(st.builds(kind, TEXT) for kind in (SandboxLost, SetupFailed, BadSource, RunnerStopped, BadRequest)),
)


def test_every_kind_has_a_row_and_no_two_share_a_name() -> None:
    assert len(set(outcomes.NAMES)) == len(get_args(Outcome)) == len(outcomes.NAMES)


@pytest.mark.parametrize(
    ("outcome", "code", "name"),
    [
        (Succeeded(), 0, "succeeded"),
        (ScriptFailed(42), 42, "script_failed"),
        (Killed(9), 137, "killed"),
        (TimedOut(Limit.JOB), 124, "timed_out"),
        (Cancelled("the user"), 130, "cancelled"),
        (SandboxLost("x"), 75, "sandbox_lost"),
        (SetupFailed("x"), 69, "setup_failed"),
        (RunnerStopped("x"), 70, "runner_stopped"),
        (BadRequest("x"), 64, "bad_request"),
        (BadSource("x"), 66, "bad_source"),
    ],
)
def test_what_others_rely_on(outcome: Outcome, code: int, name: str) -> None:
    assert outcomes.exit_code(outcome) == code
    assert outcomes.name(outcome) == name


@given(OUTCOMES)
def test_json_round_trip(outcome: Outcome) -> None:
    document = json.loads(json.dumps(outcomes.to_json(outcome)))
    assert outcomes.from_json(document) == outcome
    assert document["message"] == outcomes.sentence(outcome)
    assert 0 <= document["exit_code"] <= 255


@given(OUTCOMES)
def test_what_counts_an_outcome_is_one_of_a_few(outcome: Outcome) -> None:
    labels = outcomes.name(outcome), outcomes.which(outcome)
    assert labels in outcomes.NAMES_AND_LIMITS
    assert labels[1] == outcomes.to_json(outcome).get("which", "")
    assert len(set(outcomes.NAMES_AND_LIMITS)) == len(outcomes.NAMES) - 1 + len(Limit)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"outcome": st.sampled_from(outcomes.NAMES) | JSON},
        optional={"code": JSON, "signal": JSON, "which": JSON, "by": JSON, "why": JSON},
    )
    | JSON
)
def test_hostile_json_gives_an_outcome_or_a_value_error(document: object) -> None:
    try:
        outcome = outcomes.from_json(document)
    except ValueError:
        return
    assert 0 <= outcomes.exit_code(outcome) <= 255


def test_a_kill_hints_at_memory() -> None:
    assert "SIGKILL, perhaps because memory ran out" in outcomes.sentence(Killed(9))
    assert "memory" not in outcomes.sentence(Killed(15))
    assert "signal 63" in outcomes.sentence(Killed(63))
