"""The bodies of requests and answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runner import outcome as outcomes
from runner import steps
from runner.errors import BadJobError
from runner.execution.files.bundle import Kept
from runner.execution.lease import SandboxFacts
from runner.job import Job
from runner.service.mode import Mode
from runner.service.signing import shown
from runner.service.watermark import Disk
from runner.source_and_artifacts import Artifacts, Source
from runner.steps import Step, StepProgress, StepState
from runner.store.deliveries import Delivery
from runner.store.jobs import Summary
from runner.store.states import JobState
from runner.store.tokens import Scope, TokenFacts


class StepRequest(BaseModel):
    """One step of a job."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str
    """Its name for `if` and the log: letters, digits, dots, dashes and underscores."""
    script: str
    """As the script of a job."""
    if_: Annotated[str | None, Field(alias="if")] = None
    """The condition under which it runs: tests joined by `&&`. Without it, the step runs when no step before failed."""
    always: bool = False
    """Whether the step runs even after a failed step."""
    allow_failure: bool | list[int] = False
    """Whether the job goes on when the step fails, or the exit codes with which it does."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the start of the step."""
    environment: dict[str, str] = {}
    """Variables on top of the job's."""

    def to_step(self, number: int) -> Step:
        """Raises BadJobError when the condition cannot be read."""
        try:
            condition = steps.parse(self.if_) if self.if_ is not None else steps.Condition()
        except BadJobError as error:
            raise BadJobError(str(error), field=("steps", number, "if")) from None
        return Step(
            name=self.name,
            script=_bytes(self.script),
            condition=condition,
            always=self.always,
            allow_failure=self.allow_failure if isinstance(self.allow_failure, bool) else frozenset(self.allow_failure),
            timeout=self.timeout,
            environment=self.environment,
        )


class JobRequest(BaseModel):
    """A job to run."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"oneOf": [{"required": ["script"]}, {"required": ["steps"]}]},
    )

    script: str = ""
    """A shell script, or a text that starts with a `#!` line."""
    steps: list[StepRequest] = []
    """Instead of the script: steps that run one after the other."""
    args: list[str] = []
    environment: dict[str, str] = {}
    profile: str | None = None
    """The name in the keeper's file; by default the first profile that has the labels, or `default`."""
    trust_key: str = "default"
    """Which jobs may inherit what this job leaves in its sandbox."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the start of the script; none means no limit."""
    secrets: dict[str, str] = {}
    """Variables like those of the environment; their values are masked in the log."""
    priority: int = 0
    """From -100 to 100; waiting jobs with a higher one go first."""
    labels: list[str] = []
    """Labels that the runner or the profile must have."""
    queue_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that the job may wait in the queue."""
    setup_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the end of that wait to the start of the script."""
    source: Source | None = None
    """The content of the working folder at the start."""
    artifacts: list[Artifacts] = []
    """The files of the working folder to keep."""
    retry: Annotated[int, Field(ge=0, le=3)] = 0
    """How often the job may be started again when its sandbox was lost, or none could be made."""

    def to_job(self) -> Job:
        """Raises BadJobError when the job cannot be run as written."""
        return Job(
            script=_bytes(self.script),
            steps=tuple(step.to_step(number) for number, step in enumerate(self.steps)),
            args=tuple(self.args),
            environment=self.environment,
            profile=self.profile,
            trust_key=self.trust_key,
            timeout=self.timeout,
            secrets=self.secrets,
            priority=self.priority,
            labels=frozenset(self.labels),
            queue_timeout=self.queue_timeout,
            setup_timeout=self.setup_timeout,
            source=self.source,
            artifacts=tuple(self.artifacts),
            retry=self.retry,
        )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class JobPage(BaseModel):
    """Some of the jobs, the newest first."""

    jobs: list[JobView]
    next: str | None
    """The value of `before` for the next page; none at the end."""


class Status(BaseModel):
    """The service itself."""

    version: str
    mode: Mode
    """What the service does with jobs."""
    drained_by: str | None
    """Who keeps waiting jobs from starting, over restarts; none when they may start."""
    drained_since: float | None
    """Seconds since the epoch."""
    slots: int
    running: int
    gitlab_running: int
    """GitLab's jobs that have a sandbox, or are about to get one."""
    waiting: int
    disk: Disk
    """The disk of the state folder. While it is low no new job starts, and when it is full no jobs are taken either."""
    disk_free: int
    """Bytes."""
    held: str
    """Why no waiting job may start; empty when it may."""


class StopRequest(BaseModel):
    """How to stop."""

    model_config = ConfigDict(extra="forbid")

    force: bool = False
    """Whether to end the running jobs."""


class TokenRequest(BaseModel):
    """A token to create."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@/-]*$")]
    """The owner's name, which the service logs."""
    scopes: Annotated[set[Scope], Field(min_length=1)]
    days: Annotated[float, Field(gt=0, le=3650)] | None = None
    """Its lifetime; without it, until the token is revoked."""


class TokenView(BaseModel):
    """The facts about a token."""

    id: str
    name: str
    scopes: list[Scope]
    created: float
    expires: float | None
    """Seconds since the epoch."""

    @classmethod
    def of(cls, facts: TokenFacts) -> TokenView:
        """Convert the store's facts."""
        return cls(
            id=facts.id, name=facts.name, scopes=sorted(facts.scopes), created=facts.created, expires=facts.expires
        )


class NewToken(TokenView):
    """A new token."""

    token: str
    """Only this answer has it."""


class StepView(BaseModel):
    """The progress of a step, as its sandbox reports it."""

    name: str
    state: StepState
    exit_code: int
    """Of a failed step; 128 + N for signal N."""
    seconds: float
    """How long the step took."""
    allowed: bool
    """Whether the step failed, and the job goes on all the same."""

    @classmethod
    def of(cls, step: StepProgress) -> StepView:
        """Convert what the service knows."""
        return cls(name=step.name, state=step.state, exit_code=step.code, seconds=step.seconds, allowed=step.allowed)


class JobView(BaseModel):
    """A job as the service knows it."""

    id: str
    state: JobState
    submitted: float
    """Seconds since the epoch."""
    trust_key: str
    priority: int
    outcome: dict[str, str | int] | None
    """How the job ended: name, exit code, sentence, and the facts of this kind of outcome."""
    steps: list[StepView]
    """The progress of the steps."""
    retries: int
    """How often the job was started again."""
    started: float | None
    """When the script was last sent to a sandbox."""
    ended: float | None
    """When the job had its outcome."""
    sandbox: str | None
    """The sandbox to which the script was last sent."""
    profile: str | None
    """The profile of that sandbox."""

    @classmethod
    def of(cls, job: Summary) -> JobView:
        """Convert the store's present facts."""
        return cls(
            id=job.id,
            state=job.state,
            submitted=job.submitted,
            trust_key=job.trust_key,
            priority=job.priority,
            outcome=outcomes.to_json(job.outcome) if job.outcome else None,
            steps=[StepView.of(step) for step in job.steps],
            retries=job.retries,
            started=job.started,
            ended=job.ended,
            sandbox=job.sandbox,
            profile=job.profile,
        )


class DeliveryView(BaseModel):
    """A webhook message that its receiver has not accepted."""

    job: str
    receiver: str
    """The address without path and query, which may be as good as a password."""
    created: float
    """Seconds since the epoch."""
    tries: int
    due: float | None
    """When it is sent again; none when it was given up."""
    problem: str

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        """Convert the store's message."""
        return cls(
            job=delivery.job,
            receiver=shown(delivery.receiver),
            created=delivery.created,
            tries=delivery.tries,
            due=delivery.due,
            problem=delivery.problem,
        )


class SandboxView(BaseModel):
    """A sandbox, as known to the keeper or to the register of addresses."""

    name: str
    generation: int
    """Another number means another sandbox of the same name; for an address: how often it was lent."""
    profile: str | None
    """None for a sandbox that is known by its address."""
    state: str
    """`ready`, `leased`, `orphaned` (its runner is not heard of), `condemned`; a keeper's also `creating`, `booting`,
    `inspecting`, `held`, `destroying`, `stuck`; that of an address also `unreachable`."""
    seconds_in_state: float | None
    """None where it is not known."""
    trust_key: str | None
    """The trust key whose leftovers may be in the sandbox; none while nobody has used it."""
    attempt: str | None
    """The attempt that has the sandbox; named in the logs of runner and keeper."""
    job: str | None
    """The job of that attempt; none if the sandbox is only prepared, or the job is GitLab's or another runner's."""
    reason: str | None
    """Why the sandbox is not lent any more."""

    @classmethod
    def of(cls, facts: SandboxFacts, job: str | None) -> SandboxView:
        """Convert the facts of the source of leases, and add what the service knows."""
        return cls(**asdict(facts), job=job)


class UploadView(BaseModel):
    """An archive that was uploaded."""

    id: str
    """The `id` for the source of a job."""
    size: int


class ArtifactView(BaseModel):
    """One kept file or symbolic link of a job."""

    path: str
    """Relative to the working folder."""
    size: int
    link: str | None
    """The target of a link."""
    executable: bool
    changed: int
    """In whole seconds since the epoch."""


class ArtifactList(BaseModel):
    """The artifacts of a job."""

    artifacts: list[ArtifactView]
    left_out: list[str]
    """Why wanted files are missing; the first reasons, as sentences."""
    size: int
    """Bytes of the archive."""

    @classmethod
    def of(cls, kept: Kept) -> ArtifactList:
        """Convert the list on disk."""
        artifacts = [ArtifactView.model_validate(asdict(member)) for member in kept.members]
        return cls(artifacts=artifacts, left_out=list(kept.left_out), size=kept.size)
