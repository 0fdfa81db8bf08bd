"""The profile of a job's sandbox: the one that the job names, or the first that has its labels. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from runner.errors import BadJobError
from runner.job import DEFAULT_PROFILE, Job
from sandbox.settings.complaints import nearest

Profiles: TypeAlias = Mapping[str, frozenset[str]]
"""The labels of each profile of a source of leases, in the order in which they are tried."""

ONLY_DEFAULT: Final[Profiles] = {DEFAULT_PROFILE: frozenset()}
"""The profiles of a source without profiles."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job's demands on its sandbox."""

    trust_key: str
    profile: str | None = None
    """None means the first profile that has the labels."""
    labels: frozenset[str] = frozenset()
    """The wanted labels that the runner itself does not have."""
    own: frozenset[str] = field(default=frozenset(), compare=False)
    """The runner's own labels, which every profile has in addition."""

    @classmethod
    def by(cls, job: Job, own: frozenset[str] = frozenset()) -> Wanted:
        """Return a job's demands on a runner with labels of its `own`."""
        return cls(job.trust_key, job.profile, job.labels - own, own)

    @property
    def suits_all(self) -> bool:
        """Whether any profile will do."""
        return self.profile is None and not self.labels


def choose(wanted: Wanted, there: Profiles) -> str:
    """Return the profile to lend a sandbox of: `default` before others.

    Errors: BadJobError when none suits; the message lists what there is.
    """
    if wanted.profile is not None and wanted.profile not in there:
        likely = nearest(wanted.profile, list(there))
        hint = f" Did you mean {likely}?" if likely else ""
        raise BadJobError(f"There is no profile {wanted.profile} here, but: {', '.join(there)}.{hint}")
    possible = sorted(there, key=lambda name: name != DEFAULT_PROFILE) if wanted.profile is None else [wanted.profile]
    for name in possible:
        if wanted.labels <= there[name]:
            return name
    raise BadJobError(_refusal(wanted, there, possible))


def _refusal(wanted: Wanted, there: Profiles, possible: Collection[str]) -> str:
    missing = wanted.labels.difference(*(there[name] for name in possible))
    what = f"with the label {_list(missing)}" if missing else f"with all of {_list(wanted.labels)} in one profile"
    others = "".join(f"; profile {name} has {_list(labels)}" for name, labels in there.items() if labels)
    return f"It asks for a runner {what}, and this one has: {_list(wanted.own)}{others}. Submit it to another one."


def _list(labels: Collection[str]) -> str:
    return ", ".join(sorted(labels)) or "none"
