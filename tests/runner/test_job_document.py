"""A job file is the job of the API; its mistakes are told by line and field."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import job_document
from runner.api.models import JobRequest
from runner.errors import BadJobError

GOOD = b"""\
script: |
  echo hello
args: [a, b]
environment: {A: "1"}
timeout: 60
priority: 5
labels: [gpu]
"""


def test_yaml_and_json_are_the_same_job() -> None:
    request = job_document.parse(GOOD, "job.yaml")
    assert (request.script, request.args, request.timeout, request.labels) == ("echo hello\n", ["a", "b"], 60, ["gpu"])
    assert job_document.parse(request.model_dump_json().encode(), "job.json") == request


def test_steps_are_submitted_as_they_were_written() -> None:
    """The trap: `if` is a word of Python's, and a field of another name in between would be dropped or refused."""
    content = b"""\
steps:
  - {name: a, script: x, allow_failure: [3]}
  - {name: b, script: x, if: "failure() && env.A == 'x'", timeout: 5}
  - {name: c, script: x, always: true, environment: {B: y}}
"""
    request = job_document.parse(content, "job.yaml")
    sent = request.model_dump(exclude_defaults=True, by_alias=True)
    assert sent["steps"][1] == {"name": "b", "script": "x", "if": "failure() && env.A == 'x'", "timeout": 5.0}
    assert JobRequest.model_validate(sent).to_job() == request.to_job()


def test_what_only_json_has_is_read_as_json_has_it() -> None:
    """The trap: YAML reads `\\ud83d\\ude00` as two letters, and refuses tabs and `\\/`."""
    assert job_document.parse(b'{\n\t"script": "echo \\ud83d\\ude00 \\/"}', "job.json").script == "echo \U0001f600 /"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f: this is no job: a job has fields"),
        (b"make test\n", "f:1:1: this is no job: a job has fields, such as `script: make test`."),
        (b"#!/bin/sh\nset -e; x: {\n", "f:1:1: this is no job"),
        (b"- script: x\n", "f:1:1: this is no job"),
        (b"args: []\n", "f:1:1: The script is empty. Give a script with at least one command, or steps"),
        (b"script: x\nscrpt: y\n", "f:2:1: scrpt: there is no such field. Did you mean script?"),
        (b"script: x\nargs:\n  - a\n  - [b]\n", "f:4:5: args.1: must be a valid string"),
        (b"script: x\nenvironment:\n  PORT: 8080\n", "f:3:3: environment.PORT: must be a valid string"),
        (
            b"steps:\n- name: a\n  script: x\n- name: b\n  script: x\n  if: maybe\n",
            "f:6:3: steps.1.if: The condition cannot be",
        ),
        (b"steps:\n- name: a\n  script: x\n  when: x\n", "f:4:3: steps.0.when: there is no such field."),
        (b"script: x\nscript: y\n", "f:2:1: script: this name was given before"),
        (b"script: [1,\n", "f:2:1: while parsing a flow node, did not find expected"),
        (b'{"script" "x"}', "f:1:11: Expecting ':' delimiter"),
        (b'{"script": "x",\n "x": 1}', "f:2:2: x: there is no such field."),
        (b"script: ''\n", "f:1:1: The script is empty"),
        (b"script: !!python/object/apply:os.system [x]\n", "f:1:9: could not determine a constructor"),
        (b"script: x\ntimout: 5\n", "f:2:1: timout: there is no such field. Did you mean timeout?"),
        (b"script: x\nsource: {url: x}\n", "f:2:1: source: must have a `kind`: archive, git, upload."),
        (b"script: x\nsource: {kind: ftp}\n", "f:2:1: source: must have a `kind`: archive, git, upload."),
        (
            b"steps:\n- {name: a, script: x, allow_failure: x}\n",
            "f:2:24: steps.0.allow_failure: must be a valid boolean.",
        ),
        (b"script: x\nartifacts: [dist]\n", "f:2:13: artifacts.0: must have fields: paths, when."),
        (b"script: x\nenvironment: []\n", "f:2:1: environment: must be names with values."),
        (b"script: x\nsource: {kind: git, ulr: x, url: 'https://h/r'}\n", "f:2:1: source.commit: must be given.\n"),
        (b"script: x\n---\nscript: y\n", "f:2:1: expected a single document in the stream, but found another"),
        (b'{"script": "x", "\\u001b[2J": 1}', "f:1:17: " + " [2J: there is no such field."),
        (b"[" * 500, "f:1:21: this is nested too deeply"),
        (b"[" * 100_000, "f:1:"),  # which of the two limits is met first, ours or libyaml's, is the library's business
        (b"\xff\xfe\x00", "f: this is neither YAML nor JSON"),
        (b"? [a]\n: b\n", "f:1:3: while constructing a mapping, found unhashable key"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field(content: bytes, message: str) -> None:
    with pytest.raises(BadJobError) as caught:
        job_document.parse(content, "f")
    assert str(caught.value).startswith(message)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    content = b"retry: often\nscript: x\nsteps:\n- {name: a, scrip: x}\nscript: y\ntimout: 5\n"
    with pytest.raises(BadJobError) as caught:
        job_document.parse(content, "f")
    assert str(caught.value).split("\n  ") == [
        "f:1:1: retry: must be a valid integer.",
        "f:4:3: steps.0.script: must be given.",
        "f:4:13: steps.0.scrip: there is no such field. Did you mean script?",
        "f:5:1: script: this name was given before.",
        "f:6:1: timout: there is no such field. Did you mean timeout?",
    ]


@given(st.binary(max_size=80) | st.text("{}[]:,-&*!|>'\"\n\t ab1?#", max_size=40).map(str.encode))
def test_anything_is_a_job_or_an_error_of_ours(content: bytes) -> None:
    with contextlib.suppress(BadJobError):
        assert job_document.parse(content, "f").script
