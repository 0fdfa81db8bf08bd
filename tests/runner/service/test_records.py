"""What the service remembers of its jobs, over restarts and on a broken disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.errors import StateError
from runner.job import Job
from runner.outcome import RunnerStopped, ScriptFailed, Succeeded
from runner.service import records as records_module
from runner.service.records import MOVES, JobState, Record, Records

pytestmark = pytest.mark.anyio
JOB = Job(b"echo hello", environment={"SECRET": "s3cret"})


def finished(records: Records, output: bytes = b"hello\n") -> Record:
    record = records.add(JOB)
    assert record.log is not None
    record.log.append(output)
    record.move(JobState.RUNNING)
    records.finish(record, Succeeded())
    return record


async def test_a_finished_job_is_remembered_over_a_restart(tmp_path: Path) -> None:
    record = finished(Records(tmp_path))
    again = Records(tmp_path).get(record.id)
    assert again is not None
    assert (again.state, again.outcome) == (JobState.FINISHED, Succeeded())
    assert b"".join(again.read(0)) == b"hello\nrunner: The script succeeded.\n"
    assert again.finished.is_set()


async def test_a_job_that_a_crash_cut_off_ends_as_runner_stopped(tmp_path: Path) -> None:
    record = Records(tmp_path).add(JOB)
    again = Records(tmp_path).get(record.id)
    assert again is not None
    assert isinstance(again.outcome, RunnerStopped)
    assert Records(tmp_path).get(record.id).outcome == again.outcome  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"outcome": "nonsense"}', '{"outcome": "script_failed", "code": 999}']
)
async def test_an_outcome_that_is_no_outcome_is_not_believed(tmp_path: Path, content: str) -> None:
    record = finished(Records(tmp_path))
    (record.folder / "outcome.json").write_text(content)
    again = Records(tmp_path).get(record.id)
    assert again is not None
    assert isinstance(again.outcome, RunnerStopped)


async def test_neither_script_nor_environment_is_written_down(tmp_path: Path) -> None:
    record = finished(Records(tmp_path))
    written = b"".join(path.read_bytes() for path in record.folder.iterdir())
    assert b"s3cret" not in written
    assert b"echo hello" not in written


async def test_what_is_kept_is_for_its_owner_only(tmp_path: Path) -> None:
    record = finished(Records(tmp_path / "jobs"))
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0
    assert record.folder.stat().st_mode & 0o077 == 0


async def test_the_oldest_finished_jobs_are_forgotten_and_running_ones_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "KEPT", 3)
    records = Records(tmp_path)
    running = records.add(JOB)
    old, *_ = [finished(records) for _ in range(4)]
    assert records.get(old.id) is None
    assert not old.folder.exists()
    assert records.get(running.id) is running


async def test_a_full_disk_refuses_the_job_with_a_sentence(tmp_path: Path) -> None:
    records = Records(tmp_path / "jobs")
    (tmp_path / "jobs").rmdir()
    with pytest.raises(StateError, match="cannot be kept"):
        records.add(JOB)


async def test_an_outcome_that_cannot_be_written_still_ends_the_job(tmp_path: Path) -> None:
    """The trap: whoever waits for the job would wait for ever."""
    records = Records(tmp_path)
    record = records.add(JOB)
    (record.folder / "outcome.new").mkdir()
    with pytest.raises(IsADirectoryError):
        records.finish(record, ScriptFailed(1))
    assert record.finished.is_set()
    assert record.outcome == ScriptFailed(1)


async def test_strange_entries_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    Records(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lost+found", "note.txt"]


async def test_an_unusable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="is not usable"):
        Records(tmp_path / "file" / "jobs")


async def test_a_log_is_followed_while_the_job_runs_and_read_afterwards(tmp_path: Path) -> None:
    records = Records(tmp_path)
    record = records.add(JOB)
    assert record.log is not None
    record.log.append(b"one\n")
    following = record.follow(0)
    assert await anext(following) == b"one\n"
    record.log.append(b"two\n")
    assert await anext(following) == b"two\n"
    record.move(JobState.RUNNING)
    records.finish(record, Succeeded())
    assert b"".join([data async for data in following]) == b"runner: The script succeeded.\n"
    assert b"".join([data async for data in record.follow(4)]).startswith(b"two\n")


def test_every_state_has_an_entry_and_illegal_moves_name_both() -> None:
    assert set(MOVES) == set(JobState)
    record = Record("0" * 32, Path("/nowhere"), 0.0, JobState.FINISHED)
    with pytest.raises(StateError, match="from finished to running"):
        record.move(JobState.RUNNING)
    record.move(JobState.FINISHED)


async def test_the_outcome_on_disk_is_the_one_over_http(tmp_path: Path) -> None:
    record = finished(Records(tmp_path))
    document = json.loads((record.folder / "outcome.json").read_text())
    assert (document["outcome"], document["exit_code"]) == ("succeeded", 0)
