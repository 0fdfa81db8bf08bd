"""How a command finds the service, and its reaction to a server that is no runner."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from runner import client as client_module
from runner.client import Client, find
from runner.errors import BadJobError, ClientError


def compose(*words: str) -> str:
    """What compose says of a runner that it started."""
    return {"exec": "token-in-the-volume", "port": "127.0.0.1:18080"}[words[0]]


def nobody(*words: str) -> str:
    raise AssertionError("compose was asked for nothing")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on a host without a service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client_module, "DEFAULT_TOKEN", tmp_path / "default-token")
    return tmp_path


def test_what_the_environment_says_comes_first(place: Path) -> None:
    (place / "compose.yaml").touch()
    (place / "file").write_text("from-a-file\n")
    known = {"RUNNER_URL": "https://ci", "RUNNER_TOKEN_FILE": str(place / "file")}
    assert find(known, nobody) == ("https://ci", "from-a-file", str(place / "file"))
    assert find({**known, "RUNNER_TOKEN": "given"}, nobody) == ("https://ci", "given", "RUNNER_TOKEN")


def test_a_service_that_was_started_by_hand_is_found(place: Path) -> None:
    (place / "default-token").write_text("token\n")
    assert find({}, nobody) == ("http://127.0.0.1:8080", "token", str(place / "default-token"))


def test_compose_is_asked_in_its_folder_only(place: Path) -> None:
    with pytest.raises(ClientError, match="Set RUNNER_TOKEN_FILE, or work in the folder"):
        find({}, nobody)
    (place / "compose.yaml").touch()
    assert find({}, compose)[:2] == ("http://127.0.0.1:18080", "token-in-the-volume")
    assert find({"RUNNER_URL": "http://other"}, compose)[:2] == ("http://other", "token-in-the-volume")


def test_a_token_file_that_cannot_be_read_is_named(place: Path) -> None:
    with pytest.raises(ClientError, match="missing cannot be read"):
        find({"RUNNER_TOKEN_FILE": str(place / "missing")}, nobody)


def test_in_a_folder_that_nobody_may_read_there_is_no_compose(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(ClientError, match="There is no token"):
        find({}, nobody)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("Geheim\nGeheim", "more than one line"),
        ("Geheim\r\nGeheim", "more than one line"),
        ("Geheim Geheim", "blanks"),
        ("Geheim\x1b[0m", "not ASCII"),
        ("Geheim\u00fc", "not ASCII"),
        ("\n", "there is nothing"),
    ],
)
def test_what_is_no_token_is_told_and_never_shown(place: Path, token: str, why: str) -> None:
    (place / "file").write_text(token)
    known: list[tuple[str, dict[str, str]]]
    known = [("RUNNER_TOKEN", {"RUNNER_TOKEN": token}), (f"{place}/file", {"RUNNER_TOKEN_FILE": str(place / "file")})]
    for origin, environment in known:
        with pytest.raises(ClientError, match=why) as told:
            find(environment, nobody)
        assert f"The token in {origin} is no token" in str(told.value)
        assert "Geheim" not in str(told.value)


@pytest.mark.parametrize(("url", "token"), [("http://ci:port", "t"), ("http://ci", "t\u00fc")])
def test_an_address_or_a_token_that_is_none_is_told(url: str, token: str) -> None:
    with pytest.raises(ClientError, match="not usable"):
        Client(url, token)


@pytest.mark.parametrize("url", ["http://[", "ftp://ci", "ci", ""])
def test_an_address_that_leads_nowhere_is_told(url: str) -> None:
    with pytest.raises(ClientError, match="No runner answers at"):
        Client(url, "token").status()


def against(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    """A client whose every request is answered like that."""
    client = Client("http://ci", "token")
    client._http = httpx.Client(base_url="http://ci", transport=httpx.MockTransport(answer))
    return client


@pytest.mark.parametrize("content", [b"<html>", b"[]", b""])
def test_what_answers_and_is_no_runner_is_told(content: bytes) -> None:
    with pytest.raises(ClientError, match="no runner"):
        against(lambda _: httpx.Response(200, content=content)).status()
    with pytest.raises(ClientError, match="HTTP 502"):
        against(lambda _: httpx.Response(502, content=content)).status()


def test_a_refused_job_is_bad_input_and_anything_else_is_not() -> None:
    problem = {"title": "", "status": 422, "detail": "script: Field required."}
    with pytest.raises(BadJobError, match="Field required"):
        against(lambda _: httpx.Response(422, json=problem)).submit({}, "key")
    with pytest.raises(ClientError, match="Field required"):
        against(lambda _: httpx.Response(409, json=problem)).submit({}, "key")


def test_a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key() -> None:
    keys = []

    def lossy(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            raise httpx.ReadError("cut", request=request)
        return httpx.Response(202, json={"id": "1"})

    assert against(lossy).submit({"script": "true"}, "key") == {"id": "1"}
    assert keys == ["key"] * 3
