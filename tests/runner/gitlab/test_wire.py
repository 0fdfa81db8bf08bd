"""The frames between a hook and the service: both sides agree, and what is odd is refused."""

from __future__ import annotations

import posix
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import GitLabError
from runner.gitlab import client, stages, wire
from runner.gitlab.containers.inside import enter
from runner.gitlab.stages import Stage
from runner.gitlab.wire import BuildFailed, Done, End, Request, SystemFailed, Verb
from runner.outcome import Cancelled, Killed, Limit, Outcome, SandboxLost, ScriptFailed, Succeeded, TimedOut

CALL = "0123456789abcdef" * 2


@given(st.binary(max_size=100))
def test_both_sides_frame_alike(payload: bytes) -> None:
    frame = client.frame(b"T", payload[:16])
    assert frame == wire.encode(b"T", payload[:16])
    assert wire.check_head(frame[: wire.HEAD.size]) == (b"T", len(payload[:16]))


@pytest.mark.parametrize(
    ("end", "code"),
    [(Done(), 0), (BuildFailed(42), 1), (SystemFailed("It broke."), 2)],
    ids=["done", "build", "system"],
)
def test_the_last_word(end: End, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUILD_EXIT_CODE_FILE", raising=False)
    last = wire.encode_end(end).rpartition(b"x\0\0\0")[2][1:]
    assert client.finish(last) == code


def test_a_hook_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: TERM just before a wait is seen by Python only after it, and a silent stage would be cancelled late."""
    monkeypatch.setattr(client, "LOOK", 0.01)
    monkeypatch.setitem(posix.environ, client.JOB_VARIABLE.encode(), b"7.x")
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as link:
        service.bind(path)
        service.listen()
        client.Hook("cleanup", [], path, client.Voice("cleanup")).connect(link)
        assert link.gettimeout() == client.LOOK
        assert list(client.Frames(link).receive()) == []


def test_the_hooks_have_the_same_names() -> None:
    assert set(client.PATIENCE) == set(Verb)


def test_a_request() -> None:
    words = b"\0".join([b"run", b"7.secret", b"build_script", CALL.encode(), b"12"])
    request = wire.parse_request(words, b"body")
    assert request == Request(Verb.RUN, "7.secret", "build_script", CALL, 12, b"body")
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"run",
        b"walk\0\0\0" + CALL.encode() + b"\x000",
        b"run\0\0build script\0" + CALL.encode() + b"\x000",
        b"run\0\0../x\0" + CALL.encode() + b"\x000",
        b"run\0\0x\0../../../../../../etc/x\x000",
        b"run\0\0x\0" + CALL.encode() + b"\0-1",
        b"run\0\0x\0" + CALL.encode() + b"\0" + b"9" * 5000,
        b"run\0\0x\0" + CALL.encode() + "\0²".encode(),
        b"\xff\xfe\0\0\0\0",
    ],
)
def test_a_request_that_is_none(words: bytes) -> None:
    with pytest.raises(GitLabError):
        wire.parse_request(words, b"")


@pytest.mark.parametrize(
    ("body", "variables"),
    [
        (b"", {}),
        (b"A=1\0B=x=y\nz\0A=2", {"A": "2", "B": "x=y\nz"}),
        (b"=1\0no pair\0C=\xff", {"C": "\ufffd"}),
    ],
)
def test_variables(body: bytes, variables: dict[str, str]) -> None:
    assert wire.parse_variables(body) == variables


@given(st.binary(min_size=5, max_size=5))
def test_a_head_is_bounded(head: bytes) -> None:
    try:
        kind, size = wire.check_head(head)
    except GitLabError:
        return
    assert size <= wire.LIMITS[kind]


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (Succeeded(), Done()),
        (ScriptFailed(3), BuildFailed(3)),
        (Killed(9), BuildFailed(137)),
        (Killed(enter.OURS), SystemFailed("The sandbox could not run the script. The lines above say why.")),
        (ScriptFailed(128 + enter.OURS), BuildFailed(128 + enter.OURS)),
        (TimedOut(Limit.JOB), SystemFailed("The script ran into the job timeout and was ended.")),
        (Cancelled("GitLab"), SystemFailed("The script was cancelled by GitLab.")),
        (SandboxLost("It is gone."), SystemFailed("The sandbox was lost: It is gone.")),
    ],
)
def test_what_an_outcome_is_to_gitlab(outcome: Outcome, end: End) -> None:
    assert stages.end_of(outcome) == end
    assert stages.from_text(stages.to_text(end)) == end


@pytest.mark.parametrize(
    ("name", "is_the_users"),
    [
        ("build_script", True),
        ("step_release", True),
        ("after_script", True),
        ("get_sources", False),
        ("a_stage_of_the_future", False),
    ],
)
def test_whose_a_stage_is(name: str, is_the_users: bool) -> None:
    assert Stage(name, b"").is_the_users is is_the_users


def test_a_script_of_gitlab_runner_s_is_started_without_looking_for_bash() -> None:
    assert stages.direct(b"#!/usr/bin/env bash\n\ntrue\n") == b"#!/bin/bash\n\ntrue\n"
    for other in (b"#!/usr/bin/env bash -x\n", b"#!/usr/bin/env bash", b"true\n#!/usr/bin/env bash\n", b""):
        assert stages.direct(other) == other
