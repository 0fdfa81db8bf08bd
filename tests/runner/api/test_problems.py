"""Each error has the status that tells a client what to do."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from runner.api.problems import add_problems
from runner.errors import (
    ConfigError,
    IllegalMoveError,
    LeaseLostError,
    RunnerError,
    StateBusyError,
    StateError,
    StoppingError,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StateError("The disk is full."), 507),
        (StateBusyError("It is locked."), 503),
        (LeaseLostError("It is over."), 503),
        (StoppingError("It stops."), 503),
        (IllegalMoveError("A defect."), 500),
        (ConfigError("Nobody expects this one here."), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RunnerError) else str(value),
)
async def test_an_error_that_is_not_named_has_the_status_of_its_kind(
    error: RunnerError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    add_problems(app)

    @app.get("/")
    async def fails() -> None:
        raise error

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://runner") as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["detail"]) == (status, str(error))
    assert ("a defect in the runner" in caplog.text) is (status == 500)
