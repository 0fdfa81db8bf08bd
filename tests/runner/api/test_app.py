"""What a client of the API learns about the service's state."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest
from fastapi import FastAPI

from runner.api import jobs
from runner.api.app import make_app
from runner.api.token import Token
from runner.execution.lease import LeaseSource
from runner.outcome import Succeeded
from runner.service.service import Service
from runner.store.database import Database
from runner.store.deliveries import Deliveries
from runner.store.tokens import Tokens
from tests.runner.service.state import State, locked, service_of

pytestmark = pytest.mark.anyio


def new_service(state: Path) -> Service:
    """A service that is asked for nothing that needs a sandbox."""
    return service_of(State(state), cast(LeaseSource, object()))


def app_of(service: Service, state: Path, **options: object) -> FastAPI:
    """The application, on the service's own database: another connection would be in its way."""
    database = service.records.jobs._database
    return make_app(service, Token(state / "token"), Tokens(database), Deliveries(database), **options)  # type: ignore[arg-type]


@asynccontextmanager
async def client(service: Service, state: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = app_of(service, state)
    headers = {"Authorization": f"Bearer {(state / 'token').read_text().strip()}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://runner", headers=headers) as api:
        yield api


async def test_ready_only_once_the_jobs_of_an_earlier_life_were_found_again(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        answer = await api.get("/ready")
        assert (answer.status_code, "looks for what it left running" in answer.text) == (503, True)
        service.stop()
        await service.work()
        assert (await api.get("/live")).status_code == 200
        answer = await api.get("/ready")
        assert (answer.status_code, "takes no more jobs" in answer.text) == (503, True)


async def test_a_job_that_cannot_be_kept_is_refused_with_the_cause_and_the_next_step(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        with locked(tmp_path):
            answer = await api.post("/v1/jobs", json={"script": "true"})
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("The job cannot be kept: Another program holds the database locked.")


async def test_nothing_is_read_from_the_disk_on_the_thread_that_renews_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a disk that hangs held up everything, and a large job's script was decrypted there."""
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        job = (await api.post("/v1/jobs", json={"script": "true"})).json()["id"]
        made = (
            await api.post("/v1/tokens", json={"name": "ci", "scopes": ["read", "submit", "admin", "metrics"]})
        ).json()
        threads, read = set(), Database.read

        def noted(database: Database, statement: str, *values: object) -> list[sqlite3.Row]:
            threads.add(threading.current_thread())
            return read(database, statement, *values)

        monkeypatch.setattr(Database, "read", noted)
        api.headers["Authorization"] = f"Bearer {made['token']}"
        paths = ("jobs", f"jobs/{job}", f"jobs/{job}/log", f"jobs/{job}/artifacts", "status", "webhooks", "tokens")
        for path in [*(f"/v1/{path}" for path in paths), "/live", "/ready", "/metrics"]:
            assert (await api.get(path)).status_code in (200, 409, 503)
        for path, body in (
            (f"jobs/{job}/cancel", None),
            ("jobs", {"script": "true"}),
            ("drain", None),
            ("resume", None),
        ):
            answer = await api.post(f"/v1/{path}", json=body, headers={"Idempotency-Key": "k"})
            assert answer.status_code in (200, 202)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_job_is_the_same_over_a_restart_and_its_result_can_be_asked_for_again_and_again(tmp_path: Path) -> None:
    first = new_service(tmp_path)
    async with client(first, tmp_path) as api:
        submitted = (await api.post("/v1/jobs", json={"script": "true"})).json()
    assert submitted["state"] == "queued"
    second = new_service(tmp_path)
    async with client(second, tmp_path) as api:
        assert (await api.get(f"/v1/jobs/{submitted['id']}")).json() == submitted
        record = await second.records.get(submitted["id"])
        assert record is not None
        assert await second.records.take(record)
        record.begin().append(b"one\ntwo\n")
        await record.settle(Succeeded())
        await record.finish()
    third = new_service(tmp_path)
    async with client(third, tmp_path) as api:
        views = [(await api.get(f"/v1/jobs/{submitted['id']}")).json() for _ in range(2)]
        rest = (await api.get(f"/v1/jobs/{submitted['id']}/log", params={"offset": 4, "follow": True})).text
    assert views[0] == views[1]
    assert (views[0]["state"], views[0]["submitted"]) == ("finished", submitted["submitted"])
    assert rest == "two\nrunner: The script succeeded.\n"


async def test_a_body_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_BODY", 1000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 100
            yield b"x" * 100

    async with client(new_service(tmp_path), tmp_path) as api:
        answer = await api.post("/v1/jobs", content=endless())
    assert (answer.status_code, "at most" in answer.json()["detail"], sent < 2000) == (413, True, True)
