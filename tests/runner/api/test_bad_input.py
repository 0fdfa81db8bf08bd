"""Bad input gets a fitting status and a sentence that names the field or the cause, and nothing is half done."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from runner.api import bodies
from runner.api.models import JobRequest
from runner.job import Job
from runner.service.service import Service
from tests.runner.api.test_access import create
from tests.runner.api.test_app import app_of, client, new_service

pytestmark = pytest.mark.anyio


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return new_service(tmp_path)


@pytest.fixture
async def api(service: Service, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client(service, tmp_path) as api:
        yield api


_STEPS = [{"name": "a", "script": "x"}, {"name": "b", "script": "x", "if": "steps.c.outcome == 'failed'"}]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({"script": "x", "scrpt": 1}, "scrpt: there is no such field. Did you mean script?"),
        ({"script": 5}, "script: must be a valid string."),
        ({"script": "x", "retry": 4}, "retry: must be less than or equal to 3."),
        ({"script": "x", "timeout": "soon"}, "timeout: must be a valid number"),
        ({"script": "x", "args": ["a", 1]}, "args.1: must be a valid string."),
        ({"steps": [{"name": "a"}]}, "steps.0.script: must be given."),
        ({"steps": _STEPS}, "steps.1.if: There is no step 'c' before this one."),
        ({"steps": _STEPS, "script": "x"}, "A job has either a script, which may have arguments, or steps."),
        ({"script": "x", "environment": {"A": "a\0"}}, "The variable A has a NUL byte"),
        ({"script": "x", "timeout": "5"}, "timeout: must be a valid number."),
        ({"script": "x", "retry": True}, "retry: must be a valid integer."),
        ({"script": 5, "retry": 4}, "script: must be a valid string. retry: must be less than or equal to 3."),
        (b'{"script": "x", "script": "y"}', "script: this name was given before."),
        (b'{"script": "x", "environment": {"A": "1", "A": "2"}}', "A: this name was given before."),
        (b"\xff\xfe{}", "the body: Invalid JSON"),
        (b'{"script": "\xff"}', "the body: Invalid JSON"),
        (b'{"script": "\\ud800"}', "the body: Invalid JSON"),
        (b"[" * 100_000, "the body: Invalid JSON"),
    ],
    ids=str,
)
async def test_a_job_that_cannot_be_read_is_refused_by_field(
    api: httpx.AsyncClient, service: Service, body: object, cause: str
) -> None:
    answer = await api.post("/v1/jobs", content=body if isinstance(body, bytes) else json.dumps(body))
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["detail"].startswith(cause)
    assert service.records.waiting == 0


@pytest.mark.parametrize(("size", "beside"), [(100, False), (bodies.SMALL, True)])
async def test_a_large_body_is_understood_beside_the_renewal_of_leases(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, size: int, beside: bool
) -> None:
    """The trap: one or two seconds of a large script's submission were nobody else's."""
    threads, to_job = set(), JobRequest.to_job

    def noted(request: JobRequest) -> Job:
        threads.add(threading.current_thread() is not threading.main_thread())
        return to_job(request)

    monkeypatch.setattr(JobRequest, "to_job", noted)
    assert (await api.post("/v1/jobs", json={"script": "#" * size})).status_code == 202
    assert threads == {beside}


async def test_a_key_that_was_used_for_another_body_is_refused(api: httpx.AsyncClient, service: Service) -> None:
    headers = {"Idempotency-Key": "build-17"}
    first = await api.post("/v1/jobs", json={"script": "one"}, headers=headers)
    again = await api.post("/v1/jobs", json={"script": "one"}, headers=headers)
    other = await api.post("/v1/jobs", json={"script": "two"}, headers=headers)
    assert first.json() == again.json()
    assert (other.status_code, "used for another job" in other.json()["detail"]) == (409, True)
    assert service.records.waiting == 1


@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/stop"])
async def test_no_body_is_read_without_a_bound(api: httpx.AsyncClient, path: str) -> None:
    """The trap: a framework that parses bodies by itself reads them whole, and before it asks who sends them."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 24:
            sent += 1 << 16
            yield b" " * (1 << 16)

    answer = await api.post(path, content=endless())
    assert (answer.status_code, sent < 1 << 20) == (413, True)
    sent = 0
    stranger = await api.post(path, content=endless(), headers={"Authorization": "Bearer wrong"})
    assert (stranger.status_code, sent < 1 << 20) == (401, True)


async def test_a_body_that_does_not_come_is_not_waited_for(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DEADLINE", 0.05)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await api.post("/v1/jobs", content=stuck())
    assert (answer.status_code, "did not come within" in answer.json()["detail"]) == (408, True)


@asynccontextmanager
async def served(service: Service, state: Path) -> AsyncIterator[int]:
    """The API on a real port."""
    app = app_of(service, state)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def test_a_gigabyte_is_refused_when_it_is_announced(service: Service, tmp_path: Path) -> None:
    async with served(service, tmp_path) as port, asyncio.timeout(20):
        token = (tmp_path / "token").read_text().strip()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {1 << 30}\r\n\r\n".encode()
        )
        answer = await reader.read()  # to the end of the connection: nothing of the body is waited for
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"bytes at most" in answer
    assert service.records.waiting == 0


async def test_who_did_what_is_in_the_log(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "runner.api"):
        ci = await create(api, "submit")
        who = f"ci (token {ci['id']})"
        job = (await api.post("/v1/jobs", json={"script": "x"}, headers=ci)).json()["id"]
        await api.post(f"/v1/jobs/{job}/cancel", headers=ci)
        await api.delete(f"/v1/tokens/{ci['id']}", headers=ci)
        await api.delete(f"/v1/tokens/{ci['id']}")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("runner.api")]
    assert said == [
        f"token {ci['id']} for 'ci' was created by the operator (token first)",
        f"job {job}: submitted by {who}",
        f"job {job}: cancelled by {who}",
        f"{who} may not DELETE /v1/tokens/{ci['id']}: no scope admin",
        f"token {ci['id']} was revoked by the operator (token first)",
    ]
    assert ci["Authorization"].split(".")[1] not in caplog.text
