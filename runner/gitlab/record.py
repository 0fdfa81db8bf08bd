"""The record of one GitLab job, by which a later life of the service continues: a folder with documents and logs.

response.json   the job response, with its secrets
variables.json  gitlab-runner's own variables, for a job that has an image or services
record.json     the job's state, its lease, and its last stage
CALL.log        the output of a stage; aside.log has that of the scripts around it

A killed runner leaves either the old or the new record. Nothing is synced to disk: a crash of the host ends every
sandbox and every hook, so no hook comes back for the job, and a sync would cost each stage milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from runner import durable
from runner.errors import GitLabError
from runner.execution.lease import new_token
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.gitlab.response import MAX_RESPONSE, GitLabJob, parse
from runner.logs import Action, Events

_events = Events(__name__)

_RESPONSE: Final = "response.json"
_VARIABLES: Final = "variables.json"
_RECORD: Final = "record.json"
_MAX_RECORD: Final = 256 * 1024
_Text = Annotated[str, Field(max_length=4096)]
_TEXTS: Final = TypeAdapter(dict[str, str])


class State(StrEnum):
    """The state of a job."""

    CONFIGURED = "configured"
    PREPARING = "preparing"
    PREPARED = "prepared"
    RUNNING = "running"
    OVER = "over"


MOVES: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.CONFIGURED: frozenset({State.PREPARING, State.OVER}),
        State.PREPARING: frozenset({State.CONFIGURED, State.PREPARED, State.OVER}),
        State.PREPARED: frozenset({State.RUNNING, State.OVER}),
        State.RUNNING: frozenset({State.PREPARED, State.OVER}),
        State.OVER: frozenset(),
    }
)
"""The states that may follow each state."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Lease(_Document):
    """The key to the job's sandbox."""

    attempt: _Text
    token: _Text = Field(repr=False)


class StageNote(_Document):
    """The last requested stage, noted before its first byte was sent to the sandbox."""

    call: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The hook's own name for this start of the stage: a second request of that name does not start it again."""
    name: _Text
    marker: dict[str, Any] = Field(repr=False)
    end: _Text | None = None
    """How the stage ended, in the words of `stages`; None while it may run."""
    remarks: tuple[_Text, ...] = ()
    """Sentences for the job's log, after the output."""


class Note(_Document):
    """The content of `record.json`."""

    state: State = State.CONFIGURED
    lease: Lease | None = None
    stage: StageNote | None = None
    lost: _Text = ""
    """Why the sandbox was lost; empty if it was not."""
    services_told: bool = False
    """Whether the job's log has its services' logs."""


@dataclass(eq=False)
class Record:
    """One job."""

    folder: Path
    job: GitLabJob
    note: Note
    _ahead: bool = False
    """Whether the note is not in the file yet."""

    @property
    def name(self) -> str:
        """Return the job's name in the runner's own log."""
        return self.folder.name

    @property
    def state(self) -> State:
        """Return the job's state."""
        return self.note.state

    def learn(self, variables: Mapping[str, str]) -> None:
        """Use gitlab-runner's own among these variables in the job's image and services. Raises GitLabError."""
        if self.job.image is None and not self.job.services:
            return
        try:
            job = parse(durable.read(self.folder / _RESPONSE, MAX_RESPONSE), variables)
            durable.replace(self.folder / _VARIABLES, json.dumps(dict(job.runner_variables)).encode())
        except OSError as error:
            raise _not_noted(error) from error
        self.job = job

    def move(self, target: State, **changes: object) -> None:
        """Go to another state, and change other fields of the note. Raises GitLabError."""
        self._check(target)
        self.change(state=target, **changes)

    def move_soon(self, target: State, **changes: object) -> None:
        """As `move`, but let the event loop write the file later, so that the caller need not wait for the disk.

        If the service ends in between, the old note stays, and the next life follows the stage to the same end. Raises
        GitLabError, but not for the disk.
        """
        self._check(target)
        self.note = self.note.model_copy(update={"state": target, **changes})
        self._ahead = True
        asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if not self._ahead:
            return
        try:
            self.change()
        except GitLabError as error:
            _events.warning(Action.STORE_FAILED, str(error), gitlab_job=self.name)

    def _check(self, target: State) -> None:
        if target is not self.state and target not in MOVES[self.state]:
            raise GitLabError(f"GitLab job {self.job.id} is {self.state} and cannot become {target}.")

    def change(self, **changes: object) -> None:
        """Change the note. Raises GitLabError."""
        note = self.note.model_copy(update=changes)
        try:
            durable.replace(self.folder / _RECORD, note.model_dump_json().encode())
        except OSError as error:
            raise _not_noted(error) from error
        self.note = note
        self._ahead = False

    @property
    def marker(self) -> Marker | None:
        """Return the marker of the last stage."""
        return Marker.from_json(self.note.stage.marker) if self.note.stage else None

    def new_log(self, call: str, limit: int) -> Log:
        """Make the log of a stage, and remove the earlier logs. Raises LogError."""
        for old in self.folder.glob("*.log"):
            old.unlink(missing_ok=True)
        return Log(self._log(call), limit)

    def aside_log(self, limit: int) -> Log:
        """Make the log of a script that is no stage, in place of the last one. A stage's log stays. Raises LogError."""
        path = self._log("aside")
        path.unlink(missing_ok=True)
        return Log(path, limit)

    def old_log(self, call: str, limit: int) -> Log:
        """Continue the log of a stage that an earlier life started. Raises LogError."""
        return Log.reopen(self._log(call), limit)

    def _log(self, call: str) -> Path:
        return self.folder / f"{call}.log"

    def forget(self) -> None:
        """Remove the whole record. Never fails: the next start removes what remains."""
        self._ahead = False
        shutil.rmtree(self.folder, ignore_errors=True)


def create(jobs: Path, job: GitLabJob, response: bytes) -> tuple[Record, str]:
    """Note a new job, and return it with its handle. Raises GitLabError."""
    handle = f"{job.id}.{new_token()}"
    record = Record(jobs / name_of(handle), job, Note())
    try:
        record.folder.mkdir(mode=0o700, parents=True)
        durable.replace(record.folder / _RESPONSE, response)
    except OSError as error:
        raise _not_noted(error) from error
    record.change()
    return record, handle


def name_of(handle: str) -> str:
    """Return the name of the record that a handle opens, whether or not there is one.

    The handle's secret is not stored: a digest finds the record.
    """
    number = handle.partition(".")[0]
    digest = hashlib.sha256(handle.encode(errors="replace")).hexdigest()
    return f"{number if number.isdecimal() and len(number) < 20 else 'x'}-{digest[:32]}"


def load(jobs: Path) -> Iterator[Record]:
    """Yield the records of an earlier life. Removes damaged records; leaves those that cannot be read now.

    In both cases the job does not continue, and its lease is returned like any abandoned one.
    """
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        try:
            job = parse(durable.read(folder / _RESPONSE, MAX_RESPONSE), _variables(folder))
            note = Note.model_validate_json(durable.read(folder / _RECORD, _MAX_RECORD))
            yield Record(folder, job, note)
        except (FileNotFoundError, ValueError, GitLabError):  # the error's own text may hold a secret
            what = "what was noted of a job is incomplete, or of another version than this runner: it is removed"
            _events.warning(Action.STORE_FAILED, what, gitlab_job=folder.name)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            what = f"what was noted of a job cannot be read, and is left to the next life: {error}"
            _events.warning(Action.STORE_FAILED, what, gitlab_job=folder.name)


def _variables(folder: Path) -> Mapping[str, str]:
    """Read gitlab-runner's variables. Errors: OSError; ValueError."""
    try:
        return _TEXTS.validate_json(durable.read(folder / _VARIABLES, MAX_RESPONSE))
    except FileNotFoundError:
        return {}


def _not_noted(error: OSError) -> GitLabError:
    return GitLabError(f"The job cannot be noted: {error.strerror}. Make room in the runner's state folder.")
