"""A backup is whole and consistent whatever the service does meanwhile, and is restored only into an empty folder."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import LeaseLostError, StateError
from runner.job import Job
from runner.outcome import SandboxLost, Succeeded
from runner.service import backup as backup_module
from runner.service.backup import backup, restore
from runner.service.home import Home
from runner.service.mode import Mode
from runner.store import copy as copy_module
from runner.store.copy import VERSION
from runner.store.states import JobState
from runner.store.tokens import Scope
from tests.e2e.conftest import RUNNER
from tests.runner.conftest import FakeLeases
from tests.runner.service.conftest import Host
from tests.runner.service.state import State, locked
from tests.runner.service.test_records import finished, started
from tests.runner.service.test_service import up, waiting

pytestmark = pytest.mark.anyio


def taken(state: Path) -> io.BytesIO:
    """A backup, at its beginning."""
    (state / "token").touch()
    file = io.BytesIO()
    backup(state, file)
    file.seek(0)
    return file


def new_state(folder: Path) -> State:
    folder.mkdir()
    return State(folder)


def changed(
    file: io.BytesIO, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]
) -> io.BytesIO:
    """The same with each member as `change` has it, or without it."""
    other = io.BytesIO()
    with tarfile.open(fileobj=file) as old, tarfile.open(fileobj=other, mode="w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content
            if made := change(member, content.read()):
                made[0].size = len(made[1])
                new.addfile(made[0], io.BytesIO(made[1]))
    other.seek(0)
    return other


async def test_what_was_backed_up_under_a_running_service_goes_on_where_its_sandbox_is(
    host: Host, gate: Path, tmp_path: Path
) -> None:
    async with host.life(slots=1) as life:
        done = await life.service.submit(Job(b"echo done"))
        assert await life.outcome(done.id) == Succeeded()
        running, queued = await life.service.submit(waiting(gate)), await life.service.submit(Job(b"echo late"))
        await up(running)
        facts, token = State(host.state).tokens.create("ci", [Scope.READ], None)
        file = taken(host.state)
        await life.detach()  # the host is lost, but for what runs in its sandboxes
    restored = restore(tmp_path / "new", file)
    assert (restored.running, restored.waiting) == (1, 1)
    again = Host(tmp_path / "new", host.sandbox, host.leases, host.settings)
    async with again.life() as later:
        assert later.service.mode is Mode.DRAINING
        assert await later.log(done.id) == b"done\nrunner: The script succeeded.\n"
        gate.touch()
        assert await later.log(running.id) == b"up\nend\nrunner: The script succeeded.\n"
        assert (await later.job(queued.id)).state is JobState.QUEUED
        await later.service.resume()
        assert await later.outcome(queued.id) == Succeeded()
    assert State(tmp_path / "new").tokens.find(token) == facts


async def test_a_job_whose_sandbox_is_gone_is_told_to_be_lost(host: Host, gate: Path, tmp_path: Path) -> None:
    async with host.life() as life:
        running = await life.service.submit(waiting(gate))
        await up(running)
        file = taken(host.state)
    restore(tmp_path / "new", file)
    leases = FakeLeases(host.sandbox.access)

    async def gone() -> None:
        raise LeaseLostError("There is no such lease.")

    leases.trouble["resume"] = gone
    async with Host(tmp_path / "new", host.sandbox, leases, host.settings).life() as later:
        outcome = await later.outcome(running.id)
        assert isinstance(outcome, SandboxLost)
        assert (await later.log(running.id)).startswith(b"up\nrunner: ")


async def test_a_log_is_neither_ahead_of_the_database_nor_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a job that ended while it was copied would have its closing lines taken for output."""
    state = new_state(tmp_path / "old")
    ended, late = await finished(state, b"all\n"), await started(state, b"late\n")
    running = await started(state, b"half\n")
    copy = copy_module.copy

    def slow(source: Path, target: Path) -> int:
        with late.log_path.open("ab") as log:
            log.write(b"last\nrunner: The script succeeded.\n")
        with state.database.transaction("test") as connection:
            connection.execute(
                "UPDATE job SET output = 10, closing = 'runner: The script succeeded.\n' WHERE id = ?", (late.id,)
            )
        version = copy(source, target)
        with running.log_path.open("ab") as log:
            log.write(b"more\nrunner: The script succeeded.\n")
        (tmp_path / "old" / "logs" / ("0" * 32)).write_bytes(b"of a job that is not in the copy")
        return version

    monkeypatch.setattr(backup_module, "copy", slow)
    restore(tmp_path / "new", taken(tmp_path / "old"))
    logs = tmp_path / "new" / "logs"
    assert (logs / running.id).read_bytes() == b"half\n"
    assert (logs / late.id).read_bytes() == b"late\nlast\nrunner: The script succeeded.\n"
    assert (logs / ended.id).read_bytes() == ended.log_path.read_bytes()
    assert (logs / ("0" * 32)).read_bytes() == b""
    assert [path.name for path in (tmp_path / "old").iterdir() if path.name.startswith("sandbox-runner-")] == []


async def test_what_is_restored_is_for_its_owner_only_and_a_service_can_use_it(tmp_path: Path) -> None:
    await finished(new_state(tmp_path / "old"))
    new = tmp_path / "new"
    (new / "lost+found").mkdir(parents=True)
    with locked(tmp_path / "old"):  # who writes holds nobody up
        file = taken(tmp_path / "old")
    restore(new, file)
    assert {path.name for path in new.iterdir()} == {"runner.db", "key", "token", "logs", "lock", "lost+found"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in new.rglob("*") if path.name != "lost+found")
    Home(new).release()


async def test_what_root_restores_belongs_to_who_owns_the_folder(tmp_path: Path) -> None:
    """The trap: systemd gives a state folder to the unit's user only while the folder itself is another's."""
    assert os.geteuid() == 0, "the tests run as root"
    await finished(new_state(tmp_path / "old"))
    new = tmp_path / "new"
    (new / "lost+found").mkdir(parents=True)
    os.chown(new, 10001, 10002)
    restore(new, taken(tmp_path / "old"))
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in new.rglob("*") if path.name != "lost+found"}
    assert owners == {(10001, 10002)}
    assert (new / "lost+found").stat().st_uid == 0


async def test_a_folder_that_is_used_or_not_empty_is_left_alone(tmp_path: Path) -> None:
    file = taken_of_empty(tmp_path / "old")
    used = Home(tmp_path / "used")
    for folder, why in ((tmp_path / "used", "is not empty"), (tmp_path / "kept", r"is not empty \(mine\)")):
        folder.mkdir(exist_ok=True)
        (folder / "mine").touch()
        before = sorted(folder.rglob("*"))
        file.seek(0)
        with pytest.raises(StateError, match=why):
            restore(folder, file)
        assert sorted(folder.rglob("*")) == before
    used.release()


def taken_of_empty(folder: Path) -> io.BytesIO:
    assert new_state(folder).records.waiting == 0
    return taken(folder)


def without_end(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
    return None if member.name == "end" else (member, content)


def newer(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    version = f'"schema_version":{VERSION}'.encode()
    assert member.name != "manifest.json" or version in content
    return member, content.replace(version, b'"schema_version":99')


def escaping(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name == "key":
        member.name = "../escaped"
    return member, content


def linked(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name == "token":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return member, b""
    return member, content


def broken_database(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, b"no database at all, but long enough" * 50 if member.name == "runner.db" else content


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_end, "is not whole: it lacks end"),
        (newer, "made by a newer runner .* version 99"),
        (escaping, "which no backup of a runner does"),
        (linked, "which no backup of a runner does"),
        (broken_database, "is no database"),
    ],
)
def test_what_is_no_backup_of_ours_changes_nothing(
    tmp_path: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None], why: str
) -> None:
    file = changed(taken_of_empty(tmp_path / "old"), change)
    with pytest.raises(StateError, match=why):
        restore(tmp_path / "new", file)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("size", [0, 100, 1500, 30_000])
def test_a_part_of_a_backup_changes_nothing(tmp_path: Path, size: int) -> None:
    file = io.BytesIO(taken_of_empty(tmp_path / "old").read()[:size])
    with pytest.raises(StateError, match="backup"):
        restore(tmp_path / "new", file)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]


def test_a_folder_without_state_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="There is no state of a runner in"):
        backup(tmp_path, io.BytesIO())
    assert list(tmp_path.iterdir()) == []


def command(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*RUNNER, *words], input=given, capture_output=True, timeout=60, check=False)


def test_the_commands(tmp_path: Path) -> None:
    old, file, new = tmp_path / "old", tmp_path / "file", tmp_path / "new"
    assert taken(new_state(old).folder).tell() == 0
    assert command("backup", str(file), "--state", str(old)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    again = command("backup", str(file), "--state", str(old))
    assert (again.returncode, b"File exists. Name another file." in again.stderr) == (66, True)
    piped = command("backup", "-", "--state", str(old)).stdout
    restored = command("restore", "-", "--state", str(new), given=piped)
    assert (restored.returncode, b"the service starts drained" in restored.stdout) == (0, True), restored.stderr
    assert b"is not empty" in command("restore", str(file), "--state", str(new)).stderr
    assert command("backup", str(tmp_path / "none"), "--state", str(tmp_path)).returncode == 69
    assert not (tmp_path / "none").exists()
    assert command("restore", str(tmp_path / "none"), "--state", str(new)).returncode == 66
