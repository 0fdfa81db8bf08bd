"""The description of the API in the docs is fresh, and no request that it allows breaks the service."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from tests.runner.api.openapi import FILE, document
from tests.runner.api.process import service

DEADLINE: Final = 60.0
"""Seconds for an answer. A job is on disk before the answer, and clients give up after five to ten seconds by default:
a disk that other tests keep busy may take longer."""


def test_the_description_in_the_docs_is_fresh() -> None:
    assert json.loads(FILE.read_text()) == document(), "Run `python -m tests.runner.api.openapi`."


def test_the_page_has_each_request_and_no_other() -> None:
    described = {
        f"{method.upper()} {re.sub('{.*?}', '{id}', path)}"
        for path, methods in json.loads(FILE.read_text())["paths"].items()
        for method in methods
    }
    table = re.findall(
        r"^\| (`[^|]*) \| (?:read|submit|admin|metrics|none) \|", FILE.with_name("api.md").read_text(), re.MULTILINE
    )
    assert {one for row in table for one in re.findall(r"`(.*?)`", row)} == described


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A real service, and who may do everything there."""
    state = tmp_path_factory.mktemp("state")
    with service(state) as url:
        headers = {"Authorization": f"Bearer {(state / 'token').read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=DEADLINE) as client:
            yield client
        said = (state / "log").read_text()
        assert "Traceback" not in said, said


class There:
    """What requests can be about: made anew for each, as they may end it."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api
        self._turn = itertools.cycle((True, False))

    def put_into(self, case: schemathesis.Case[Any]) -> bool:
        """Have every second request that names something name what is there. Returns whether this one does."""
        names = (case.path_parameters or {}).keys() & {"job_id", "token_id"}
        if not names or not next(self._turn):
            return False
        for name in names:
            case.path_parameters[name] = self._token() if name == "token_id" else self._job(case.path)
        return True

    def _job(self, path: str) -> str:
        """One that waits can be cancelled; its log would be followed for ever."""
        job = self._made("/v1/jobs", {"script": "true"})
        if not path.endswith("/cancel"):
            self._api.post(f"/v1/jobs/{job}/cancel").raise_for_status()
        return job

    def _token(self) -> str:
        return self._made("/v1/tokens", {"name": "fuzz", "scopes": ["read"]})

    def _made(self, path: str, what: dict[str, object]) -> str:
        answer = self._api.post(path, json=what)
        answer.raise_for_status()
        return str(answer.json()["id"])


def test_nothing_that_is_sent_is_an_error_of_the_service(api: httpx.Client) -> None:
    """Requests that follow the description or break it in one place; about what is there, and what is not."""
    schema = schemathesis.openapi.from_url(f"{api.base_url}/openapi.json")
    headers, there = dict(api.headers), There(api)
    answers: Counter[int] = Counter()
    found: Counter[str] = Counter()
    # After a stop there would be nobody to send the rest to; without a keeper it is not ready, and nobody knows of
    # sandboxes, which is a 503.
    every = schema.exclude(path=["/v1/stop", "/ready", "/v1/sandboxes"]).get_all_operations()
    operations = [result.ok() for result in every if isinstance(result, Ok)]
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=15,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: schemathesis.Case[Any]) -> None:
                is_there = there.put_into(case)
                status = case.call_and_validate(
                    headers=headers, checks=[not_a_server_error], timeout=DEADLINE
                ).status_code
                answers[status] += 1
                if is_there and status < 300:
                    found[case.operation.label] += 1

            with contextlib.suppress(Unsatisfiable):  # nothing of it can be broken
                send()
    assert {200, 201, 202, 404, 422} <= set(answers), "the requests came as far as they should"
    # Without a keeper no job has come to artifacts.
    about_one = {one.label for one in operations if "{" in one.path and not one.path.endswith("/archive")}
    assert found.keys() == about_one, "each request about one thing has met one"
