"""The state folder as one file: made while the service runs, and restored into an empty folder.

The file is a tar archive. Its first member, `manifest.json`, describes it; its last member is `end`, whose absence
means that a part is missing. The archive holds encrypted secrets and the key that opens them.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runner import durable
from runner.errors import StateError
from runner.spool import spool
from runner.store.copy import VERSION, copy, recorded
from runner.store.database import Database
from runner.store.jobs import Jobs
from runner.store.seal import Seal
from runner.store.states import JobState

_MANIFEST: Final = "manifest.json"
_DATABASE: Final = "runner.db"
_END: Final = "end"
_SINGLE: Final = ("key", "token")
_LOG: Final = re.compile(r"logs/[0-9a-f]{32}")
_MAX_MANIFEST: Final = 64 * 1024
_LOST_AND_FOUND: Final = "lost+found"
_NOTHING: Final = frozenset({_LOST_AND_FOUND, "lock"})
"""The files that an empty folder may hold: the `lost+found` of a new file system, and the lock."""


class Manifest(BaseModel):
    """Describes a backup."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    runner: str
    schema_version: int
    """The version of the tables."""
    made: dt.datetime


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore put back."""

    manifest: Manifest
    waiting: int
    running: int


def backup(state: Path, to: BinaryIO) -> Manifest:
    """Write a backup of the state; the service may run meanwhile. Raises StateError."""
    if not (state / _DATABASE).is_file():
        raise StateError(f"There is no state of a runner in {state}. Name its folder: --state.")
    with _told("The backup cannot be made"), spool(state) as folder, tarfile.open(fileobj=to, mode="w|") as archive:
        # All that a log held before the copy of the database, and all that the copy counts, is older than the copy.
        before = dict(_sizes(state / "logs"))
        schema = copy(state / _DATABASE, folder / _DATABASE)
        manifest = Manifest(runner=version("sandbox-runner"), schema_version=schema, made=dt.datetime.now(dt.UTC))
        _add_bytes(archive, _MANIFEST, manifest.model_dump_json().encode())
        _add(archive, _DATABASE, folder / _DATABASE)
        for name in _SINGLE:
            _add(archive, name, state / name)
        known = recorded(folder / _DATABASE)
        for log, now in _sizes(state / "logs"):
            with suppress(FileNotFoundError):  # the job was forgotten meanwhile
                size = min(now, max(before.get(log, 0), known.get(log, 0)))
                _add(archive, f"logs/{log}", state / "logs" / log, size)
        _add_bytes(archive, _END, b"")
    return manifest


def restore(state: Path, source: BinaryIO) -> Restored:
    """Restore a backup into a folder that is empty or missing. The service then starts drained. Raises StateError.

    On failure, the folder is as empty as before. If root restores, the folder's owner gets the files.
    """
    with _locked(state):
        try:
            restored = _hold(state, _unpack(state, source))
            _give_to_owner(state)
        except BaseException:
            _empty(state)
            raise
        return restored


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Create an empty folder and lock it, so that no service begins to use it meanwhile."""
    with _told(f"The backup cannot be restored into {state}"):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if there := sorted(path.name for path in state.iterdir() if path.name not in _NOTHING):
            raise StateError(f"The folder {state} is not empty ({there[0]}). Restore into a new one: --state.")
        lock = durable.lock(state / "lock")
    if lock is None:
        raise StateError(f"A runner uses the state folder {state}. Stop it first.")
    with lock:
        yield


def _unpack(state: Path, source: BinaryIO) -> Manifest:
    with _told("The backup cannot be read"), tarfile.open(fileobj=source, mode="r|") as archive:
        manifest = _manifest(archive)
        (state / "logs").mkdir(mode=0o700)
        names = [_take(archive, member, state) for member in iter(archive.next, None)]
    missing = {_DATABASE, *_SINGLE, _END} - set(names)
    if missing:
        raise StateError(f"The backup is not whole: it lacks {', '.join(sorted(missing))}. Take another one.")
    return manifest


def _manifest(archive: tarfile.TarFile) -> Manifest:
    """Read the manifest. Raises StateError when this runner cannot use the backup."""
    first = archive.next()
    content = archive.extractfile(first) if first and first.name == _MANIFEST else None
    try:
        manifest = Manifest.model_validate_json(content.read(_MAX_MANIFEST) if content else b"")
    except ValidationError as error:
        raise StateError("That is no backup of a runner, or one of a version that is not known here.") from error
    if manifest.schema_version > VERSION:
        raise StateError(
            f"The backup was made by a newer runner ({manifest.runner}; version {manifest.schema_version} of its "
            f"tables, this one knows {VERSION}). Restore it with that version."
        )
    return manifest


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, state: Path) -> str:
    """Write one file that belongs into a state folder. Raises StateError for any other file."""
    known = member.name in (_DATABASE, _END, *_SINGLE) or _LOG.fullmatch(member.name)
    content = archive.extractfile(member) if known and member.isreg() else None
    if content is None:
        raise StateError(f"The backup holds {member.name[:80]!r}, which no backup of a runner does. It was changed.")
    if member.name != _END:
        with os.fdopen(os.open(state / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            shutil.copyfileobj(content, file, 1024 * 1024)
    return member.name


def _hold(state: Path, manifest: Manifest) -> Restored:
    """Migrate the database to this version, and hold all jobs: the waiting ones may have been run since the backup."""
    database = Database(state / _DATABASE)
    try:
        jobs = Jobs(database, Seal(state / "key"))
        jobs.set_hold(f"the restore of a backup of {manifest.made:%Y-%m-%d %H:%M} UTC")
        return Restored(manifest, len(jobs.find(JobState.QUEUED, JobState.STARTING)), len(jobs.find(JobState.RUNNING)))
    finally:
        database.close()


def _give_to_owner(state: Path) -> None:
    owner = state.stat()
    if owner.st_uid == os.geteuid():
        return
    with _told(f"What was restored into {state} cannot be given to the folder's owner"):
        for path in state.iterdir():
            if path.name != _LOST_AND_FOUND:
                for one in (path, *path.rglob("*")):
                    os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sizes(logs: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(logs.iterdir()) if logs.is_dir() else ():
        with suppress(FileNotFoundError):
            if _LOG.fullmatch(f"logs/{path.name}"):
                yield path.name, path.lstat().st_size


def _add(archive: tarfile.TarFile, name: str, path: Path, size: int | None = None) -> None:
    """Add the first `size` bytes of a file, which may grow meanwhile."""
    with durable.open_to_read(path) as file:
        archive.addfile(_info(name, os.fstat(file.fileno()).st_size if size is None else size), file)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_info(name, len(content)), io.BytesIO(content))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _empty(state: Path) -> None:
    for path in state.iterdir():
        if path.name not in _NOTHING:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _told(purpose: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise StateError(f"{purpose}: {error}.") from error
