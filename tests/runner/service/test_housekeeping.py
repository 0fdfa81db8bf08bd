"""Old jobs are forgotten with their logs, and a full disk holds up the jobs that would fill it further."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from runner.errors import StateError
from runner.job import Job
from runner.outcome import Succeeded
from runner.service import housekeeping
from runner.service.housekeeping import Housekeeper
from runner.service.record import Record
from runner.service.records import Records
from runner.service.retention import Retention
from runner.service.watermark import MARKS, Disk, Room
from runner.spool import spool
from tests.runner.service.conftest import Host
from tests.runner.service.state import State, locked
from tests.runner.service.test_records import finished, started
from tests.runner.service.test_service import up, waiting
from tests.waiting import eventually

pytestmark = pytest.mark.anyio
GIB = 1024**3


def keeper_of(records: Records, **limits: float) -> Housekeeper:
    return Housekeeper(records, Retention(**limits))  # type: ignore[arg-type]


async def aged(state: State, record: Record, seconds: float) -> Record:
    """As if it had ended so long ago."""
    with state.database.transaction("test") as connection:
        connection.execute(
            "UPDATE event SET at = ? WHERE state = 'finished' AND job = (SELECT number FROM job WHERE id = ?)",
            (time.time() - seconds, record.id),
        )
    return record


async def test_the_oldest_finished_jobs_go_with_their_logs_and_what_is_not_finished_stays(tmp_path: Path) -> None:
    state = State(tmp_path)
    running = await started(state)
    old, *others = [await aged(state, await finished(state), seconds) for seconds in (300, 200, 100)]
    queued = await state.records.add(Job(b"true"))
    assert keeper_of(state.records, age=250).sweep() == [old.id]
    assert (await state.records.get(old.id), old.log_path.exists()) == (None, False)
    size = others[0].log_path.stat().st_size
    assert keeper_of(state.records, bytes=2 * size - 1).sweep() == [others[0].id]
    keeper = keeper_of(state.records)
    assert keeper.sweep() == []
    keeper.follow(Retention(jobs=0), MARKS)
    assert keeper.sweep() == [others[1].id]
    assert await state.records.get(running.id) is running
    assert await state.records.get(queued.id) is queued
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [running.id]


async def test_a_job_that_is_not_finished_is_never_forgotten_whoever_asks(tmp_path: Path) -> None:
    state = State(tmp_path)
    running = await started(state)
    state.jobs.forget([running.id])
    assert State(tmp_path).jobs.summary(running.id)


async def test_a_locked_store_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = State(tmp_path)
    job = await finished(state)
    keeper = keeper_of(state.records, jobs=0)
    with locked(tmp_path):
        await keeper._sweep()
    assert "Old jobs are looked for again soon." in caplog.text
    assert job.log_path.exists()
    await keeper._sweep()
    assert not job.log_path.exists()


async def test_a_low_disk_starts_nothing_a_full_one_takes_nothing_and_both_end(
    host: Host, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_LOOK", 0.02)
    free = 50 * GIB
    async with host.life() as life:
        service = life.service
        service.housekeeper._look = lambda _: Room(free, 100 * GIB)
        running = await service.submit(waiting(gate))
        await up(running)
        free = GIB
        await eventually(lambda: service.housekeeper.disk is Disk.LOW)
        held = await service.submit(Job(b"true"))
        gate.touch()
        assert await life.outcome(running.id) == Succeeded()
        assert (service.running, service.records.waiting) == (0, 1)
        assert service.held.startswith("The disk of the runner's state folder has 1,024 of 102,400 MiB free.")
        free = 0
        await eventually(lambda: service.housekeeper.disk is Disk.FULL)
        with pytest.raises(StateError, match=r"The job cannot be kept\. The disk .* has 0 of 102,400 MiB free"):
            await service.submit(Job(b"true"))
        with pytest.raises(StateError, match=r"The archive cannot be kept\. The disk .* has 0 of 102,400 MiB free"):
            service.new_upload()
        free = 50 * GIB
        assert await life.outcome(held.id) == Succeeded()


async def test_what_a_crashed_backup_left_in_the_state_folder_goes_with_the_next_start(host: Host) -> None:
    with spool(host.state) as folder:
        (folder / "runner.db").write_bytes(b"with secrets")
        left = shutil.copytree(folder, folder.with_name(f"{folder.name}-crashed"))
    async with host.life():
        await eventually(lambda: not left.exists())


def test_a_disk_that_does_not_tell_is_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Path) -> Room:
        raise OSError(5, "Input/output error")

    keeper = Housekeeper(State(tmp_path).records, look=fails)
    assert (keeper.disk, keeper.shortage) == (Disk.WELL, "")
    assert "does not tell its room" in caplog.text
