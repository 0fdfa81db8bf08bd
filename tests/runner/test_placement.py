"""Which profile a job gets: decided purely, and asked for only where that matters."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadJobError, LeaseError, LeaseUnreachableError
from runner.execution.cancellation import Cancellation
from runner.execution.options import Note
from runner.job import DEFAULT_PROFILE, Job
from runner.logs import Action
from runner.placement import Offered, Placement, choose

LABELS = st.frozensets(st.sampled_from(["arm", "gpu", "large"]))
PROFILES = st.sampled_from([DEFAULT_PROFILE, "big", "small"])
THERE = "profile big has large; profile fast has nvme. Submit it to another one."
OFFERED = st.dictionaries(PROFILES, LABELS, min_size=1)


def job(profile: str | None = None, *labels: str) -> Job:
    return Job(b"true", profile=profile, labels=frozenset(labels))


@given(st.none() | PROFILES, LABELS, LABELS, OFFERED)
def test_a_job_gets_all_that_it_asks_for_or_is_told_what_there_is(
    profile: str | None, wanted: frozenset[str], own: frozenset[str], offered: Offered
) -> None:
    suitable = [name for name, labels in offered.items() if wanted <= own | labels and profile in (None, name)]
    asks = job(profile, *wanted)
    if suitable:
        first = DEFAULT_PROFILE if DEFAULT_PROFILE in suitable else suitable[0]
        assert choose(asks, own, offered) == first
    else:
        with pytest.raises(BadJobError, match="|".join(wanted) if profile in (None, *offered) else f"{profile} here"):
            choose(asks, own, offered)


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        (job("bgi"), "There is no profile bgi here, but: default, big, fast. Did you mean big?"),
        (job("elsewhere"), "There is no profile elsewhere here, but: default, big, fast."),
        (
            job(None, "gpu"),
            f"It asks for a runner with the label gpu, and this one has: amd64; {THERE}",
        ),
        (
            job("fast", "large"),
            f"It asks for a runner with the label large, and this one has: amd64; {THERE}",
        ),
        (
            job(None, "large", "nvme"),
            f"It asks for a runner with all of large, nvme in one profile, and this one has: amd64; {THERE}",
        ),
    ],
)
def test_a_refusal_names_what_is_missing_and_what_there_is(asks: Job, told: str) -> None:
    offered = {DEFAULT_PROFILE: frozenset[str](), "big": frozenset({"large"}), "fast": frozenset({"nvme"})}
    with pytest.raises(BadJobError) as refused:
        choose(asks, frozenset({"amd64"}), offered)
    assert str(refused.value) == told


class Keeper:
    """Offers a profile `big`, once it is there."""

    def __init__(self, *errors: LeaseError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def __call__(self) -> Offered:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return {DEFAULT_PROFILE: frozenset(), "big": frozenset({"large"})}


AWAY = LeaseUnreachableError("No keeper answers.")
OLDER = LeaseError("The keeper did not understand the request.")


@pytest.mark.anyio
@pytest.mark.parametrize("asks", [job(), job(DEFAULT_PROFILE), job(None, "own")])
async def test_a_job_that_runs_anywhere_asks_nobody(asks: Job) -> None:
    keeper = Keeper(AWAY)
    placement = Placement(["own"], keeper)
    await placement.check(asks)
    assert await placement.profile_of(asks, Cancellation(), 60) == DEFAULT_PROFILE
    assert keeper.asked == 0


@pytest.mark.anyio
async def test_labels_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a job would run without what it needs because its keeper was restarted at the moment."""
    monkeypatch.setattr("runner.placement._PAUSE", 0.01)
    keeper = Keeper(AWAY, AWAY)
    notes: list[Note] = []
    placement = Placement(offers=keeper)
    assert await placement.profile_of(job(None, "large"), Cancellation(), 60, notes.append) == "big"
    assert keeper.asked == 3
    assert notes == [Note(Action.UNAVAILABLE, "No keeper answers. It is asked again.")], "others wait in the queue"


@pytest.mark.anyio
@pytest.mark.parametrize(("error", "refusal"), [(AWAY, LeaseUnreachableError), (OLDER, BadJobError)])
async def test_a_keeper_that_does_not_tell_decides_when_it_lends(error: LeaseError, refusal: type[Exception]) -> None:
    """Of an earlier one only the runner's own labels count."""
    await Placement(offers=Keeper(error)).check(job("big"))
    assert await Placement(offers=Keeper(error)).profile_of(job("big"), Cancellation(), 60) == "big"
    with pytest.raises(refusal):
        await Placement(offers=Keeper(error)).profile_of(job("big", "large"), Cancellation(), 0)


@pytest.mark.anyio
async def test_a_wish_for_the_end_ends_the_wait() -> None:
    cancellation = Cancellation()
    keeper = Keeper(*[AWAY] * 100)
    placing = asyncio.create_task(Placement(offers=keeper).profile_of(job(None, "large"), cancellation, 3600))
    await asyncio.sleep(0)
    cancellation.request("you")
    await asyncio.wait_for(placing, 10)
