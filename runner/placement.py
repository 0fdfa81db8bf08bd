"""In which profile's sandbox a job runs: that which it names, or the first one that has the labels it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

from runner.errors import BadJobError, LeaseError, LeaseUnreachableError
from runner.execution.cancellation import Cancellation
from runner.execution.flight import first, stop
from runner.execution.options import Note, Notes, no_notes
from runner.job import DEFAULT_PROFILE, Job
from runner.logs import Action
from sandbox.settings.complaints import nearest

#: Seconds between two questions to a source that is away.
_PAUSE: Final = 1.0

#: The labels of each profile that a source of leases has, in the order in which they are tried.
Offered: TypeAlias = Mapping[str, frozenset[str]]
#: Asks the source. Errors: LeaseError, when it says nothing; LeaseUnreachableError, when it may do so later.
Offers: TypeAlias = Callable[[], Awaitable[Offered]]


async def only_default() -> Offered:
    """What a source without profiles offers."""
    return {DEFAULT_PROFILE: frozenset()}


def choose(job: Job, own: frozenset[str], offered: Offered) -> str:
    """Return the profile for a job on a runner with labels of its `own`, which any profile has besides. Pure.

    Errors: BadJobError when none suits; the message says what there is.
    """
    if job.profile is not None and job.profile not in offered:
        likely = nearest(job.profile, list(offered))
        hint = f" Did you mean {likely}?" if likely else ""
        raise BadJobError(f"There is no profile {job.profile} here, but: {', '.join(offered)}.{hint}")
    suitable = [job.profile] if job.profile is not None else sorted(offered, key=lambda name: name != DEFAULT_PROFILE)
    for name in suitable:
        if job.labels <= own | offered[name]:
            return name
    raise BadJobError(_refusal(job, own, offered))


def _refusal(job: Job, own: frozenset[str], offered: Offered) -> str:
    possible = offered.values() if job.profile is None else [offered[job.profile]]
    missing = job.labels.difference(own, *possible)
    what = f"with the label {_list(missing)}" if missing else f"with all of {_list(job.labels)} in one profile"
    others = "".join(f"; profile {name} has {_list(labels)}" for name, labels in offered.items() if labels)
    return f"It asks for a runner {what}, and this one has: {_list(own)}{others}. Submit it to another one."


def _list(labels: Collection[str]) -> str:
    return ", ".join(sorted(labels)) or "none"


class Placement:
    """Chooses the profile of each job by what the source of leases offers now."""

    def __init__(self, labels: Collection[str] = (), offers: Offers = only_default) -> None:
        #: The runner's own, which count for every profile.
        self.labels = frozenset(labels)
        self._offers = offers

    async def check(self, job: Job) -> None:
        """See that a job can be run here. Where that cannot be asked for now, it is seen when the job is to start.

        Errors: BadJobError.
        """
        if not self._fits_everywhere(job):
            with suppress(LeaseError):
                choose(job, self.labels, await self._offers())

    async def profile_of(self, job: Job, cancellation: Cancellation, patience: float, notes: Notes = no_notes) -> str:
        """Return a job's profile, once the source can be asked, where that matters: for up to `patience` seconds.

        A wish for the job's end ends the wait. Errors: BadJobError; LeaseError.
        """
        named = job.profile or DEFAULT_PROFILE
        if self._fits_everywhere(job):
            return named
        needs_answer = not job.labels <= self.labels
        asking = asyncio.create_task(self._ask(patience if needs_answer else 0, notes))
        await first(asking, cancellation.wait())
        if not asking.done():
            await stop(asking)
            return named
        try:
            return choose(job, self.labels, asking.result())
        except LeaseUnreachableError:
            if needs_answer:
                raise
            return named  # who lends knows whether there is one of that name
        except LeaseError:  # a keeper of an earlier release tells no profiles: only the runner's own labels count
            return choose(job, self.labels, {named: frozenset()})

    def _fits_everywhere(self, job: Job) -> bool:
        return job.profile in (None, DEFAULT_PROFILE) and job.labels <= self.labels

    async def _ask(self, patience: float, notes: Notes) -> Offered:
        loop = asyncio.get_running_loop()
        deadline, told = loop.time() + patience, ""
        while True:
            try:
                return await self._offers()
            except LeaseUnreachableError as error:
                if loop.time() >= deadline:
                    raise
                if told != (told := str(error)):
                    notes(Note(Action.UNAVAILABLE, f"{told} It is asked again."))
            await asyncio.sleep(_PAUSE)
