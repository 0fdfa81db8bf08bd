"""A foreign database is refused with a sentence, and a sealed secret opens only for its owner."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runner.errors import IllegalMoveError, RequestReusedError, StateError
from runner.job import Job
from runner.outcome import RunnerStopped, Succeeded
from runner.store.database import Database
from runner.store.jobs import Request, Result, fit
from runner.store.seal import Seal
from runner.store.states import MOVES, JobState
from tests.runner.service.state import State, locked

JOB = Job(b"true")


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    State(tmp_path).database._writer.execute("PRAGMA user_version=99")
    with pytest.raises(StateError, match=r"newer runner \(version 99"):
        State(tmp_path)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 50, None])
def test_what_another_program_wrote_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "runner.db").write_bytes(content)
    else:
        sqlite3.connect(tmp_path / "runner.db").execute("CREATE TABLE theirs (a)")
    with pytest.raises(StateError, match=r"is no database|belongs to another program"):
        State(tmp_path)


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    database = State(tmp_path).database

    def half() -> None:
        with database.transaction("test") as connection:
            connection.execute("INSERT INTO lease (attempt, token) VALUES ('a', x'00')")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert database.read("SELECT * FROM lease") == []


def test_reading_goes_on_while_the_store_is_locked(tmp_path: Path) -> None:
    state = State(tmp_path)
    job, _ = state.jobs.add(JOB)
    with locked(tmp_path):
        assert state.jobs.summary(job)
        with pytest.raises(StateError, match="holds the database locked"):
            state.jobs.claim(1)


def test_every_state_has_an_entry_and_illegal_moves_name_both(tmp_path: Path) -> None:
    assert set(MOVES) == set(JobState)
    jobs = State(tmp_path).jobs
    job, _ = jobs.add(JOB)
    with pytest.raises(IllegalMoveError, match="from queued to settled"):
        jobs.settle(job, Result(Succeeded(), 0, b""))
    assert jobs.find(JobState.QUEUED) == [job]


def test_each_move_is_an_event(tmp_path: Path) -> None:
    state = State(tmp_path)
    job, _ = state.jobs.add(JOB)
    state.jobs.take(job)
    state.jobs.settle(job, Result(Succeeded(), 0, b""))
    state.jobs.finish(job)
    events = state.database.read("SELECT state FROM event ORDER BY sequence")
    assert [row["state"] for row in events] == ["queued", "starting", "settled", "finished"]


def test_the_same_request_is_the_same_job_and_another_one_is_refused(tmp_path: Path) -> None:
    jobs = State(tmp_path).jobs
    first, new = jobs.add(JOB, Request("key", b"content"))
    assert new
    assert State(tmp_path).jobs.add(JOB, Request("key", b"content")) == (first, False)
    with pytest.raises(RequestReusedError, match="used for another job"):
        jobs.add(JOB, Request("key", b"other"))
    assert jobs.waiting() == 1


def test_sealed_content_opens_for_its_owner_with_its_key_only(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "key")
    sealed = seal.close(b"content", "a")
    assert Seal(tmp_path / "key").open(sealed, "a") == b"content"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    for other, content, owner in (
        (Seal(tmp_path / "other"), sealed, "a"),
        (seal, sealed, "b"),
        (seal, sealed[:-1] + bytes([sealed[-1] ^ 1]), "a"),
        (seal, b"", "a"),
    ):
        with pytest.raises(ValueError, match="another key"):
            other.open(content, owner)


def test_a_key_that_is_not_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(StateError, match="not one of ours"):
        Seal(tmp_path / "key")


def test_an_outcome_that_quotes_a_hostile_sandbox_is_read_back_as_it_was_told(tmp_path: Path) -> None:
    """The trap: it would be another one after a restart."""
    outcome = fit(RunnerStopped("\ud800" + "x" * 5000))
    jobs = State(tmp_path).jobs
    job, _ = jobs.add(JOB)
    jobs.take(job)
    jobs.settle(job, Result(outcome, 3, b"end\n"))
    entry = State(tmp_path).jobs.get(job)
    assert entry
    assert entry.result == Result(outcome, 3, b"end\n")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be used"):
        Database(tmp_path / "missing" / "runner.db")
