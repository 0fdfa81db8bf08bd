"""The description of the API in the docs is the API's own; and nothing that it allows to be sent breaks the service."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from tests.runner.api.openapi import FILE, document
from tests.runner.api.process import service


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
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[schemathesis.schemas.BaseSchema, dict[str, str]]]:
    """A real service."""
    state = tmp_path_factory.mktemp("state")
    with service(state) as url:
        headers = {"Authorization": f"Bearer {(state / 'token').read_text().strip()}"}
        yield schemathesis.openapi.from_url(f"{url}/openapi.json"), headers
        said = (state / "log").read_text()
        assert "Traceback" not in said, said


def test_nothing_that_is_sent_is_an_error_of_the_service(
    api: tuple[schemathesis.schemas.BaseSchema, dict[str, str]],
) -> None:
    """Requests that follow the description, and such that break it in one place."""
    schema, headers = api
    answers: Counter[int] = Counter()
    # After a stop there would be nobody to send the rest to; without a keeper it is not ready, and nobody knows of
    # sandboxes, which is a 503.
    every = schema.exclude(path=["/v1/stop", "/ready", "/v1/sandboxes"]).get_all_operations()
    operations = [result.ok() for result in every if isinstance(result, Ok)]
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=15,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: schemathesis.Case[Any]) -> None:
                answers[case.call_and_validate(headers=headers, checks=[not_a_server_error]).status_code] += 1

            with contextlib.suppress(Unsatisfiable):  # nothing of it can be broken
                send()
    assert {200, 201, 202, 404, 422} <= set(answers), "the requests came as far as they should"
