"""Files over HTTP: archives in, artifacts out, and the results when something is wrong."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.execution.files.bundle import Bundle, Member
from runner.execution.files.limits import FileLimits
from runner.outcome import Succeeded
from runner.service.service import SETTINGS, Service
from tests.runner.api.test_app import client, new_service

pytestmark = pytest.mark.anyio


def small(folder: Path) -> Service:
    service = new_service(folder)
    service._settings = replace(SETTINGS, files=FileLimits(archive_bytes=1000))
    return service


async def test_an_archive_is_taken_and_named_by_a_job(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        sent = await api.post("/v1/uploads", content=b"x" * 100)
        assert (sent.status_code, sent.json()["size"]) == (201, 100)
        source = {"kind": "upload", "id": sent.json()["id"]}
        assert (await api.post("/v1/jobs", json={"script": "true", "source": source})).status_code == 202
        source["id"] = "0" * 32
        refused = await api.post("/v1/jobs", json={"script": "true", "source": source})
    assert (refused.status_code, refused.json()["detail"][:40]) == (
        422,
        f"source.id: There is no archive {'0' * 10}"[:40],
    )
    assert service.records.uploads.path(sent.json()["id"]).read_bytes() == b"x" * 100


async def test_an_archive_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 100
            yield b"x" * 100

    async with client(small(tmp_path), tmp_path) as api:
        announced = await api.post("/v1/uploads", content=b"x" * 1001)
        unannounced = await api.post("/v1/uploads", content=endless())
    assert (announced.status_code, unannounced.status_code, sent < 2000) == (413, 413, True)
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_full_disk_refuses_an_archive_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with client(new_service(tmp_path), tmp_path) as api:
        with monkeypatch.context() as patch:
            patch.setattr("runner.service.uploads.os.fsync", full)
            answer = await api.post("/v1/uploads", content=b"x")
    assert answer.status_code == 507
    assert (
        answer.json()["detail"] == "The archive cannot be kept: No space left on device. Make room in the state folder."
    )
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_artifacts_are_listed_and_downloaded_also_in_parts(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        job = (await api.post("/v1/jobs", json={"script": "true"})).json()["id"]
        early = await api.get(f"/v1/jobs/{job}/artifacts")
        assert (early.status_code, "no outcome yet" in early.json()["detail"]) == (409, True)
        record = await service.records.get(job)
        assert record is not None
        made = Bundle(record.bundle_path)
        made.begin(Member("a", 3))
        made.write(b"abc")
        made.end()
        made.keep(("b: it is no file",))
        made.close()
        assert await service.records.take(record)
        record.begin()
        await record.settle(Succeeded())
        listed = (await api.get(f"/v1/jobs/{job}/artifacts")).json()
        whole = await api.get(f"/v1/jobs/{job}/artifacts/archive")
        part = await api.get(f"/v1/jobs/{job}/artifacts/archive", headers={"Range": "bytes=5-"})
    assert ([one["path"] for one in listed["artifacts"]], listed["left_out"]) == (["a"], ["b: it is no file"])
    assert (whole.headers["content-type"], len(whole.content)) == ("application/gzip", listed["size"])
    assert (part.status_code, part.content) == (206, whole.content[5:])
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert tar.getnames() == ["a"]


async def test_a_job_without_artifacts_has_an_empty_list_and_nothing_to_download(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        job = (await api.post("/v1/jobs", json={"script": "true"})).json()["id"]
        record = await service.records.get(job)
        assert record is not None
        assert await service.records.take(record)
        record.begin()
        await record.settle(Succeeded())
        listed = (await api.get(f"/v1/jobs/{job}/artifacts")).json()
        assert listed == {"artifacts": [], "left_out": [], "size": 0}
        statuses = [
            (await api.get(f"/v1/jobs/{one}/artifacts{more}")).status_code
            for one in (job, "0" * 32)
            for more in ("", "/archive")
        ]
        assert statuses == [200, 404, 404, 404]
        (tmp_path / "artifacts" / "lists" / job).write_text("damaged")
        damaged = await api.get(f"/v1/jobs/{job}/artifacts")
    assert (damaged.status_code, "cannot be read" in damaged.json()["detail"]) == (507, True)
