"""Archives that came with jobs, and the artifacts of jobs, over restarts of the service."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import threading
import time
from pathlib import Path

import pytest

from runner.errors import BadJobError, BusyError
from runner.job import Job
from runner.outcome import ScriptFailed, Succeeded
from runner.service import uploads
from runner.service.uploads import Incoming, Uploads
from runner.source_and_artifacts import Artifacts, Upload, When
from runner.store.jobs import Request
from tests.runner.service.conftest import Host
from tests.runner.service.state import State
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

RULES = (Artifacts(paths=["out"], when=When.ALWAYS),)


def packed(text: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return content.getvalue()


def sent(folder: Uploads, content: bytes = b"x") -> str:
    incoming = folder.begin()
    incoming.write(content)
    assert incoming.keep() == len(content)
    incoming.close()
    return incoming.id


async def test_an_archive_is_kept_over_a_restart_and_gone_with_its_last_job(host: Host) -> None:
    earlier = host.new_service()
    upload = sent(earlier.records.uploads, packed("hello"))
    job = Job(b"cat file; cp file out", source=Upload(id=upload), artifacts=RULES)
    first, second = [(await earlier.submit(job)).id for _ in range(2)]
    path = earlier.records.uploads.path(upload)
    os.utime(path, (0, 0))
    async with host.life(slots=1) as life:
        assert path.exists(), "a job needs it, however old it is"
        assert await life.outcome(first) == Succeeded()
        assert await life.outcome(second) == Succeeded()
        assert await life.log(second) == b"hello\nrunner: The script succeeded.\n"
        assert [member.path for member in (await life.job(second)).kept().members] == ["out"]
    assert not path.exists()


@pytest.mark.parametrize("by", ["its last job", "a clean-up"])
async def test_no_archive_is_removed_that_a_job_was_just_taken_for(
    host: Host, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The trap: nobody needed it when that was looked at, and a moment later it was removed under an accepted job."""
    state = State(host.state)
    records, needed = state.records, state.jobs.uploads
    upload = sent(records.uploads)
    os.utime(records.uploads.path(upload), (0, 0))
    looked, added = threading.Event(), threading.Event()

    def seen() -> set[str]:
        found = needed()
        looked.set()
        added.wait(0.2)  # it must not come meanwhile
        return found

    monkeypatch.setattr(state.jobs, "uploads", seen)
    if by == "its last job":
        removing: asyncio.Future[object] = asyncio.ensure_future(records.forget_upload(upload))
    else:
        removing = asyncio.ensure_future(asyncio.to_thread(records.new_upload))
    await eventually(looked.is_set)
    adding = asyncio.ensure_future(records.add(Job(b"true", source=Upload(id=upload))))
    adding.add_done_callback(lambda _: added.set())
    with pytest.raises(BadJobError, match="There is no archive"):
        await adding
    if incoming := await removing:
        assert isinstance(incoming, Incoming)
        incoming.close()


def test_an_archive_that_was_promised_is_still_there_after_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: its new name was not on disk, and under the old one the next start removed it."""
    folder, fsync, synced = Uploads(tmp_path), os.fsync, []

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), [path.name for path in tmp_path.iterdir()]))

    monkeypatch.setattr(os, "fsync", noted)
    upload = sent(folder)
    assert synced[-1] == (tmp_path, [upload])


async def test_a_job_whose_archive_is_not_there_is_refused_unless_it_was_taken_before(host: Host) -> None:
    service = host.new_service()
    records = service.records
    job = Job(b"true", source=Upload(id=sent(records.uploads)))
    request = Request("k", b"body")
    taken = await service.submit(job, request)
    records.uploads.remove(job.source.id if isinstance(job.source, Upload) else "")
    assert (await service.submit(job, request)).id == taken.id
    with pytest.raises(BadJobError, match=r"^source.id: There is no archive [0-9a-f]{32}: one is kept until"):
        await service.submit(job)


async def test_what_was_kept_is_forgotten_with_its_job(host: Host) -> None:
    async with host.life() as life:
        job = (await life.service.submit(Job(b"echo 1 >out; exit 3", artifacts=RULES))).id
        assert await life.outcome(job) == ScriptFailed(3)
        records = life.service.records
        [kept] = [kept.bytes for kept in records.finished()]
        files = [path for path in host.state.rglob(job) if path.is_file()]
        assert (len(files), kept) == (3, sum(path.stat().st_size for path in files))
        records.forget([job])
        assert list(host.state.rglob(job)) == []


async def test_a_start_removes_what_crashes_have_left(host: Host) -> None:
    """Files of jobs that nobody knows, and halves of archives."""
    host.new_service()
    for name in ("artifacts/" + "0" * 32, "artifacts/lists/" + "0" * 32, "artifacts/x.part", "uploads/x.part"):
        (host.state / name).touch()
    host.new_service()
    assert [path for path in host.state.rglob("*") if path.name.startswith(("0", "x"))] == []


def test_archives_that_nobody_asked_for_go_after_a_day(tmp_path: Path) -> None:
    folder = Uploads(tmp_path)
    old, used, fresh = (sent(folder) for _ in range(3))
    for upload in (old, used):
        os.utime(folder.path(upload), (time.time() - uploads.KEPT - 1,) * 2)
    folder.remove_unused({used})
    assert [folder.has(upload) for upload in (old, used, fresh)] == [False, True, True]


def test_half_an_archive_is_none(tmp_path: Path) -> None:
    folder = Uploads(tmp_path)
    incoming = folder.begin()
    incoming.write(b"half")
    assert not folder.has(incoming.id)
    incoming.close()
    assert list(tmp_path.iterdir()) == []


def test_too_many_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST", 2)
    folder = Uploads(tmp_path)
    for _ in range(2):
        sent(folder)
    with pytest.raises(BusyError, match="2 archives wait for jobs already"):
        folder.begin()
