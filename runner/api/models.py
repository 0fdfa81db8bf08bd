"""What travels over HTTP."""

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
    """What `if` and the log call it; letters, digits, dots, dashes and underscores."""
    script: str
    """As that of a job."""
    if_: Annotated[str | None, Field(alias="if")] = None
    """When it runs: tests joined by `&&`. Without it, when no step before failed."""
    always: bool = False
    """Whether it runs also after a step before failed."""
    allow_failure: bool | list[int] = False
    """Whether the job goes on when it fails, or the exit codes with which it does."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from its start."""
    environment: dict[str, str] = {}
    """On top of the job's."""

    def to_step(self, number: int) -> Step:
        """Raises BadJobError when its condition cannot be read."""
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
    """In place of the script: steps that run one after the other."""
    args: list[str] = []
    environment: dict[str, str] = {}
    profile: str | None = None
    """As the keeper's file names it; without one, the first that has the labels, or `default`."""
    trust_key: str = "default"
    """Who may inherit what this job leaves in its sandbox."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the start of the script; none is no limit."""
    secrets: dict[str, str] = {}
    """Variables like those of the environment; their values are masked in the log."""
    priority: int = 0
    """From -100 to 100; among jobs that wait, higher ones are first."""
    labels: list[str] = []
    """What the runner or the profile must be labelled with."""
    queue_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that it may wait in the queue."""
    setup_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds from there to the start of the script."""
    source: Source | None = None
    """What its working folder holds at the start."""
    artifacts: list[Artifacts] = []
    """What is kept of its working folder."""
    retry: Annotated[int, Field(ge=0, le=3)] = 0
    """How often it may be started again when a sandbox was lost under it, or none could be made."""

    def to_job(self) -> Job:
        """Raises BadJobError when it cannot be run as written."""
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
    """What to give as `before` for those that follow; none at the end."""


class Status(BaseModel):
    """The service itself."""

    version: str
    mode: Mode
    """What it does with jobs."""
    drained_by: str | None
    """Who keeps what waits from starting, over restarts; none when it may start."""
    drained_since: float | None
    """Seconds since the epoch."""
    slots: int
    running: int
    gitlab_running: int
    """GitLab's jobs that have a sandbox, or are about to."""
    waiting: int
    disk: Disk
    """Of the state folder. While it is low nothing new starts, and when it is full no jobs are taken either."""
    disk_free: int
    """Bytes."""
    held: str
    """Why nothing that waits may start; empty when it may."""


class StopRequest(BaseModel):
    """How to stop."""

    model_config = ConfigDict(extra="forbid")

    force: bool = False
    """End what runs."""


class TokenRequest(BaseModel):
    """A token to create."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@/-]*$")]
    """Whose it is; stands in the service's log."""
    scopes: Annotated[set[Scope], Field(min_length=1)]
    days: Annotated[float, Field(gt=0, le=3650)] | None = None
    """For how long; until it is revoked if it is not given."""


class TokenView(BaseModel):
    """What is known of a token."""

    id: str
    name: str
    scopes: list[Scope]
    created: float
    expires: float | None
    """Seconds since the epoch."""

    @classmethod
    def of(cls, facts: TokenFacts) -> TokenView:
        """What the store says."""
        return cls(
            id=facts.id, name=facts.name, scopes=sorted(facts.scopes), created=facts.created, expires=facts.expires
        )


class NewToken(TokenView):
    """A token that was created."""

    token: str
    """Can be read only here."""


class StepView(BaseModel):
    """How far a step is, as its sandbox says."""

    name: str
    state: StepState
    exit_code: int
    """Of one that failed; 128 + N for signal N."""
    seconds: float
    """How long it took."""
    allowed: bool
    """Whether it failed, and the job goes on all the same."""

    @classmethod
    def of(cls, step: StepProgress) -> StepView:
        """What the service knows."""
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
    """How it ended: name, exit code, sentence and what belongs to the kind of outcome."""
    steps: list[StepView]
    """How far its steps are."""
    retries: int
    """How often it was started again."""
    started: float | None
    """When its script was sent to a sandbox, for the last time."""
    ended: float | None
    """When it had its outcome."""
    sandbox: str | None
    """Where it was sent to."""
    profile: str | None
    """That sandbox's."""

    @classmethod
    def of(cls, job: Summary) -> JobView:
        """What the store says now."""
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
    """Its address without path and query, which may be as good as a password."""
    created: float
    """Seconds since the epoch."""
    tries: int
    due: float | None
    """When it is sent again; none when it was given up."""
    problem: str

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        """What the store says."""
        return cls(
            job=delivery.job,
            receiver=shown(delivery.receiver),
            created=delivery.created,
            tries=delivery.tries,
            due=delivery.due,
            problem=delivery.problem,
        )


class SandboxView(BaseModel):
    """A sandbox, as the keeper knows it, or the register of addresses."""

    name: str
    generation: int
    """A sandbox of the same name with another number is another one; of an address: how often it was lent."""
    profile: str | None
    """None for a sandbox that is known by its address."""
    state: str
    """`ready`, `leased`, `orphaned` (its runner is not heard of), `condemned`; a keeper's also `creating`, `booting`,
    `inspecting`, `held`, `destroying`, `stuck`; that of an address also `unreachable`."""
    seconds_in_state: float | None
    """None where nobody can tell."""
    trust_key: str | None
    """Whose leftovers may be in it; none while nobody used it."""
    attempt: str | None
    """Which attempt has it; stands in the logs of runner and keeper."""
    job: str | None
    """Whose attempt that is; none for one that is only prepared, GitLab's, or another runner's."""
    reason: str | None
    """Why it is not lent any more."""

    @classmethod
    def of(cls, facts: SandboxFacts, job: str | None) -> SandboxView:
        """What the source of leases says, and the service adds."""
        return cls(**asdict(facts), job=job)


class UploadView(BaseModel):
    """An archive that was sent."""

    id: str
    """What a job gives as the `id` of its source."""
    size: int


class ArtifactView(BaseModel):
    """One file or symbolic link that is kept of a job."""

    path: str
    """Relative to the working folder."""
    size: int
    link: str | None
    """Where a link leads."""
    executable: bool
    changed: int
    """In whole seconds since the epoch."""


class ArtifactList(BaseModel):
    """What is kept of a job."""

    artifacts: list[ArtifactView]
    left_out: list[str]
    """Why what was wanted is not all there; the first ones, as sentences."""
    size: int
    """Bytes of the archive."""

    @classmethod
    def of(cls, kept: Kept) -> ArtifactList:
        """What is on disk."""
        artifacts = [ArtifactView.model_validate(asdict(member)) for member in kept.members]
        return cls(artifacts=artifacts, left_out=list(kept.left_out), size=kept.size)
