"""A job is checked before it goes anywhere."""

from __future__ import annotations

import json
import math
import traceback
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadJobError
from runner.job import MAX_SCRIPT, MAX_STRING, MAX_STRINGS, Job, from_json, new_attempt_id, to_json

_TEXTS = st.binary(max_size=50).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
"""As `os.environ` has them: bytes that are not UTF-8 are lone surrogates."""
_JOBS = st.builds(
    Job,
    script=st.binary(max_size=200).map(lambda data: b"#" + data.replace(b"\0", b"\n")),
    args=st.lists(_TEXTS, max_size=5).map(tuple),
    environment=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), _TEXTS, max_size=5),
    timeout=st.none() | st.floats(0.001, 1e6) | st.integers(1, 1_000_000),
    secrets=st.dictionaries(st.from_regex(r"S_[0-9]{1,3}", fullmatch=True), _TEXTS.map(lambda text: f"secret{text}")),
    priority=st.integers(-100, 100),
    labels=st.frozensets(st.from_regex(r"[a-z]{1,5}", fullmatch=True), max_size=3),
    queue_timeout=st.none() | st.floats(0.001, 1e6),
    setup_timeout=st.none() | st.floats(0.001, 1e6),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\x7fELF\x02\x01", "ELF program"),
        (b"MZ\x90\x00\x03", "Windows program"),
        (b"PK\x03\x04", "zip archive"),
        (b"\xff\xfee\x00c\x00", "UTF-16"),
        (b"echo a\0b", "binary"),
        (b"#" * (MAX_SCRIPT + 1), "limit"),
    ],
)
def test_scripts_that_are_refused(script: bytes, says: str) -> None:
    with pytest.raises(BadJobError, match=says):
        Job(script)


@pytest.mark.parametrize("script", [b"true", b"#" * MAX_SCRIPT, b"true\n" + b"#" * 5000 + b"\0payload", b"\xff\xff"])
def test_scripts_that_are_taken(script: bytes) -> None:
    assert Job(script).script == script


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "\0"])
def test_variable_names_that_are_refused(name: str) -> None:
    with pytest.raises(BadJobError, match="variable name"):
        Job(b"true", environment={name: "x"})


@pytest.mark.parametrize("value", ["", "two\nlines", "quotes ' \" ` $", "ünï ☃ 😀", "raw \udcff byte", "x" * 100_000])
def test_variable_values_that_are_taken(value: str) -> None:
    assert Job(b"true", environment={"A": value}).environment == {"A": value}


def test_a_nul_names_the_variable() -> None:
    with pytest.raises(BadJobError, match="The variable TOKEN has a NUL"):
        Job(b"true", environment={"TOKEN": "a\0b"})
    with pytest.raises(BadJobError, match="Argument 2 has a NUL"):
        Job(b"true", args=("a", "b\0"))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(BadJobError, match="not valid Unicode"):
        Job(b"true", environment={"A": "\ud800"})


def test_one_long_string_is_refused_by_name() -> None:
    fits = MAX_STRING - len("LONG=") - 1
    Job(b"true", environment={"LONG": "x" * fits})
    with pytest.raises(BadJobError, match="The variable LONG"):
        Job(b"true", environment={"LONG": "x" * (fits + 1)})


def test_many_strings_are_refused_together() -> None:
    with pytest.raises(BadJobError, match="together"):
        Job(b"true", args=("x" * 1000,) * (MAX_STRINGS // 1000))


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan, 1e12])
def test_timeouts_that_are_refused(timeout: float) -> None:
    with pytest.raises(BadJobError, match="timeout"):
        Job(b"true", timeout=timeout)


def test_labels_are_checked() -> None:
    with pytest.raises(BadJobError, match="profile"):
        Job(b"true", profile="")
    with pytest.raises(BadJobError, match="profile"):
        Job(b"true", profile="not a name of the keeper's")
    with pytest.raises(BadJobError, match="trust key"):
        Job(b"true", trust_key="a\nb")


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("priority", 101, "priority of 101 is not possible"),
        ("labels", frozenset({""}), "label '' is not allowed"),
        ("labels", frozenset(map(str, range(21))), "asks for 21 labels"),
        ("secrets", {"S": "short"}, "fewer than 6 characters"),
        ("secrets", {"S": "\n".join("abc" * 501)}, "lines together"),
        ("secrets", {"S s": "long enough"}, "variable name"),
        ("queue_timeout", 0, "timeout"),
        ("setup_timeout", -1, "timeout"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_the_cause(field: str, value: object, cause: str) -> None:
    with pytest.raises(BadJobError, match=cause):
        Job(b"true", **{field: value})  # type: ignore[arg-type]


def test_a_variable_is_a_secret_or_not() -> None:
    with pytest.raises(BadJobError, match="both in the environment and a secret"):
        Job(b"true", environment={"A": "long enough"}, secrets={"A": "long enough"})


def test_a_job_does_not_change_with_what_it_was_made_of() -> None:
    environment = {"A": "1"}
    job = Job(b"true", environment=environment)
    environment["A"] = "2"
    assert job.environment == {"A": "1"}


def test_values_are_not_shown() -> None:
    assert "hunter2" not in repr(Job(b"true", environment={"PASSWORD": "hunter2"}))


def test_attempt_ids_differ() -> None:
    assert new_attempt_id() != new_attempt_id()


@given(_JOBS)
def test_a_job_survives_being_written_down(job: Job) -> None:
    assert from_json(json.loads(json.dumps(to_json(job)))) == job


@given(_JSON)
def test_what_is_no_job_is_not_read_as_one(document: object) -> None:
    with pytest.raises(ValueError, match="job"):
        from_json(document)


@given(st.sampled_from(sorted(to_json(Job(b"true")))), _JSON)
def test_a_job_with_one_odd_field_is_none_or_valid(field: str, value: object) -> None:
    document = {**to_json(Job(b"true")), field: value}
    try:
        job = from_json(document)
    except ValueError:
        return
    assert replace(job) == job  # everything is checked again


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("script", "not base64!"),
        ("script", ""),
        ("args", ["a\0"]),
        ("args", [1]),
        ("environment", {"PASSWORD": "hunter2\0"}),
        ("environment", {"A": None}),
        ("timeout", True),
        ("timeout", float("nan")),
        ("timeout", 10**400),
        ("trust_key", "a\nb"),
    ],
)
def test_a_job_that_was_tampered_with_is_refused_without_a_secret(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="job") as caught:
        from_json({**to_json(Job(b"true")), field: value})
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
