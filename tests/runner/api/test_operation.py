"""Drain, resume and stop over HTTP, and their traces in the status."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest

from runner.api.server import serve
from runner.gitlab.with_service import with_service
from runner.service.leases import NotedLeases
from runner.service.mode import Mode
from tests.runner.api.test_app import app_of, client, new_service
from tests.runner.gitlab.conftest import OPTIONS

pytestmark = pytest.mark.anyio


async def test_drain_resume_and_stop_are_told_and_who_drained_stands_in_the_status(tmp_path: Path) -> None:
    async with client(new_service(tmp_path), tmp_path) as api:
        drained = (await api.post("/v1/drain")).json()
        assert (drained["mode"], drained["drained_by"], drained["drained_since"] > 0) == (
            "draining",
            "the operator",
            True,
        )
        taken = await api.post("/v1/jobs", json={"script": "true"})
        assert (taken.status_code, (await api.get("/v1/status")).json()["waiting"]) == (202, 1)
        resumed = (await api.post("/v1/resume")).json()
        assert (resumed["mode"], resumed["drained_by"]) == ("working", None)
        stopping = await api.post("/v1/stop")
        assert (stopping.status_code, stopping.json()["mode"]) == (202, "stopping")
        refused = await api.post("/v1/resume")
        assert (refused.status_code, refused.json()["detail"].split(".")[0]) == (
            409,
            "The runner is stopping and ends soon",
        )
        assert (await api.post("/v1/jobs", json={"script": "true"})).status_code == 503
        assert (await api.post("/v1/stop", json={"force": True})).json()["mode"] == "aborting"


async def test_a_drain_of_an_earlier_life_holds_for_gitlab_s_jobs_too(tmp_path: Path) -> None:
    await new_service(tmp_path).drain("ops")
    service = new_service(tmp_path)
    working = with_service(
        service, cast(NotedLeases, object()), tmp_path / "gitlab", replace(OPTIONS, socket=tmp_path / "gitlab.sock")
    )
    app = app_of(service, tmp_path, works=working)
    headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://runner", headers=headers) as api:
        assert (await api.get("/v1/status")).json()["mode"] == "draining"
        assert working._jobs._held() == "The runner is draining."  # type: ignore[union-attr]
        await api.post("/v1/resume")
        assert working._jobs._held() == ""  # type: ignore[union-attr]


async def test_a_service_ends_by_itself_when_its_time_is_over(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    app = app_of(service, tmp_path)
    await asyncio.wait_for(serve(service, app, "127.0.0.1", 0, max_run_time=0.05), 60)
    assert service.mode is Mode.STOPPING
