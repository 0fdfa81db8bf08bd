"""What is kept of a job for a later life of the service."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from runner.errors import GitLabError
from runner.gitlab import record as records
from runner.gitlab.record import MOVES, Lease, Record, State
from runner.gitlab.response import Image, parse

RESPONSE = json.dumps({"id": 7, "token": "secret-token"}).encode()


def create(folder: Path) -> tuple[Record, str]:
    return records.create(folder, parse(RESPONSE), RESPONSE)


def test_a_later_life_finds_a_job(tmp_path: Path) -> None:
    record, handle = create(tmp_path)
    record.move(State.PREPARING, lease=Lease(attempt="a", token="t"))
    [found] = records.load(tmp_path)
    assert (found.job, found.note, found.name) == (record.job, record.note, records.name_of(handle))
    assert {path.stat().st_mode & 0o077 for path in (record.folder, *record.folder.iterdir())} == {0}
    record.forget()
    assert not list(records.load(tmp_path))


def test_a_later_life_knows_what_gitlab_runner_s_own_variables_are(tmp_path: Path) -> None:
    """And no more of what it was told is noted."""
    response = json.dumps({"id": 7, "image": {"name": "$MIRROR/x"}, "variables": [{"key": "A", "value": "a"}]}).encode()
    record, _ = records.create(tmp_path, parse(response), response)
    record.learn({"MIRROR": "m.example", "A": "noted-before", "DOCKER_AUTH_CONFIG": "a-login"})
    [found] = records.load(tmp_path)
    assert found.job == record.job
    assert found.job.image == Image("m.example/x")
    assert {path.stat().st_mode & 0o077 for path in record.folder.iterdir()} == {0}
    assert not [path for path in record.folder.iterdir() if re.search("noted-before|a-login", path.read_text())]


def test_a_job_in_no_container_has_nothing_of_them_noted(tmp_path: Path) -> None:
    record, _ = create(tmp_path)
    record.learn({"MIRROR": "m.example"})
    assert not [path for path in record.folder.iterdir() if "m.example" in path.read_text()]


def test_the_secret_of_a_handle_is_not_written_down(tmp_path: Path) -> None:
    record, handle = create(tmp_path)
    secret = handle.partition(".")[2]
    assert not [path for path in record.folder.iterdir() if secret.encode() in path.read_bytes()]
    assert secret not in record.name


@pytest.mark.parametrize("name", ["record.json", "response.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"state": "elsewhere"}', b"\0" * 300_000])
def test_what_is_no_record_is_removed_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None
) -> None:
    """A crash of the host may leave anything, and then nobody comes back for the job either."""
    record, _ = create(tmp_path)
    path = record.folder / name
    path.unlink()
    if content is not None and not (name == "record.json" and content == b"{}"):
        path.write_bytes(content)
    assert not list(records.load(tmp_path))
    assert not record.folder.exists()
    assert record.name in caplog.text
    assert "it is removed" in caplog.text


def test_what_the_disk_does_not_tell_now_is_left_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record, _ = create(tmp_path)
    file = record.folder / "record.json"
    noted = file.read_bytes()
    file.unlink()
    file.symlink_to("record.json")  # reading it is an error of the system: a loop
    assert not list(records.load(tmp_path))
    assert "left to the next life" in caplog.text
    file.unlink()
    file.write_bytes(noted)
    assert [found.note for found in records.load(tmp_path)] == [record.note]


@pytest.mark.parametrize("handle", ["", "7", "../../etc.x", "7.", "x" * 10_000, "\udcff.y"])
def test_no_handle_leads_out_of_the_folder(handle: str) -> None:
    name = records.name_of(handle)
    assert "/" not in name
    assert len(name) < 64


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("target", State)
def test_moves(tmp_path: Path, state: State, target: State) -> None:
    record, _ = create(tmp_path)
    record.change(state=state)
    if target is state or target in MOVES[state]:
        record.move(target)
        assert record.state is target
    else:
        with pytest.raises(GitLabError, match=f"{state} and cannot become {target}"):
            record.move(target)
        assert record.state is state


@pytest.mark.anyio
async def test_what_is_noted_soon_is_there_at_once_and_on_disk_a_moment_later(tmp_path: Path) -> None:
    """Also when another note or the job's end comes first."""
    record, _ = create(tmp_path)
    record.change(state=State.RUNNING)
    record.move_soon(State.PREPARED, lost="one")
    assert (record.state, [found.state for found in records.load(tmp_path)]) == (State.PREPARED, [State.RUNNING])
    await asyncio.sleep(0)
    assert [found.note for found in records.load(tmp_path)] == [record.note]
    record.move_soon(State.PREPARED, lost="two")
    record.move(State.RUNNING)
    [found] = records.load(tmp_path)
    assert (found.state, found.note.lost) == (State.RUNNING, "two")
    record.move_soon(State.PREPARED)
    record.forget()
    await asyncio.sleep(0)
    assert not record.folder.exists()


@pytest.mark.anyio
async def test_a_disk_that_refuses_what_is_noted_soon_is_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, _ = create(tmp_path)
    shutil.rmtree(record.folder)
    record.move_soon(State.PREPARING)
    await asyncio.sleep(0)
    assert "The job cannot be noted" in caplog.text
