"""The answers for health checks and Prometheus, and who may ask."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.errors import LeaseError, LeaseUnreachableError
from runner.job import Job
from runner.outcome import NAMES, Limit, Succeeded, TimedOut
from runner.service import ask_once, health
from runner.service.service import Service
from runner.store.database import Database
from runner.store.tokens import Scope, Tokens
from tests.runner.api.test_app import app_of, new_service
from tests.runner.service.state import locked

pytestmark = pytest.mark.anyio

KEEPER = "# TYPE sandbox_warm gauge\nsandbox_warm 2.0\n"


async def keeper() -> str:
    return KEEPER


class Api:
    """The API of a service, in this process, asked with a token of one scope."""

    def __init__(self, service: Service, state: Path, keeper: Callable[[], Awaitable[str]] | None) -> None:
        tokens = Tokens(service.records.jobs._database)
        self._tokens = {scope: tokens.create(scope, [scope], None)[1] for scope in Scope}
        self._app = app_of(service, state, keeper=keeper)

    async def get(self, path: str, scope: Scope | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._tokens[scope]}"} if scope else {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://runner") as client:
            return await client.get(path, headers=headers)

    async def measured(self) -> dict[str, float]:
        """Every series as its text form, with its value. An empty label is none, as Prometheus has it."""
        answer = await self.get("/metrics", Scope.METRICS)
        assert answer.status_code == 200, answer.text
        families = text_string_to_metric_families(answer.text)
        return {
            s.name + "".join(f" {name}={value}" for name, value in sorted(s.labels.items()) if value): s.value
            for family in families
            for s in family.samples
        }


def reconciled(state: Path) -> Service:
    service = new_service(state)
    service._reconciled = True
    return service


async def test_a_service_that_can_run_a_job_is_ready(tmp_path: Path) -> None:
    api = Api(reconciled(tmp_path), tmp_path, keeper)
    assert (await api.get("/live")).json() == {"status": "alive"}
    assert (await api.get("/ready")).json() == {"status": "ready"}


async def test_each_reason_is_named_and_alive_is_another_thing(tmp_path: Path) -> None:
    async def gone() -> str:
        raise LeaseUnreachableError("No keeper answers on /run/x.")

    service = new_service(tmp_path)
    await service.drain("somebody")
    api = Api(service, tmp_path, gone)
    with locked(tmp_path):
        answer = await api.get("/ready")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["reasons"] == ["starting", "draining", "store", "keeper"]
        for words in ("draining; jobs wait", "Another program holds the database locked", "No keeper answers"):
            assert words in answer.json()["detail"]
        assert (await api.get("/live")).status_code == 200
        measured = await api.measured()
        assert [measured[f"runner_unready reason={r}"] for r in health.Reason] == [1, 1, 0, 0, 1, 1]
        assert measured["sandbox_keeper_up"] == 0
        assert "sandbox_warm" not in measured


async def test_a_store_that_does_not_answer_is_not_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STORE_DEADLINE", 0.05)
    service = reconciled(tmp_path)
    with service.records.jobs._database._reading:  # as a read that hangs in the disk
        answer = await Api(service, tmp_path, keeper).get("/live")
    assert answer.status_code == 507
    assert "does not answer within" in answer.json()["detail"]


async def test_a_keeper_that_hangs_holds_nobody_up_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(health, "KEEPER_DEADLINE", 0.05)
    answer = await Api(reconciled(tmp_path), tmp_path, hangs).get("/ready")
    assert answer.json()["reasons"] == ["keeper"]


async def test_a_keeper_of_an_earlier_release_is_up_and_measures_nothing(tmp_path: Path) -> None:
    async def refuses() -> str:
        raise LeaseError("The keeper did not understand the request.")

    api = Api(reconciled(tmp_path), tmp_path, refuses)
    assert (await api.get("/ready")).status_code == 200
    measured = await api.measured()
    assert measured["sandbox_keeper_up"] == 1
    assert "sandbox_warm" not in measured


async def test_however_many_ask_the_keeper_is_asked_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def counts() -> str:
        asked.append(time.monotonic())
        return KEEPER

    api = Api(reconciled(tmp_path), tmp_path, counts)
    await asyncio.gather(*(api.get("/ready") for _ in range(20)), api.measured())
    assert len(asked) == 1
    monkeypatch.setattr(ask_once, "_FRESH", 0.0)
    await api.measured()  # told from before, and old from then on
    assert len(asked) == 1


async def test_however_many_ask_whether_it_lives_the_store_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: no token is needed for that, and each question counted all jobs."""
    service, asked, read = reconciled(tmp_path), list[str](), Database.read

    def noted(database: Database, statement: str, *values: object) -> list[sqlite3.Row]:
        asked.append(statement)
        return read(database, statement, *values)

    api = Api(service, tmp_path, keeper)
    monkeypatch.setattr(Database, "read", noted)
    answers = await asyncio.gather(*(api.get("/live") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert asked == ["SELECT 1 FROM job LIMIT 1"]


async def test_metrics_are_for_tokens_of_their_scope_alone(tmp_path: Path) -> None:
    api = Api(reconciled(tmp_path), tmp_path, keeper)
    answers = {scope: (await api.get("/metrics", scope)).status_code for scope in Scope}
    assert answers == {Scope.READ: 403, Scope.SUBMIT: 403, Scope.ADMIN: 403, Scope.METRICS: 200}
    assert (await api.get("/metrics")).status_code == 401
    assert (await api.get("/v1/jobs", Scope.METRICS)).status_code == 403


async def test_jobs_are_told_by_state_and_the_oldest_by_how_long_it_waits(tmp_path: Path) -> None:
    service = reconciled(tmp_path)
    api = Api(service, tmp_path, None)
    before = await api.measured()
    assert (before["runner_jobs state=queued"], before["runner_queue_oldest_seconds"]) == (0, 0)
    assert {name for name in before if name.startswith("runner_jobs_ended_total")} == {
        *(f"runner_jobs_ended_total outcome={name}" for name in NAMES if name != "timed_out"),
        *(f"runner_jobs_ended_total outcome=timed_out which={which}" for which in ("queue", "setup", "job", "step")),
    }
    assert "sandbox_keeper_up" not in before  # it has none
    await service.submit(Job(b"true"))
    await service.submit(Job(b"true"))
    after = await api.measured()
    assert (after["runner_jobs state=queued"], after["runner_jobs_submitted_total"]) == (2, 2)
    assert after["runner_queue_oldest_seconds"] > 0
    assert (after["runner_slots"], after["runner_slots_busy"]) == (1, 0)


async def test_a_job_is_timed_on_its_way(tmp_path: Path) -> None:
    service = reconciled(tmp_path)
    record = await service.submit(Job(b"true"))
    assert await service.records.take(record)
    record.begin().append(b"four")
    await record.settle(Succeeded())
    await record.settle(Succeeded())  # tried again, as after a full disk: one job has one outcome
    await record.finish()
    measured = await Api(service, tmp_path, None).measured()
    assert measured["runner_jobs_ended_total outcome=succeeded"] == 1
    assert measured["runner_queue_wait_seconds_count"] == 1
    assert measured["runner_log_bytes_total"] == 4
    assert measured["runner_script_seconds_count"] == 0  # it was never sent


async def test_a_job_that_timed_out_is_counted_by_its_limit(tmp_path: Path) -> None:
    """And in no series that was not there from the start."""
    service = reconciled(tmp_path)
    api = Api(service, tmp_path, None)
    before = await api.measured()
    for limit in (Limit.QUEUE, Limit.QUEUE, Limit.STEP):
        service.records.metrics.ended(TimedOut(limit))
    after = await api.measured()
    counted = {
        name: after[name] - count for name, count in before.items() if name.startswith("runner_jobs_ended_total")
    }
    assert {name: count for name, count in counted.items() if count} == {
        "runner_jobs_ended_total outcome=timed_out which=queue": 2,
        "runner_jobs_ended_total outcome=timed_out which=step": 1,
    }
    assert {name for name in after if name.startswith("runner_jobs_ended_total")} == set(counted)


async def test_errors_of_the_store_are_counted(tmp_path: Path) -> None:
    service = reconciled(tmp_path)
    service.records.jobs._database.on_failure = service.records.metrics.store_errors.inc
    api = Api(service, tmp_path, None)
    with locked(tmp_path):
        assert (await api.get("/ready")).json()["reasons"] == ["store"]
    measured = await api.measured()
    assert measured["runner_store_errors_total"] == 1
