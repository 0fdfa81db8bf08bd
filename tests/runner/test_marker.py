"""Markers: a written marker is read back, and nothing else is accepted as one."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.execution import marker as markers
from runner.execution.lease import new_token
from runner.execution.marker import Marker, Moment

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
MARKERS = st.builds(
    Marker,
    attempt=st.from_regex(r"[A-Za-z0-9]{1,64}", fullmatch=True),
    token=st.builds(new_token),
    profile=TEXT,
    trust_key=TEXT,
    sandbox=TEXT,
    generation=st.integers(0, 1 << 40),
    boot_id=TEXT,
    timeout=st.none() | st.floats(0.001, 1e9),
    started=st.builds(Moment, TEXT, st.floats(0, 1e9)),
    log_limit=st.integers(0, 1 << 50),
    workspace=TEXT.map("/".__add__),
    attempts=TEXT.map("/".__add__),
)
EXAMPLE = Marker("a1", "t" * 30, "p", "k", "s", 1, "b", 2.5, Moment("b", 1.0), 9, "/w", "/a")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(MARKERS)
def test_json_round_trip(marker: Marker) -> None:
    assert Marker.from_json(json.loads(json.dumps(marker.to_json()))) == marker
    assert marker.token not in repr(marker)


@given(
    JSON | st.dictionaries(st.sampled_from(sorted(EXAMPLE.to_json())), JSON).map(lambda odd: EXAMPLE.to_json() | odd)
)
def test_anything_odd_is_a_value_error_without_secrets(document: object) -> None:
    said = ""
    try:
        Marker.from_json(document)
    except ValueError as error:
        said = str(error)
    assert EXAMPLE.token not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempt", "../etc"),
        ("attempt", "a/b"),
        ("attempt", ".."),
        ("attempt", "a\n"),
        ("token", "short"),
        ("generation", True),
        ("generation", -1),
        ("timeout", 0),
        ("timeout", float("nan")),
        ("started", {"boot_id": "", "seconds": -1}),
        ("workspace", "relative"),
        ("more", "x"),
    ],
)
def test_what_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"cannot be read: {name}"):
        Marker.from_json({**EXAMPLE.to_json(), name: value})


def test_time_passes_on_a_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Moment.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= begin.elapsed() < 60


def test_nobody_can_tell_on_another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Moment.now()
    monkeypatch.setattr(markers, "_boot_id", lambda: "another")
    assert begin.elapsed() == 0
