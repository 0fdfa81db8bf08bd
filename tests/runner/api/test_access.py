"""Each token does what its scopes say, until it expires or is revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from runner.outcome import Cancelled
from tests.runner.api.test_app import client, new_service
from tests.runner.service.state import State
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client(new_service(tmp_path), tmp_path) as api:
        yield api


async def create(api: httpx.AsyncClient, *scopes: str, days: float | None = None) -> dict[str, str]:
    answer = await api.post("/v1/tokens", json={"name": "ci", "scopes": scopes, "days": days})
    assert answer.status_code == 201, answer.text
    return {"id": answer.json()["id"], "Authorization": f"Bearer {answer.json()['token']}"}


async def test_each_scope_lets_in_what_it_names_and_nothing_else(api: httpx.AsyncClient) -> None:
    job = (await api.post("/v1/jobs", json={"script": "true"})).json()["id"]
    asked = {
        "read": [
            ("GET", "/v1/jobs"),
            ("GET", f"/v1/jobs/{job}"),
            ("GET", f"/v1/jobs/{job}/log"),
            ("GET", "/v1/status"),
        ],
        "submit": [("POST", "/v1/jobs"), ("POST", f"/v1/jobs/{job}/cancel")],
        "admin": [
            ("GET", "/v1/tokens"),
            ("POST", "/v1/tokens"),
            ("DELETE", "/v1/tokens/0123"),
            ("POST", "/v1/drain"),
            ("POST", "/v1/resume"),
            ("POST", "/v1/stop"),
        ],
    }
    for scope in asked:
        token = await create(api, scope)
        for needed, requests in asked.items():
            for method, path in requests:
                answer = await api.request(method, path, headers=token, json={"script": "true"})
                assert (answer.status_code == 403) is (scope != needed), (scope, method, path, answer.text)
                if scope != needed:
                    assert f"lacks the scope `{needed}`" in answer.json()["detail"]


async def test_revoked_expired_and_made_up_tokens_are_worth_nothing(api: httpx.AsyncClient, tmp_path: Path) -> None:
    revoked, expired = await create(api, "read"), await create(api, "read", days=1)
    assert (await api.get("/v1/jobs", headers=revoked)).status_code == 200
    assert (await api.delete(f"/v1/tokens/{revoked['id']}")).status_code == 204
    with State(tmp_path).database.transaction("test") as connection:
        connection.execute("UPDATE token SET expires = 1 WHERE id = ?", (expired["id"],))
    made_up = {"Authorization": f"Bearer {expired['id']}.secret"}
    none = {"Authorization": ""}
    for token, cause in (
        (revoked, "unknown or was revoked"),
        (expired, "has expired"),
        (made_up, "unknown or was revoked"),
        (none, "Send `Authorization: Bearer TOKEN`"),
    ):
        answer = await api.get("/v1/jobs", headers=token)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
        assert cause in answer.json()["detail"]
    assert [token["id"] for token in (await api.get("/v1/tokens")).json()] == [expired["id"]]


async def test_no_token_is_kept_that_could_be_read_back(api: httpx.AsyncClient, tmp_path: Path) -> None:
    secret = (await create(api, "read"))["Authorization"].partition(".")[2]
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


async def test_who_cancelled_a_job_is_told(api: httpx.AsyncClient, tmp_path: Path) -> None:
    job = (await api.post("/v1/jobs", json={"script": "true"})).json()["id"]
    await api.post(f"/v1/jobs/{job}/cancel", headers=await create(api, "submit"))
    jobs = State(tmp_path).jobs
    await eventually(lambda: (summary := jobs.summary(job)) and summary.outcome == Cancelled("ci"))
