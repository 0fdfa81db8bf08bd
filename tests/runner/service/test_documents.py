"""What is written down about a job is read back the same, and anything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import outcome as outcomes
from runner.job import Job
from runner.outcome import (
    BadRequest,
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
from runner.service.documents import MAX_CLOSING, Result, Submission, Ticket, fit

TEXTS = st.text(max_size=50) | st.text(st.characters(), min_size=1, max_size=5).map(lambda text: text * 1000)
TICKETS = st.builds(Ticket, st.integers(0, 1 << 60), st.floats(0, 1e12))
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Succeeded()),
    st.builds(ScriptFailed, st.integers(1, 255)),
    st.builds(Killed, st.integers(1, 64)),
    st.just(TimedOut(Limit.JOB)),
    *(st.builds(kind, TEXTS) for kind in (Cancelled, SandboxLost, SetupFailed, RunnerStopped, BadRequest)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def through_a_file(document: object) -> object:
    return json.loads(json.dumps(document))


@settings(deadline=None)
@given(TICKETS, OUTCOMES, st.integers(0, 1 << 40), st.text(max_size=200))
def test_any_outcome_is_read_back_as_it_was_told(ticket: Ticket, outcome: Outcome, output: int, closing: str) -> None:
    """The trap: an outcome that quotes a hostile sandbox at length would be another one after a restart."""
    result = Result(ticket, fit(outcome), output, closing.encode(errors="replace"))
    assert Result.from_json(through_a_file(result.to_json())) == result
    assert outcomes.name(result.outcome) == outcomes.name(outcome)
    outcomes.sentence(result.outcome).encode()


@settings(deadline=None)
@given(TICKETS)
def test_a_submission_is_read_back(ticket: Ticket) -> None:
    submission = Submission(ticket, Job(b"true", environment={"A": "\udcff"}))
    assert Submission.from_json(through_a_file(submission.to_json())) == submission


@settings(deadline=None)
@given(JSON)
def test_what_is_no_document_is_refused(document: object) -> None:
    for kind in (Result, Submission):
        with pytest.raises(ValueError, match=r"\w"):
            kind.from_json(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", -1),
        ("number", True),
        ("number", "1"),
        ("submitted", float("nan")),
        ("submitted", None),
        ("output", 1 << 63),
        ("output", float("inf")),
        ("closing", None),
        ("closing", "x" * (MAX_CLOSING + 1)),
        ("closing", "\ud800"),
        ("outcome", "nonsense"),
    ],
)
def test_a_result_with_one_odd_field_is_refused(field: str, value: object) -> None:
    document = Result(Ticket(1, 2.0), Succeeded(), 3, b"end\n").to_json()
    with pytest.raises(ValueError, match=r"\w"):
        Result.from_json({**document, field: value})
