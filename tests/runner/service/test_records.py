"""The service's memory of its jobs, over restarts and on a broken disk."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import StateError
from runner.execution.marker import Marker, Moment
from runner.job import Job
from runner.outcome import Cancelled, RunnerStopped, ScriptFailed, Succeeded
from runner.service.record import Record
from runner.store.jobs import Entry
from runner.store.states import JobState
from runner.store.threads import reading
from tests.runner.service.state import State, locked
from tests.waiting import eventually

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


async def claimed(state: State) -> Record:
    added = await state.records.add(JOB)
    record = await state.records.claim(100)
    assert record is added
    return record


async def started(state: State, output: bytes = OUTPUT) -> Record:
    record = await claimed(state)
    log = record.begin()
    await record.mark(MARKER)
    log.append(output)
    return record


async def finished(state: State, output: bytes = OUTPUT) -> Record:
    record = await started(state, output)
    await record.settle(Succeeded())
    await record.finish()
    return record


async def claimed_and_finished(state: State) -> None:
    record = await state.records.claim(100)
    assert record
    record.begin()
    await record.mark(MARKER)
    await record.settle(Succeeded())
    await record.finish()


async def again(folder: Path, record: Record) -> Record:
    """The same job in the next life."""
    found = await State(folder).records.get(record.id)
    assert found is not None
    return found


async def test_a_finished_job_is_remembered_over_a_restart(tmp_path: Path) -> None:
    record = await again(tmp_path, await finished(State(tmp_path)))
    assert (record.state, record.outcome) == (JobState.FINISHED, Succeeded())
    assert b"".join(record.read(0)) == OUTPUT + CLOSING
    assert record.finished.is_set()


async def test_when_and_where_it_ran_is_known(tmp_path: Path) -> None:
    state, before = State(tmp_path), time.time()
    ran = state.records.summary((await finished(state)).id)
    waits = state.records.summary((await state.records.add(JOB)).id)
    assert waits
    assert (waits.started, waits.ended, waits.sandbox, waits.profile) == (None, None, None, None)
    assert ran
    assert ran.started
    assert ran.ended
    assert before <= ran.submitted <= ran.started <= ran.ended <= time.time()
    assert (ran.sandbox, ran.profile) == ("sandbox-1", "default")


async def test_a_waiting_job_waits_again_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    after = await again(tmp_path, await State(tmp_path).records.add(JOB))
    assert (after.state, after.job, after.marker) == (JobState.QUEUED, JOB, None)


async def test_a_job_that_was_claimed_and_not_sent_waits_again(tmp_path: Path) -> None:
    after = await again(tmp_path, await claimed(State(tmp_path)))
    assert (after.state, after.job, after.marker) == (JobState.QUEUED, JOB, None)


async def test_a_job_is_claimed_together_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    """The trap: claimed, and then not readable, it was nobody's until a restart, and counted against its key."""
    state = State(tmp_path)
    job_id = (await state.records.add(JOB)).id
    state.database._reader.close()
    record = await state.records.claim(1)
    assert record
    assert (record.id, record.job) == (job_id, JOB)


async def test_a_job_that_may_have_started_is_found_with_its_marker_and_its_log(tmp_path: Path) -> None:
    after = await again(tmp_path, await started(State(tmp_path)))
    assert (after.state, after.marker) == (JobState.RUNNING, MARKER)
    log = after.begin()
    assert log.output == len(OUTPUT)
    log.append(b"!\n")
    await after.settle(ScriptFailed(3))
    await after.finish()
    assert b"".join(after.read(0)) == OUTPUT + b"!\nrunner: The script failed with exit code 3.\n"


async def test_what_was_read_of_a_job_before_its_end_makes_no_object_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: its log was followed for ever by whoever asked for it at that moment."""
    state = State(tmp_path)
    job_id = (await state.records.add(JOB)).id
    has_read, ended, get = threading.Event(), threading.Event(), state.jobs.get

    def slowly(job_id: str) -> Entry | None:
        entry = get(job_id)
        has_read.set()
        assert ended.wait(20)
        return entry

    monkeypatch.setattr(state.jobs, "get", slowly)
    asked = asyncio.create_task(state.records.get(job_id))
    await eventually(has_read.is_set)
    await claimed_and_finished(state)
    gc.collect()
    ended.set()
    record = await asked
    assert record
    assert record.outcome == Succeeded()


async def test_who_reads_waits_for_no_writer(tmp_path: Path) -> None:
    """Not for those either that wait for each other, however many they are."""
    state = State(tmp_path)
    record = await started(state)
    with state.database._writing:  # as one that hangs in the disk
        hanging = [asyncio.create_task(record.cancel("me")) for _ in range(10)]
        await asyncio.sleep(0)  # each goes up to its write
        async with asyncio.timeout(20):
            assert await reading(state.records.summary, record.id)
    await asyncio.gather(*hanging)


async def test_a_wish_for_the_end_outlives_the_service(tmp_path: Path) -> None:
    record = await started(State(tmp_path))
    await record.cancel("a client of the API")
    assert (await again(tmp_path, record)).cancellation.cause == Cancelled("a client of the API")


async def test_a_disk_that_fails_does_not_keep_a_job_from_being_cancelled(tmp_path: Path) -> None:
    record = await started(State(tmp_path))
    with locked(tmp_path):
        await record.cancel("me")
    assert record.cancellation.cause == Cancelled("me")


async def test_neither_script_nor_environment_nor_token_is_ever_readable_without_the_key(tmp_path: Path) -> None:
    state = State(tmp_path)
    for record in (await finished(state), await started(state)):
        assert record.id
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "key")
        for secret in (b"s3cret", b"ZWNobyBoZWxsbw", b"t0ken", b"echo hello"):
            assert secret not in written


async def test_of_a_finished_job_no_secret_is_kept_at_all(tmp_path: Path) -> None:
    await finished(State(tmp_path))
    database = State(tmp_path).database
    assert [tuple(row) for row in database.read("SELECT marker FROM job")] == [(None,)]
    assert database.read("SELECT * FROM content") == []


async def test_what_is_kept_is_for_its_owner_only(tmp_path: Path) -> None:
    await started(State(tmp_path))
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_full_disk_refuses_the_job_with_a_sentence_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    writer = state.database._writer
    [[pages]] = writer.execute("PRAGMA page_count")
    writer.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StateError, match=r"cannot be kept.*No space left.*Make room"):
        await state.records.add(Job(b"#" * 100_000))
    assert state.jobs.waiting() == 0
    writer.execute("PRAGMA max_page_count=1000000")
    await state.records.add(JOB)


async def test_a_marker_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    record = await claimed(State(tmp_path))
    with locked(tmp_path), pytest.raises(StateError, match="The start cannot be written down"):
        await record.mark(MARKER)
    assert record.marker is None
    assert (await again(tmp_path, record)).marker is None


async def test_an_outcome_that_cannot_be_written_leaves_the_job_running_and_can_be_tried_again(tmp_path: Path) -> None:
    record = await started(State(tmp_path))
    with locked(tmp_path), pytest.raises(StateError, match="The outcome cannot be written down: Another program"):
        await record.settle(Succeeded())
    assert (record.state, record.outcome) == (JobState.RUNNING, None)
    await record.settle(Succeeded())
    await record.finish()
    assert (await again(tmp_path, record)).outcome == Succeeded()


async def test_the_first_outcome_stays(tmp_path: Path) -> None:
    record = await started(State(tmp_path))
    await record.settle(Succeeded())
    await record.settle(ScriptFailed(1))
    await record.finish()
    assert record.outcome == (await again(tmp_path, record)).outcome == Succeeded()


async def test_strange_entries_among_the_logs_are_left_alone_and_strays_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "lost+found").mkdir()
    (logs / "note.txt").write_text("mine")
    (logs / ("1" * 32)).write_text("of a job that is forgotten")
    assert State(tmp_path).records.waiting == 0
    assert sorted(path.name for path in logs.iterdir()) == ["lost+found", "note.txt"]


async def test_a_log_is_followed_from_the_queue_to_the_end(tmp_path: Path) -> None:
    record = await State(tmp_path).records.add(JOB)
    following = record.follow(0)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    assert record._jobs.take(record.id)
    log = record.begin()
    log.append(b"one\n")
    assert await first == b"one\n"
    log.append(b"two\n")
    assert await anext(following) == b"two\n"
    await record.settle(Succeeded())
    await record.finish()
    assert b"".join([data async for data in following]) == b"runner: The script succeeded.\n"
    assert b"".join([data async for data in record.follow(4)]).startswith(b"two\n")


async def test_a_log_that_could_not_be_written_is_completed_as_soon_as_it_can(tmp_path: Path) -> None:
    record = await started(State(tmp_path), b"x\n")
    assert record.log is not None
    record.log.failure = "No space left on device"
    await record.settle(Succeeded())
    await record.finish()
    assert b"".join([data async for data in record.follow(0)]) == b"x\nrunner: The script succeeded.\n"


# Crashes: the folder is copied before every statement and every change of a file, as a killed runner would leave it.


class Snapshots:
    """Copies of a folder, each with what was promised to whom at that moment."""

    def __init__(self, state: State, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.promised = "nothing"
        self.taken: list[tuple[str, Path]] = []
        self._folder, self._copies, self._copying = state.folder, copies, False
        state.database._writer.set_trace_callback(lambda _: self.take())
        for module, name in ((os, "fsync"), (os, "open"), (Path, "unlink")):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))

    def take(self) -> None:
        if self._copying:
            return
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


FOUND: dict[str, set[str | None]] = {
    "nothing": {None, "waiting"},
    "submitted": {"waiting"},
    "marking": {"waiting", "started"},
    "started": {"started"},
    "settling": {"started", "ended"},
    "settled": {"ended"},
}
"""By what was promised before a crash: what the next life may find."""


async def found(folder: Path) -> str | None:
    """What the next life makes of a state folder."""
    state = State(folder)
    records = state.records
    summaries = records.page(10, None, None)
    if not summaries:
        return None
    [summary] = summaries
    record = await records.get(summary.id)
    assert record
    match summary.state:
        case JobState.QUEUED:
            assert (record.job, record.marker, record.cancellation.cause) == (JOB, None, None)
            assert records.waiting == 1
            return "waiting"
        case JobState.RUNNING:
            assert (record.job, record.marker) == (JOB, MARKER)
            assert OUTPUT.startswith(b"".join(record.read(0)))
            assert records.started() == [record]
            return "started"
        case JobState.FINISHED:
            assert record.outcome == Succeeded()
            assert b"".join(record.read(0)) == OUTPUT + CLOSING
            assert (record.job, record.marker) == (None, None)
            return "ended"
        case odd:
            raise AssertionError(odd)


async def test_every_crash_point_leaves_what_the_next_life_reads_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copies").mkdir()
    (tmp_path / "state").mkdir()
    state = State(tmp_path / "state")
    records = state.records
    with monkeypatch.context() as patch:
        snapshots = Snapshots(state, tmp_path / "copies", patch)
        record = await records.add(JOB)
        snapshots.promised = "submitted"
        snapshots.take()
        assert await records.claim(100) is record
        log = record.begin()
        snapshots.promised = "marking"
        await record.mark(MARKER)
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
    state.database._writer.set_trace_callback(None)
    seen: list[str | None] = []
    for promised, copy in snapshots.taken:
        seen.append(await found(copy))
        assert seen[-1] in FOUND[promised], (promised, seen[-1], copy)
        assert await found(copy) == seen[-1], "a second crash right after the start changes nothing"
    order: list[str | None] = [None, "waiting", "started", "ended"]
    assert set(seen) == set(order)
    assert [order.index(one) for one in seen] == sorted(order.index(one) for one in seen), "no job goes back"


@settings(max_examples=20)
@given(cut=st.integers(0, len(OUTPUT + CLOSING)))
async def test_a_written_outcome_is_final_however_much_of_the_log_was_written(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("state", numbered=True)
    record = await started(State(folder))
    await record.settle(Succeeded())
    with record.log_path.open("ab") as log:
        log.write(CLOSING[: max(0, cut - len(OUTPUT))])
    assert await found(folder) == "ended"


@pytest.mark.parametrize("damage", ["content SET sealed", "job SET marker"])
async def test_what_cannot_be_read_ends_the_job_with_a_sentence(tmp_path: Path, damage: str) -> None:
    """The trap: a job that is followed without its secrets would show them in its log."""
    record = await started(State(tmp_path))
    with State(tmp_path).database.transaction("test") as connection:
        connection.execute(f"UPDATE {damage} = x'00'")
    cause = (await again(tmp_path, record)).cancellation.cause
    assert isinstance(cause, RunnerStopped)
    assert "cannot be read" in cause.why


@pytest.mark.timeout(20)
async def test_a_fifo_in_the_place_of_a_log_is_not_waited_for(tmp_path: Path) -> None:
    record = await started(State(tmp_path))
    await record.settle(Succeeded())
    record.log_path.unlink()
    os.mkfifo(record.log_path)
    assert (await again(tmp_path, record)).outcome == Succeeded()


def test_the_database_is_asked_for_a_whole_commit(tmp_path: Path) -> None:
    """The trap: without `synchronous=FULL`, a commit in write-ahead mode is undone by a power failure."""
    seen = []
    database = State(tmp_path).database
    for durable in (True, False):
        with database.transaction("test", durable=durable) as connection:
            seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])
    assert seen == [2, 1]
    assert sqlite3.connect(tmp_path / "runner.db").execute("PRAGMA journal_mode").fetchone()[0] == "wal"
