"""The sandboxes over HTTP, and the command that lists them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from runner.api.sandboxes import Sandboxes
from runner.commands.operation import _sandbox
from runner.errors import LeaseUnreachableError
from runner.execution.lease import SandboxFacts
from runner.store.tokens import Scope, Tokens
from tests.runner.api.test_app import app_of, new_service

pytestmark = pytest.mark.anyio

READY = SandboxFacts("s1", 1, "default", "ready", 2.5, None, None, None)
LEASED = SandboxFacts("s2", 4, "default", "leased", 1.0, "team-a", "attempt-1", None)
CONDEMNED = SandboxFacts("ci@192.0.2.1:22", 2, None, "condemned", None, "team-b", None, "It was left broken.")


class Api:
    """The API over a service that knows of these sandboxes, asked with a token of one scope."""

    def __init__(self, state: Path, known: Sandboxes) -> None:
        service = new_service(state)
        tokens = Tokens(service.records.jobs._database)
        self._tokens = {scope: tokens.create(scope, [scope], None)[1] for scope in Scope}
        self._app = app_of(service, state, known=known)

    async def get(self, scope: Scope = Scope.READ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._tokens[scope]}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://runner") as client:
            return await client.get("/v1/sandboxes", headers=headers)


async def test_they_are_listed_for_those_who_may_read(tmp_path: Path) -> None:
    asked = 0

    async def known() -> Sequence[SandboxFacts]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return READY, LEASED, CONDEMNED

    api = Api(tmp_path, known)
    answers = await asyncio.gather(*(api.get() for _ in range(20)))
    assert asked == 1, "a keeper that hangs would have all threads"
    assert answers[0].json() == [{**asdict(facts), "job": None} for facts in (READY, LEASED, CONDEMNED)]
    assert {scope: (await api.get(scope)).status_code for scope in Scope} == {
        Scope.READ: 200, Scope.SUBMIT: 403, Scope.ADMIN: 403, Scope.METRICS: 403,
    }  # fmt: skip


async def test_without_a_keeper_it_says_so_and_asks_anew(tmp_path: Path) -> None:
    gone = True

    async def known() -> Sequence[SandboxFacts]:
        if gone:
            raise LeaseUnreachableError("No keeper answers on /run/x. Start it: docker compose up -d.")
        return (READY,)

    api = Api(tmp_path, known)
    answer = await api.get()
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["detail"] == "No keeper answers on /run/x. Start it: docker compose up -d."
    gone = False
    assert [one["name"] for one in (await api.get()).json()] == ["s1"]


def test_what_nobody_knows_is_left_empty() -> None:
    assert _sandbox({**asdict(CONDEMNED), "job": None}) == [
        "ci@192.0.2.1:22", "", "condemned", "", "team-b", "", "It was left broken.",
    ]  # fmt: skip
    assert _sandbox({**asdict(LEASED), "job": "0a"}) == ["s2", "default", "leased", "1.0", "team-a", "0a", ""]
