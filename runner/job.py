"""A job: what somebody wants to run. A `Job` that exists has been checked whole, and can be sent to a sandbox."""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from runner import source_and_artifacts, steps
from runner.errors import BadJobError
from runner.source_and_artifacts import Archive, Artifacts, Git, Upload
from runner.steps import Condition, Step, VariableIs

MAX_SCRIPT: Final = 64 * 1024 * 1024
"""Largest script, in bytes."""
MAX_STRING: Final = 128 * 1024
"""Longest single argument or `NAME=value`, in bytes with its closing NUL: Linux's own limit (MAX_ARG_STRLEN)."""
MAX_STRINGS: Final = 1024 * 1024
"""The most bytes of all arguments and variables together. Linux allows about 2 MiB less what the sandbox adds."""
MAX_TIMEOUT: Final = 30 * 24 * 3600.0
"""Longest timeout, in seconds: thirty days."""
UNTRUSTED: Final = "untrusted"
"""The trust key of jobs that may not even follow each other: each gets a fresh sandbox, left to no other job."""
MIN_SECRET: Final = 6
"""Shortest text that is masked, in characters of a secret and bytes of a log: shorter ones are ordinary words."""
MAX_SECRET_LINES: Final = 500
"""The most lines of all secrets together."""
DEFAULT_PROFILE: Final = "default"
"""The profile of jobs that name none and ask for no label."""
MAX_LABELS: Final = 20
MAX_RETRY: Final = 3
"""The most restarts of a job."""
MAX_PRIORITY: Final = 100
"""Highest priority; the lowest is its negative."""

_PROFILE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The keeper's rule for the names of profiles."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SNIFFED: Final = 4096
"""A NUL within this many bytes means a binary. A later NUL may be in the payload of a self-extracting script."""
_EXECUTABLES: Final = {
    b"\x7fELF": "an ELF program",
    b"MZ\x90\x00": "a Windows program",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\xfe\xff": "UTF-16 text",
    b"\xff\xfe": "UTF-16 text",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A script and all settings of its run. `docs/job-contract.md` explains them to users.

    Raises BadJobError when it could not be run as written.
    """

    script: bytes = b""
    """A job has either a script or steps."""
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables on top of the sandbox's defaults. Bytes that are not UTF-8 are kept as `os.environ` keeps them."""
    profile: str | None = None
    """None means a profile that has the labels."""
    trust_key: str = UNTRUSTED
    """Which jobs may inherit each other's leftovers."""
    timeout: float | None = None
    """Seconds from the start of the script; None means no limit."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables like those of the environment, whose values are masked in the log."""
    priority: int = 0
    """Waiting jobs with a higher priority go first."""
    labels: frozenset[str] = frozenset()
    """Labels that the runner or the profile must have."""
    queue_timeout: float | None = None
    setup_timeout: float | None = None
    """Seconds that the job may wait in the queue, and from there to the start of the script; None means no limit."""
    steps: tuple[Step, ...] = ()
    """Steps that run one after the other, in one sandbox."""
    source: Upload | Git | Archive | None = None
    """The content of the working folder at the start; empty by default."""
    artifacts: tuple[Artifacts, ...] = ()
    """The files of the working folder to keep."""
    retry: int = 0
    """How often the job may be started again when its sandbox was lost, or none could be made."""

    def __post_init__(self) -> None:
        if self.steps:
            _check_steps(self)
        else:
            _check_script(self.script)
        _check_strings(self.args, self.environment, self.secrets)
        _check_secrets(self.environment, self.secrets)
        _check_profile(self.profile)
        _check_label("trust key", self.trust_key)
        for timeout in (self.timeout, self.queue_timeout, self.setup_timeout):
            _check_timeout(timeout)
        _check_priority(self.priority)
        _check_retry(self.retry)
        _check_labels(self.labels)
        _check_source(self.source, self.secrets)
        _check_artifacts(self.artifacts)
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))
        object.__setattr__(self, "secrets", MappingProxyType(dict(self.secrets)))

    @property
    def scripts(self) -> Sequence[bytes]:
        """The script of each step, or the job's only script."""
        return [step.script for step in self.steps] or [self.script]

    @property
    def variables(self) -> dict[str, str]:
        """All variables of the script's environment, including the secrets."""
        return {**self.environment, **self.secrets}


def to_json(job: Job) -> dict[str, object]:
    """Return the job as JSON, including its secrets. `json.dumps` must escape all non-ASCII text, as it does."""
    return {
        "script": base64.b64encode(job.script).decode(),
        "args": list(job.args),
        "environment": dict(job.environment),
        "profile": job.profile,
        "trust_key": job.trust_key,
        "timeout": job.timeout,
        "secrets": dict(job.secrets),
        "priority": job.priority,
        "labels": sorted(job.labels),
        "queue_timeout": job.queue_timeout,
        "setup_timeout": job.setup_timeout,
        "steps": [steps.to_json(step) for step in job.steps],
        "source": source_and_artifacts.SOURCE.dump_python(job.source, mode="json"),
        "artifacts": source_and_artifacts.RULES.dump_python(list(job.artifacts), mode="json"),
        "retry": job.retry,
    }


def from_json(document: object) -> Job:
    """Return the job that `to_json` wrote, checked like any other. An earlier version may have known fewer fields.

    Raises ValueError when the document is no job: it may come from anywhere. The message quotes nothing of it.
    """
    if not isinstance(document, Mapping) or "script" not in document or not set(document) <= set(_TYPES):
        raise ValueError("The job's record does not hold a job.")
    if not all(_is(value, _TYPES[name]) for name, value in document.items() if name not in _OWN):
        raise ValueError("The job's record does not hold a job.")
    try:
        script = base64.b64decode(document["script"], validate=True)
        args, labels = tuple(document.get("args", ())), frozenset(document.get("labels", ()))
        own = {
            "script": script,
            "args": args,
            "labels": labels,
            "steps": tuple(map(steps.from_json, document.get("steps", ()))),
            "source": source_and_artifacts.SOURCE.validate_python(document.get("source")),
            "artifacts": tuple(source_and_artifacts.RULES.validate_python(document.get("artifacts", []))),
        }
        return Job(**{**document, **own})
    except (BadJobError, ValueError, OverflowError, TypeError, LookupError, AttributeError):
        raise ValueError("The job's record holds a job that cannot be run.") from None


_OWN: Final = frozenset({"steps", "source", "artifacts"})
"""Fields that have their own JSON form."""
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "script": (str,),
    "args": (list,),
    "environment": (dict,),
    "profile": (str, type(None)),
    "trust_key": (str,),
    "timeout": (int, float, type(None)),
    "secrets": (dict,),
    "priority": (int,),
    "labels": (list,),
    "queue_timeout": (int, float, type(None)),
    "setup_timeout": (int, float, type(None)),
    "steps": (list,),
    "source": (dict, type(None)),
    "artifacts": (list,),
    "retry": (int,),
}
"""The types of each field of a job's record."""


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is of one of the kinds, and, if it is a list or an object, holds only texts."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    texts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return all(isinstance(text, str) for text in texts)


def new_attempt_id() -> str:
    """Return a fresh attempt id: one start of one script on one lease."""
    return uuid.uuid4().hex


def _check_steps(job: Job) -> None:
    if job.script or job.args:
        raise BadJobError("A job has either a script, which may have arguments, or steps. Give one of them.")
    steps.check(job.steps)
    if (size := sum(len(step.script) for step in job.steps)) > MAX_SCRIPT:
        raise BadJobError(f"The steps' scripts have {size} bytes together and the limit is {MAX_SCRIPT}.")
    for number, step in enumerate(job.steps):
        _check_step(number, step, job)


def _check_step(number: int, step: Step, job: Job) -> None:
    with _in_field("steps", number, "script"):
        _check_script(step.script)
    with _in_field("steps", number, "environment"):
        _check_strings((), {**job.variables, **step.environment})
        _check_secrets(step.environment, job.secrets)
    with _in_field("steps", number, "timeout"):
        _check_timeout(step.timeout)
    with _in_field("steps", number, "if"):
        _check_condition(step.condition, job.secrets)


def _check_condition(condition: Condition, secrets: Mapping[str, str]) -> None:
    for test in condition.tests:
        if isinstance(test, VariableIs) and test.name in secrets:
            raise BadJobError(
                f"The condition would compare the secret {test.name}, and what runs would tell its value. Compare an "
                "ordinary variable."
            )


@contextmanager
def _in_field(*path: int | str) -> Iterator[None]:
    """Add the field's path to an error of the block."""
    try:
        yield
    except BadJobError as error:
        raise BadJobError(str(error), field=path) from None


def _check_script(script: bytes) -> None:
    if not script.strip():
        raise BadJobError("The script is empty. Give a script with at least one command, or steps.")
    if len(script) > MAX_SCRIPT:
        raise BadJobError(
            f"The script has {len(script)} bytes and the limit is {MAX_SCRIPT}. Fetch the data from within the script."
        )
    for magic, what in _EXECUTABLES.items():
        if script.startswith(magic):
            raise BadJobError(f"The script is {what}, not a script. Give a text that a shell or its #! line can run.")
    if b"\0" in script[:_SNIFFED]:
        raise BadJobError("The script has a NUL byte near its start: it is a binary file. Give a text file.")


def _check_strings(args: tuple[str, ...], *variables: Mapping[str, str]) -> None:
    total = 0
    for number, arg in enumerate(args, start=1):
        total += _check_string(f"Argument {number}", arg)
    for name, value in (item for mapping in variables for item in mapping.items()):
        if not _NAME.fullmatch(name):
            raise BadJobError(
                f"The variable name {name[:80]!r} is not allowed. Use letters, digits and underscores, no digit first."
            )
        total += _check_string(f"The variable {name[:80]}", f"{name}={value}")
    if total > MAX_STRINGS:
        raise BadJobError(
            f"Arguments and variables have {total} bytes together and the limit is {MAX_STRINGS}. "
            "Put large values into the script or a file."
        )


def _check_secrets(environment: Mapping[str, str], secrets: Mapping[str, str]) -> None:
    lines = sum(len(value.splitlines()) for value in secrets.values())
    if lines > MAX_SECRET_LINES:
        raise BadJobError(
            f"The secrets have {lines} lines together and the limit is {MAX_SECRET_LINES}, for each is looked for in "
            "the log. Give fewer, or encode them in one line."
        )
    for name, value in secrets.items():
        if name in environment:
            raise BadJobError(f"The variable {name[:80]} is both in the environment and a secret. Give it once.")
        if len(value.strip()) < MIN_SECRET:
            raise BadJobError(
                f"The secret {name[:80]} has fewer than {MIN_SECRET} characters: masking it would mask ordinary words. "
                "Give it as an ordinary variable, or a longer one."
            )


def _check_string(what: str, text: str) -> int:
    """Return the size of one string as the kernel counts it."""
    if "\0" in text:
        raise BadJobError(
            f"{what} has a NUL byte, which no program can be given. Encode the value, for example base64."
        )
    try:
        size = len(text.encode("utf-8", "surrogateescape")) + 1
    except UnicodeEncodeError:
        raise BadJobError(f"{what} is not valid Unicode. Encode the value, for example base64.") from None
    if size > MAX_STRING:
        raise BadJobError(
            f"{what} has {size} bytes and Linux allows {MAX_STRING}. Put the value into the script or a file."
        )
    return size


def _check_label(what: str, text: str) -> None:
    if not text or len(text) > 200 or not text.isprintable():
        raise BadJobError(f"The {what} {text[:80]!r} is not allowed. Use 1 to 200 printable characters.")


def _check_profile(name: str | None) -> None:
    if name is not None and not _PROFILE.fullmatch(name):
        raise BadJobError(
            f"The profile {name[:80]!r} is not allowed. Use 1 to 64 letters, digits, dots, dashes and underscores."
        )


def _check_timeout(timeout: float | None) -> None:
    if timeout is None:
        return
    if not math.isfinite(timeout) or not 0 < timeout <= MAX_TIMEOUT:
        raise BadJobError(
            f"A timeout of {timeout:g} seconds is not possible. Give more than 0 and at most {MAX_TIMEOUT:.0f}, "
            "or no timeout at all."
        )


def _check_priority(priority: int) -> None:
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise BadJobError(f"A priority of {priority} is not possible. Give one from -{MAX_PRIORITY} to {MAX_PRIORITY}.")


def _check_retry(retry: int) -> None:
    if not 0 <= retry <= MAX_RETRY:
        raise BadJobError(f"{retry} retries are not possible. Give 0 to {MAX_RETRY}.")


def _check_labels(labels: frozenset[str]) -> None:
    if len(labels) > MAX_LABELS:
        raise BadJobError(f"The job asks for {len(labels)} labels and the limit is {MAX_LABELS}.")
    for label in labels:
        _check_label("label", label)


def _check_source(source: Upload | Git | Archive | None, secrets: Mapping[str, str]) -> None:
    for name in source_and_artifacts.credentials(source):
        if name not in secrets:
            raise BadJobError(
                f"The source names the secret {name[:80]}, and the job has none of that name. Give it among `secrets`.",
                field=("source",),
            )
    token = source.token if isinstance(source, Git | Archive) else None
    if token and not (secrets[token].isprintable() and secrets[token].isascii()):
        raise BadJobError(
            f"The secret {token[:80]} is no token: it has more than printable ASCII characters.",
            field=("source", "token"),
        )


def _check_artifacts(rules: tuple[Artifacts, ...]) -> None:
    if len(rules) > source_and_artifacts.MAX_RULES:
        raise BadJobError(
            f"The job has {len(rules)} rules for artifacts and the limit is {source_and_artifacts.MAX_RULES}.",
            field=("artifacts",),
        )
