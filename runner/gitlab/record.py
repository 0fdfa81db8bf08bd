"""What the service remembers of one GitLab job, so that a later life of it goes on: a folder with documents and logs.

    response.json   the job response, with its secrets
    variables.json  gitlab-runner's own variables, for a job that has an image or services
    record.json     where the job is in its life, its lease, and its last stage
    CALL.log        the output of a stage; aside.log of what was done around it

Killing the runner at any moment leaves either the old or the new record. Nothing is synced to disk: a crash of the host
ends every sandbox and every hook, so nobody comes back for the job then, and a sync would cost each stage milliseconds.
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
    """Where a job is in its life."""

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
"""From each state, the states that may follow."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Lease(_Document):
    """What opens the job's sandbox."""

    attempt: _Text
    token: _Text = Field(repr=False)


class StageNote(_Document):
    """The last stage that was asked for, from before its first byte was sent to the sandbox."""

    call: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The hook's own name for this stage's start: asked for again, it is not started again."""
    name: _Text
    marker: dict[str, Any] = Field(repr=False)
    end: _Text | None = None
    """How it ended, in the words of `stages`; None while it may run."""
    remarks: tuple[_Text, ...] = ()
    """Sentences for the job's log, after the output."""


class Note(_Document):
    """What `record.json` holds."""

    state: State = State.CONFIGURED
    lease: Lease | None = None
    stage: StageNote | None = None
    lost: _Text = ""
    """Why the sandbox was lost; empty while it was not."""
    services_told: bool = False
    """Whether the job's log has what its services wrote."""


@dataclass(eq=False)
class Record:
    """One job."""

    folder: Path
    job: GitLabJob
    note: Note
    _ahead: bool = False
    """Whether the note is one that is not in the file yet."""

    @property
    def name(self) -> str:
        """The job's name in the runner's own log."""
        return self.folder.name

    @property
    def state(self) -> State:
        """Where the job is in its life."""
        return self.note.state

    def learn(self, variables: Mapping[str, str]) -> None:
        """Have gitlab-runner's own of some variables where the job names its image and services. Raises GitLabError."""
        if self.job.image is None and not self.job.services:
            return
        try:
            job = parse(durable.read(self.folder / _RESPONSE, MAX_RESPONSE), variables)
            durable.replace(self.folder / _VARIABLES, json.dumps(dict(job.runner_variables)).encode())
        except OSError as error:
            raise _not_noted(error) from error
        self.job = job

    def move(self, target: State, **changes: object) -> None:
        """Go to another state, and change what else is noted. Raises GitLabError."""
        self._check(target)
        self.change(state=target, **changes)

    def move_soon(self, target: State, **changes: object) -> None:
        """As `move`, but the file follows when the event loop comes to it: whoever waits for the change need not.

        A life that ends in between leaves the note before, and its next one sees the stage to the same end. Raises
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
        """Have something noted. Raises GitLabError."""
        note = self.note.model_copy(update=changes)
        try:
            durable.replace(self.folder / _RECORD, note.model_dump_json().encode())
        except OSError as error:
            raise _not_noted(error) from error
        self.note = note
        self._ahead = False

    @property
    def marker(self) -> Marker | None:
        """Of the last stage."""
        return Marker.from_json(self.note.stage.marker) if self.note.stage else None

    def new_log(self, call: str, limit: int) -> Log:
        """Make the log of a stage; those of earlier ones are gone with that. Raises LogError."""
        for old in self.folder.glob("*.log"):
            old.unlink(missing_ok=True)
        return Log(self._log(call), limit)

    def aside_log(self, limit: int) -> Log:
        """Make the log of what is no stage; the one before is gone with that, and a stage's stays. Raises LogError."""
        path = self._log("aside")
        path.unlink(missing_ok=True)
        return Log(path, limit)

    def old_log(self, call: str, limit: int) -> Log:
        """Go on with the log of a stage that an earlier life started. Raises LogError."""
        return Log.reopen(self._log(call), limit)

    def _log(self, call: str) -> Path:
        return self.folder / f"{call}.log"

    def forget(self) -> None:
        """Remove all of it. Never fails: what is left is removed at the next start."""
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

    The handle's secret is not written down: a digest finds the record.
    """
    number = handle.partition(".")[0]
    digest = hashlib.sha256(handle.encode(errors="replace")).hexdigest()
    return f"{number if number.isdecimal() and len(number) < 20 else 'x'}-{digest[:32]}"


def load(jobs: Path) -> Iterator[Record]:
    """Yield what an earlier life left. What is no job's record is removed; what the disk does not tell now is left.

    Nobody comes back for either, and their leases are returned as those that nobody goes on with.
    """
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        try:
            job = parse(durable.read(folder / _RESPONSE, MAX_RESPONSE), _variables(folder))
            note = Note.model_validate_json(durable.read(folder / _RECORD, _MAX_RECORD))
            yield Record(folder, job, note)
        except (FileNotFoundError, ValueError, GitLabError):  # whose own words may hold a secret
            what = "what was noted of a job is incomplete, or of another version than this runner: it is removed"
            _events.warning(Action.STORE_FAILED, what, gitlab_job=folder.name)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            what = f"what was noted of a job cannot be read, and is left to the next life: {error}"
            _events.warning(Action.STORE_FAILED, what, gitlab_job=folder.name)


def _variables(folder: Path) -> Mapping[str, str]:
    """Errors: OSError; ValueError."""
    try:
        return _TEXTS.validate_json(durable.read(folder / _VARIABLES, MAX_RESPONSE))
    except FileNotFoundError:
        return {}


def _not_noted(error: OSError) -> GitLabError:
    return GitLabError(f"The job cannot be noted: {error.strerror}. Make room in the runner's state folder.")
