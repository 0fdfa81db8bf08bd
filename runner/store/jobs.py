"""The jobs in the database. The transaction that writes a move checks it against the table of states."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from runner import job as jobs
from runner import outcome as outcomes
from runner.errors import IllegalMoveError, RequestReusedError
from runner.execution.marker import Marker
from runner.job import Job
from runner.outcome import BadRequest, BadSource, Cancelled, Outcome, RunnerStopped, SandboxLost, SetupFailed
from runner.source_and_artifacts import Upload
from runner.steps import StepProgress, StepState, waiting
from runner.store import deliveries, queue
from runner.store.database import Database
from runner.store.seal import Seal
from runner.store.states import MOVES, JobState

_SUMMARY: Final = (
    "number, id, state, submitted, trust_key, priority, outcome, steps, retries, sandbox, profile, "
    "(SELECT max(at) FROM event WHERE job = number AND event.state = 'running') AS started, "
    "(SELECT at FROM event WHERE job = number AND event.state = 'settled') AS ended"
)
_WHOLE: Final = "SELECT * FROM job LEFT JOIN content ON job = number"


@dataclass(frozen=True, slots=True)
class Summary:
    """The public facts about a job."""

    id: str
    state: JobState
    submitted: float
    """Seconds since the epoch."""
    trust_key: str
    priority: int
    outcome: Outcome | None
    """How the job ended, as soon as that is on disk."""
    steps: tuple[StepProgress, ...] = ()
    retries: int = 0
    """How often the job was started again."""
    started: float | None = None
    ended: float | None = None
    """When the job was last sent to a sandbox, and when it had its outcome; seconds since the epoch."""
    sandbox: str | None = None
    profile: str | None = None
    """The sandbox to which the job was last sent, and its profile."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The traces in the log of a job's starts before the last one."""

    retries: int = 0
    """The number of those starts."""
    output: int = 0
    closing: bytes = b""
    """The runner's own lines, as in `Result`, at the end of the last of those starts."""

    @property
    def size(self) -> int:
        """The position in the log where the next start begins."""
        return self.output + len(self.closing)


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended. Written once and never changed."""

    outcome: Outcome
    output: int
    """Bytes of the log that are the script's output."""
    closing: bytes
    """The runner's own lines, which follow the output."""
    steps: tuple[StepProgress, ...] = ()
    """How far the steps came."""


@dataclass(frozen=True, slots=True)
class Entry:
    """All facts about one job."""

    id: str
    state: JobState
    submitted: float
    """Seconds since the epoch."""
    job: Job | None = None
    """Until the job is settled."""
    marker: Marker | None = None
    """From when the job may have started until it is settled."""
    cancelled_by: str | None = None
    """Who asked for the job's end."""
    result: Result | None = None
    """Once the job is settled."""
    earlier: Earlier = Earlier()
    problem: str = ""
    """Why the job's stored content cannot be read; empty if it can."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold: no waiting job may start."""

    by: str
    """Who set it."""
    since: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's own name for one submission: the same request again returns the same job."""

    key: str
    content: bytes
    """The whole content of the request."""


class Jobs:
    """The table of jobs. Every method blocks for as long as the disk takes, and raises StateError."""

    def __init__(self, database: Database, seal: Seal, receivers: Collection[str] = ()) -> None:
        """`receivers` are told of each outcome: see `deliveries`."""
        self._database = database
        self._seal = seal
        self._receivers = tuple(receivers)

    def add(self, job: Job, request: Request | None = None) -> tuple[str, bool]:
        """Take a job, and return its id and whether it is new: if its request was taken before, it is that earlier job.

        Errors: RequestReusedError when the request was for another job.
        """
        job_id, now = uuid.uuid4().hex, time.time()
        expires = None if job.queue_timeout is None else now + job.queue_timeout
        sealed = self._seal.close(json.dumps(jobs.to_json(job)).encode(), job_id)
        digest = self._seal.digest(request.content) if request else None
        with self._database.transaction("The job cannot be kept") as connection:
            if request and (earlier := self._requested(connection, request.key, digest)):
                return earlier, False
            number = connection.execute(
                "INSERT INTO job (id, state, submitted, priority, trust_key, expires, request, request_digest, "
                "steps, upload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job_id, JobState.QUEUED, now, job.priority, job.trust_key, expires,
                    request.key if request else None, digest, _steps_to_json(waiting(job.steps)),
                    job.source.id if isinstance(job.source, Upload) else None,
                ),
            ).lastrowid  # fmt: skip
            assert number is not None
            connection.execute("INSERT INTO content VALUES (?, ?)", (number, sealed))
            _note(connection, number, JobState.QUEUED)
            queue.enter(connection, number)
        return job_id, True

    def requested(self, request: Request) -> bool:
        """Return whether a job was submitted with this name before."""
        return bool(self._database.read("SELECT 1 FROM job WHERE request = ?", request.key))

    def uploads(self) -> set[str]:
        """Return the archives that jobs still need."""
        return {row["upload"] for row in self._database.read("SELECT upload FROM job WHERE upload IS NOT NULL")}

    def get(self, job_id: str) -> Entry | None:
        """Return the job with that id, if it is known."""
        rows = self._database.read(f"{_WHOLE} WHERE id = ?", job_id)
        return self._entry(rows[0]) if rows else None

    def summary(self, job_id: str) -> Summary | None:
        """Return the public facts about one job."""
        rows = self._database.read(f"SELECT {_SUMMARY} FROM job WHERE id = ?", job_id)  # noqa: S608 - our constant
        return _summary(rows[0]) if rows else None

    def page(self, limit: int, before: str | None, state: JobState | None, prefix: str | None = None) -> list[Summary]:
        """List jobs, the newest first: those older than `before`, in that state, with ids that begin with `prefix`."""
        rows = self._database.read(
            f"SELECT {_SUMMARY} FROM job "  # noqa: S608 - our constant
            "WHERE (?1 IS NULL OR number < (SELECT number FROM job WHERE id = ?1)) AND (?2 IS NULL OR state = ?2) "
            "AND (?4 IS NULL OR substr(id, 1, length(?4)) = ?4) ORDER BY number DESC LIMIT ?3",
            before,
            state,
            limit,
            prefix,
        )
        return [_summary(row) for row in rows]

    def find(self, *states: JobState) -> list[str]:
        """Return the jobs that are in one of these states, in the order in which they were submitted."""
        places = ", ".join("?" * len(states))
        rows = self._database.read(f"SELECT id FROM job WHERE state IN ({places}) ORDER BY number", *states)  # noqa: S608
        return [str(row["id"]) for row in rows]

    def waiting(self) -> int:
        """Return the number of waiting jobs."""
        return int(self._database.read("SELECT count(*) FROM job WHERE state = 'queued'")[0][0])

    def counts(self) -> tuple[dict[str, int], float | None]:
        """Return the number of jobs in each state, and when the longest-waiting one was submitted (since the epoch)."""
        rows = self._database.read("SELECT state, count(*), min(submitted) FROM job GROUP BY state")
        known = {str(row["state"]): row for row in rows}
        oldest = known[JobState.QUEUED][2] if JobState.QUEUED in known else None
        return {state: known[state][1] if state in known else 0 for state in JobState}, oldest

    def try_reading(self) -> None:
        """Check that the database can be read, in a time that does not depend on the number of jobs."""
        self._database.read("SELECT 1 FROM job LIMIT 1")

    def try_writing(self) -> None:
        """Check that the database can be written."""
        self._database.try_writing()

    def unwanted(self, limit: int) -> list[str]:
        """Return some of the waiting jobs that somebody cancelled, or that have waited for too long."""
        rows = self._database.read(
            "SELECT id FROM job WHERE state = 'queued' AND cancelled_by IS NOT NULL "
            "UNION ALL SELECT id FROM job WHERE state = 'queued' AND cancelled_by IS NULL AND expires <= ? LIMIT ?",
            time.time(),
            limit,
        )
        return [str(row["id"]) for row in rows]

    def hold(self) -> Hold | None:
        """Return who keeps waiting jobs from starting; None when they may start."""
        rows = self._database.read("SELECT by, since FROM hold")
        return Hold(rows[0]["by"], rows[0]["since"]) if rows else None

    def set_hold(self, by: str) -> None:
        """Keep waiting jobs from starting, over restarts. The first hold stays."""
        with self._database.transaction("The runner drains, but a restart would forget that") as connection:
            connection.execute("INSERT OR IGNORE INTO hold (one, by, since) VALUES (1, ?, ?)", (by, time.time()))

    def end_hold(self) -> None:
        """Let waiting jobs start."""
        with self._database.transaction("The runner cannot be resumed") as connection:
            connection.execute("DELETE FROM hold")

    def put_back(self) -> None:
        """Put the jobs that an earlier life claimed, but did not send, back into the queue."""
        with self._database.transaction("The jobs of an earlier life cannot be queued again") as connection:
            for row in connection.execute("SELECT id FROM job WHERE state = ?", (JobState.STARTING,)).fetchall():
                _move(connection, row["id"], JobState.QUEUED)

    def claim(self, per_key: int) -> Entry | None:
        """Claim the next job, with at most `per_key` of one trust key at once; None when no job may start.

        The same transaction reads the job: one that was claimed but not read would wait for the next life.
        """
        with self._database.transaction("No job can be claimed", durable=False) as connection:
            number = queue.first(connection, per_key)
            if number is None:
                return None
            job_id = str(connection.execute("SELECT id FROM job WHERE number = ?", (number,)).fetchone()[0])
            _move(connection, job_id, JobState.STARTING)
            queue.leave(connection, number, served=True)
            row = connection.execute(f"{_WHOLE} WHERE number = ?", (number,)).fetchone()
        return self._entry(row)

    def take(self, job_id: str) -> bool:
        """Claim a job regardless of the queue's order; False when it does not wait any more."""
        with self._database.transaction("The job cannot be claimed", durable=False) as connection:
            row = connection.execute("SELECT number, state FROM job WHERE id = ?", (job_id,)).fetchone()
            if row is None or row["state"] != JobState.QUEUED:
                return False
            _move(connection, job_id, JobState.STARTING)
            queue.leave(connection, row["number"], served=False)
        return True

    def mark(self, job_id: str, marker: Marker) -> None:
        """Write down that the job may have started."""
        sealed = self._seal.close(json.dumps(marker.to_json()).encode(), job_id)
        with self._database.transaction("The start cannot be written down") as connection:
            connection.execute(
                "UPDATE job SET marker = ?, sandbox = ?, profile = ? WHERE id = ?",
                (sealed, marker.sandbox, marker.profile, job_id),
            )
            _move(connection, job_id, JobState.RUNNING)

    def cancel(self, job_id: str, by: str) -> None:
        """Write down that somebody cancelled the job. The first one stays."""
        with self._database.transaction("The cancellation cannot be written down") as connection:
            connection.execute(
                "UPDATE job SET cancelled_by = coalesce(cancelled_by, ?) WHERE id = ? AND outcome IS NULL", (by, job_id)
            )

    def retry(self, job_id: str, earlier: Earlier, job: Job) -> None:
        """Put a job back into its place in the queue after a failed start."""
        expires = None if job.queue_timeout is None else time.time() + job.queue_timeout
        with self._database.transaction("The next start cannot be written down") as connection:
            connection.execute(
                "UPDATE job SET retries = ?, output = ?, closing = ?, expires = ?, marker = NULL WHERE id = ?",
                (earlier.retries, earlier.output, earlier.closing.decode(), expires, job_id),
            )
            _move(connection, job_id, JobState.QUEUED)

    def settle(self, job_id: str, result: Result) -> None:
        """Write down the outcome, and forget what only the run needed: the job's secrets are gone when this returns."""
        with self._database.transaction("The outcome cannot be written down") as connection:
            _move(connection, job_id, JobState.SETTLED)
            written = connection.execute(
                "UPDATE job SET outcome = ?, output = ?, closing = ?, steps = ?, "
                "marker = NULL, cancelled_by = NULL, upload = NULL WHERE id = ? AND outcome IS NULL",
                (
                    json.dumps(outcomes.to_json(result.outcome)),
                    result.output,
                    result.closing.decode(),
                    _steps_to_json(result.steps),
                    job_id,
                ),
            )
            connection.execute("DELETE FROM content WHERE job = (SELECT number FROM job WHERE id = ?)", (job_id,))
            if written.rowcount == 0:
                return
            row = connection.execute(f"SELECT {_SUMMARY} FROM job WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
            deliveries.announce(connection, job_id, _message(_summary(row)), self._receivers)

    def finish(self, job_id: str) -> None:
        """Write down that the log has its last lines."""
        with self._database.transaction("The outcome cannot be written down to its end", durable=False) as connection:
            _move(connection, job_id, JobState.FINISHED)

    def finished(self) -> list[tuple[str, float]]:
        """Return the finished jobs, and when they ended, in seconds since the epoch."""
        rows = self._database.read(
            "SELECT id, at FROM job JOIN event ON event.job = number AND event.state = 'finished' "
            "WHERE job.state = 'finished'"
        )
        return [(str(row["id"]), float(row["at"])) for row in rows]

    def forget(self, ids: Sequence[str]) -> None:
        """Forget finished jobs; others stay."""
        if not ids:
            return
        with self._database.transaction("Old jobs cannot be forgotten", durable=False) as connection:
            connection.executemany("DELETE FROM job WHERE id = ? AND state = 'finished'", [(one,) for one in ids])

    def _requested(self, connection: sqlite3.Connection, key: str, digest: bytes | None) -> str | None:
        row = connection.execute("SELECT id, request_digest FROM job WHERE request = ?", (key,)).fetchone()
        if row is None:
            return None
        if row["request_digest"] != digest:
            raise RequestReusedError(
                "The Idempotency-Key was used for another job. Use a new key for each job, and the old one only to "
                "submit the same again."
            )
        return str(row["id"])

    def _entry(self, row: sqlite3.Row) -> Entry:
        job_id, state = str(row["id"]), JobState(row["state"])
        try:
            return Entry(
                job_id,
                state,
                row["submitted"],
                jobs.from_json(json.loads(self._seal.open(row["sealed"], job_id))) if row["sealed"] else None,
                Marker.from_json(json.loads(self._seal.open(row["marker"], job_id))) if row["marker"] else None,
                row["cancelled_by"],
                _result(row),
                Earlier(row["retries"], row["output"] or 0, (row["closing"] or "").encode()),
            )
        except ValueError as error:
            return Entry(job_id, state, row["submitted"], problem=str(error))


def fit(outcome: Outcome) -> Outcome:
    """Return the outcome with texts that can be stored and read back: they may quote a hostile sandbox."""
    match outcome:
        case Cancelled(by):
            return Cancelled(_fit(by))
        case SandboxLost(why) | SetupFailed(why) | BadSource(why) | RunnerStopped(why) | BadRequest(why):
            return replace(outcome, why=_fit(why))
    return outcome


def _fit(text: str) -> str:
    return text[: outcomes.MAX_TEXT].encode(errors="replace").decode()


def _move(connection: sqlite3.Connection, job_id: str, target: JobState) -> None:
    """Move a job to another state. Raises IllegalMoveError naming both when the table does not allow it."""
    row = connection.execute("SELECT number, state FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise IllegalMoveError(f"There is no job {job_id} to be {target}; this is a defect.")
    state = JobState(row["state"])
    if target is state:
        return
    if target not in MOVES[state]:
        raise IllegalMoveError(f"Job {job_id} cannot move from {state} to {target}; this is a defect.")
    connection.execute("UPDATE job SET state = ? WHERE number = ?", (target, row["number"]))
    _note(connection, row["number"], target)
    if target is JobState.QUEUED:
        queue.enter(connection, row["number"])


def _note(connection: sqlite3.Connection, number: int, state: JobState) -> None:
    connection.execute("INSERT INTO event (job, at, state) VALUES (?, ?, ?)", (number, time.time(), state))


def _summary(row: sqlite3.Row) -> Summary:
    outcome = outcomes.from_json(json.loads(row["outcome"])) if row["outcome"] else None
    return Summary(
        row["id"], JobState(row["state"]), row["submitted"], row["trust_key"], row["priority"], outcome, _steps(row),
        row["retries"], row["started"], row["ended"], row["sandbox"], row["profile"],
    )  # fmt: skip


def _result(row: sqlite3.Row) -> Result | None:
    if row["outcome"] is None:
        return None
    return Result(outcomes.from_json(json.loads(row["outcome"])), row["output"], row["closing"].encode(), _steps(row))


def _message(job: Summary) -> dict[str, object]:
    """Return the message that receivers get when a job has ended."""
    assert job.outcome
    return {
        "type": "job.finished",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "id": job.id,
            "submitted": job.submitted,
            "trust_key": job.trust_key,
            "outcome": outcomes.to_json(job.outcome),
            "steps": [
                {"name": step.name, "state": step.state, "exit_code": step.code, "allowed": step.allowed}
                for step in job.steps
            ],
            "retries": job.retries,
        },
    }


def _steps(row: sqlite3.Row) -> tuple[StepProgress, ...]:
    found = json.loads(row["steps"]) if row["steps"] else []
    return tuple(StepProgress(**{**step, "state": StepState(step["state"])}) for step in found)


def _steps_to_json(steps: Sequence[StepProgress]) -> str | None:
    return json.dumps([asdict(step) for step in steps]) if steps else None
