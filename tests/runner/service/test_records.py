"""What the service remembers of its jobs, over restarts and on a broken disk."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import StateError
from runner.execution.marker import Marker, Moment
from runner.job import Job
from runner.outcome import Cancelled, RunnerStopped, ScriptFailed, Succeeded
from runner.service import files
from runner.service import records as records_module
from runner.service.documents import Result, Submission, Ticket
from runner.service.record import MOVES, JobState, Record
from runner.service.records import Records

pytestmark = pytest.mark.anyio
JOB = Job(b"echo hello", environment={"SECRET": "s3cret"})
MARKER = Marker(
    attempt="0" * 32,
    token="t0ken" * 6,
    profile="default",
    trust_key="default",
    sandbox="sandbox-1",
    generation=1,
    boot_id="b" * 36,
    timeout=None,
    started=Moment("b" * 36, 1.0),
    log_limit=1 << 20,
    workspace="/workspace",
    attempts="/attempts",
)
OUTPUT = b"hello\nworld"
CLOSING = b"\nrunner: The script succeeded.\n"


async def started(records: Records, output: bytes = OUTPUT) -> Record:
    record = await records.add(JOB)
    log = record.begin()
    record.mark(MARKER)
    log.append(output)
    return record


async def finished(records: Records, output: bytes = OUTPUT) -> Record:
    record = await started(records, output)
    await record.settle(Succeeded())
    await record.finish()
    return record


def again(record: Record) -> Record:
    """The same job in the next life."""
    found = Records(record.folder.parent).get(record.id)
    assert found is not None
    return found


async def test_a_finished_job_is_remembered_over_a_restart(tmp_path: Path) -> None:
    record = again(await finished(Records(tmp_path)))
    assert (record.state, record.outcome) == (JobState.FINISHED, Succeeded())
    assert b"".join(record.read(0)) == OUTPUT + CLOSING
    assert record.finished.is_set()


async def test_a_waiting_job_waits_again_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    before = await Records(tmp_path).add(JOB)
    after = again(before)
    assert (after.state, after.job, after.ticket, after.marker) == (JobState.QUEUED, JOB, before.ticket, None)


async def test_a_job_that_may_have_started_is_found_with_its_marker_and_its_log(tmp_path: Path) -> None:
    after = again(await started(Records(tmp_path)))
    assert (after.state, after.marker) == (JobState.RUNNING, MARKER)
    log = after.begin()
    assert log.output == len(OUTPUT)
    log.append(b"!\n")
    await after.settle(ScriptFailed(3))
    await after.finish()
    assert b"".join(after.read(0)) == OUTPUT + b"!\nrunner: The script failed with exit code 3.\n"


async def test_jobs_wait_in_the_order_of_their_submission_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([1000.0, 10.0, 500.0])
    monkeypatch.setattr("runner.service.records.time.time", lambda: next(clock))
    records = Records(tmp_path)
    submitted = [(await records.add(JOB)).id for _ in range(2)]
    later = Records(tmp_path)
    submitted.append((await later.add(JOB)).id)
    assert [record.id for record in Records(tmp_path).unfinished()] == submitted


async def test_a_wish_for_the_end_outlives_the_service(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    await record.cancel("a client of the API")
    assert again(record).cancellation.cause == Cancelled("a client of the API")


async def test_a_full_disk_does_not_keep_a_job_from_being_cancelled(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    (record.folder / "cancel.json.new").mkdir()
    await record.cancel("me")
    assert record.cancellation.cause == Cancelled("me")


async def test_neither_script_nor_environment_nor_token_outlive_the_job(tmp_path: Path) -> None:
    record = await finished(Records(tmp_path))
    written = b"".join(path.read_bytes() for path in record.folder.iterdir())
    for secret in (b"s3cret", b"ZWNobyBoZWxsbw", b"t0ken"):
        assert secret not in written


async def test_what_is_kept_is_for_its_owner_only(tmp_path: Path) -> None:
    record = await started(Records(tmp_path / "jobs"))
    for path in (tmp_path / "jobs", record.folder, *record.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_the_oldest_finished_jobs_are_forgotten_and_running_ones_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "KEPT", 3)
    records = Records(tmp_path)
    running = await records.add(JOB)
    old, *_ = [await finished(records) for _ in range(4)]
    assert records.get(old.id) is None
    assert not old.folder.exists()
    assert records.get(running.id) is running
    assert len(list(tmp_path.iterdir())) == 4


async def test_a_full_disk_refuses_the_job_with_a_sentence_and_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    records = Records(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match=r"cannot be kept.*No space left.*Make room"):
            await records.add(JOB)
    assert list(tmp_path.iterdir()) == []
    await records.add(JOB)


async def test_a_marker_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    record = await Records(tmp_path).add(JOB)
    (record.folder / "attempt.json.new").mkdir()
    with pytest.raises(StateError, match="cannot be written down"):
        record.mark(MARKER)
    assert record.marker is None


async def test_an_outcome_that_cannot_be_written_leaves_the_job_running_and_can_be_tried_again(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    (record.folder / "outcome.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        await record.settle(Succeeded())
    assert (record.state, record.outcome) == (JobState.RUNNING, None)
    (record.folder / "outcome.json.new").rmdir()
    await record.settle(Succeeded())
    await record.finish()
    assert again(record).outcome == Succeeded()


async def test_the_first_outcome_stays(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    await record.settle(Succeeded())
    await record.settle(ScriptFailed(1))
    await record.finish()
    assert record.outcome == again(record).outcome == Succeeded()


async def test_strange_entries_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / ("0" * 32)).symlink_to("lost+found")
    (tmp_path / ("1" * 32)).write_text("no folder")
    assert Records(tmp_path).unfinished() == []
    assert len(list(tmp_path.iterdir())) == 4


async def test_an_unusable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="is not usable"):
        Records(tmp_path / "file" / "jobs")


async def test_a_log_is_followed_from_the_queue_to_the_end(tmp_path: Path) -> None:
    record = await Records(tmp_path).add(JOB)
    following = record.follow(0)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    log = record.begin()
    log.append(b"one\n")
    assert await first == b"one\n"
    log.append(b"two\n")
    assert await anext(following) == b"two\n"
    await record.settle(Succeeded())
    await record.finish()
    assert b"".join([data async for data in following]) == b"runner: The script succeeded.\n"
    assert b"".join([data async for data in record.follow(4)]).startswith(b"two\n")


async def test_a_follower_of_a_log_that_could_not_be_written_sees_its_end_all_the_same(tmp_path: Path) -> None:
    record = await started(Records(tmp_path), b"x\n")
    assert record.log is not None
    record.log.failure = "No space left on device"
    await record.settle(Succeeded())
    await record.finish()
    assert b"".join([data async for data in record.follow(0)]) == b"x\nrunner: The script succeeded.\n"


def test_every_state_has_an_entry_and_illegal_moves_name_both() -> None:
    assert set(MOVES) == set(JobState)
    record = Record(Path("/nowhere"), Ticket(1, 0.0), state=JobState.FINISHED)
    with pytest.raises(StateError, match="from finished to running"):
        record.move(JobState.RUNNING)
    record.move(JobState.FINISHED)


async def test_the_outcome_on_disk_is_the_one_over_http(tmp_path: Path) -> None:
    record = await finished(Records(tmp_path))
    document = json.loads((record.folder / "outcome.json").read_text())
    assert (document["outcome"], document["exit_code"]) == ("succeeded", 0)


# Crashes: the folder is copied at every point between two calls that change the disk.


class Snapshots:
    """Copies of a folder, each with what was promised to whom at that moment."""

    def __init__(self, folder: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.promised = "nothing"
        self.taken: list[tuple[str, Path]] = []
        self._folder, self._copies, self._copying = folder, copies, False
        for module, name in ((os, "fsync"), (os, "unlink"), (Path, "unlink"), (Path, "replace"), (Path, "mkdir")):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))

    def take(self) -> None:
        copy = self._copies / str(len(self.taken))
        self.taken.append((self.promised, copy))
        self._copying = True
        shutil.copytree(self._folder, copy)
        self._copying = False

    def _around(self, call: Callable[..., object]) -> Callable[..., object]:
        def around(*args: object, **options: object) -> object:
            if self._copying:  # that changes the disk too
                return call(*args, **options)
            self.take()
            result = call(*args, **options)
            self.take()
            return result

        return around


#: By what was promised before a crash: what the next life may find.
FOUND: dict[str, set[str | None]] = {
    "nothing": {None, "waiting"},
    "submitted": {"waiting"},
    "marking": {"waiting", "started"},
    "started": {"started"},
    "settling": {"started", "ended"},
    "settled": {"ended"},
}


def found(folder: Path) -> str | None:
    """What the next life makes of a folder of jobs."""
    match list(Records(folder)._records.values()):
        case []:
            return None
        case [Record(state=JobState.QUEUED, job=job, marker=None, cancellation=cancellation)] if not cancellation.cause:
            assert job == JOB
            return "waiting"
        case [Record(state=JobState.RUNNING, marker=marker) as record]:
            assert marker == MARKER
            assert OUTPUT.startswith(b"".join(record.read(0)))
            return "started"
        case [Record(state=JobState.FINISHED) as record]:
            assert record.outcome == Succeeded()
            assert b"".join(record.read(0)) == OUTPUT + CLOSING
            assert {path.name for path in record.folder.iterdir()} <= {"log", "outcome.json", "outcome.json.new"}
            return "ended"
        case odd:
            raise AssertionError(odd)


async def test_every_crash_point_leaves_what_the_next_life_reads_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copies").mkdir()
    records = Records(tmp_path / "jobs")
    with monkeypatch.context() as patch:
        snapshots = Snapshots(tmp_path / "jobs", tmp_path / "copies", patch)
        record = await records.add(JOB)
        snapshots.promised = "submitted"
        snapshots.take()
        log = record.begin()
        snapshots.promised = "marking"
        record.mark(MARKER)
        snapshots.promised = "started"
        snapshots.take()
        log.append(OUTPUT[:3])
        snapshots.take()
        log.append(OUTPUT[3:])
        snapshots.promised = "settling"
        await record.settle(Succeeded())
        snapshots.promised = "settled"
        await record.finish()
        snapshots.take()
    seen: list[str | None] = []
    for promised, copy in snapshots.taken:
        seen.append(found(copy))
        assert seen[-1] in FOUND[promised], (promised, seen[-1], copy)
        assert found(copy) == seen[-1], "a second crash right after the start changes nothing"
    assert set(seen) == {None, "waiting", "started", "ended"}
    order: list[str | None] = [None, "waiting", "started", "ended"]
    assert [order.index(one) for one in seen] == sorted(order.index(one) for one in seen), "no job goes back"


@settings(deadline=None)
@given(
    cut=st.integers(0, len(OUTPUT + CLOSING)),
    left=st.sets(st.sampled_from(["job.json", "attempt.json", "cancel.json", "outcome.json.new"])),
)
async def test_a_written_outcome_is_final_however_much_of_the_rest_was_done(
    tmp_path_factory: pytest.TempPathFactory, cut: int, left: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("jobs", numbered=True) / ("0" * 32)
    folder.mkdir()
    files.write(folder / "outcome.json", Result(Ticket(1, 2.0), Succeeded(), len(OUTPUT), CLOSING).to_json())
    documents = {
        "job.json": json.dumps(Submission(Ticket(1, 2.0), JOB).to_json()),
        "attempt.json": json.dumps(MARKER.to_json()),
        "cancel.json": '{"by": "me"}',
        "outcome.json.new": "{",
    }
    for name in left:
        (folder / name).write_text(documents[name])
    (folder / "log").write_bytes(OUTPUT + CLOSING[: max(0, cut - len(OUTPUT))])
    assert found(folder.parent) == "ended"


@pytest.mark.parametrize("document", ["job.json", "attempt.json", "outcome.json"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"outcome": "nonsense"}', '{"outcome": "script_failed", "code": 999}', "[" * 50_000]
)
async def test_what_cannot_be_read_ends_the_job_with_a_sentence(tmp_path: Path, document: str, content: str) -> None:
    record = await Records(tmp_path).add(JOB)
    (record.folder / document).write_text(content)
    cause = again(record).cancellation.cause
    assert isinstance(cause, RunnerStopped)
    assert "cannot be read" in cause.why


async def test_a_running_job_is_followed_even_if_the_rest_about_it_cannot_be_read(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    (record.folder / "job.json").write_text("{")
    assert again(record).marker == MARKER


async def test_a_wish_for_the_end_that_cannot_be_read_is_still_one(tmp_path: Path) -> None:
    record = await started(Records(tmp_path))
    (record.folder / "cancel.json").write_text("[]")
    assert isinstance(again(record).cancellation.cause, Cancelled)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["log", "job.json", "attempt.json", "outcome.json"])
async def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    record = await Records(tmp_path).add(JOB)
    (record.folder / name).unlink(missing_ok=True)
    os.mkfifo(record.folder / name)
    assert isinstance(again(record).cancellation.cause, RunnerStopped)


async def test_a_folder_that_was_not_complete_was_never_promised(tmp_path: Path) -> None:
    for suffix in ("new", "old"):
        (tmp_path / f"{'0' * 32}.{suffix}").mkdir()
    assert Records(tmp_path).unfinished() == []
    assert list(tmp_path.iterdir()) == []
