"""The choice of a job's profile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadJobError
from runner.job import DEFAULT_PROFILE, Job
from runner.placement import Profiles, Wanted, choose

LABELS = st.frozensets(st.sampled_from(["arm", "gpu", "large"]))
NAMES = st.sampled_from([DEFAULT_PROFILE, "big", "small"])
PROFILES = st.dictionaries(NAMES, LABELS, min_size=1)
THERE = "profile big has large; profile fast has nvme. Submit it to another one."


def wanted(own: frozenset[str], profile: str | None = None, *labels: str) -> Wanted:
    return Wanted.by(Job(b"true", profile=profile, labels=frozenset(labels)), own)


@given(st.none() | NAMES, LABELS, LABELS, PROFILES)
def test_a_job_gets_all_that_it_asks_for_or_is_told_what_there_is(
    profile: str | None, labels: frozenset[str], own: frozenset[str], there: Profiles
) -> None:
    suitable = [name for name, has in there.items() if labels <= own | has and profile in (None, name)]
    asks = wanted(own, profile, *labels)
    if suitable:
        first = DEFAULT_PROFILE if DEFAULT_PROFILE in suitable else suitable[0]
        assert choose(asks, there) == first
    else:
        assert not asks.suits_all
        with pytest.raises(BadJobError, match="|".join(labels) if profile in (None, *there) else f"{profile} here"):
            choose(asks, there)


@given(PROFILES)
def test_a_job_that_asks_for_nothing_is_run_wherever_there_is_a_profile(there: Profiles) -> None:
    """The trap: a keeper whose file has no profile `default`."""
    assert choose(wanted(frozenset({"own"}), None, "own"), there) in there


@pytest.mark.parametrize(
    ("profile", "labels", "told"),
    [
        ("bgi", [], "There is no profile bgi here, but: default, big, fast. Did you mean big?"),
        ("elsewhere", [], "There is no profile elsewhere here, but: default, big, fast."),
        (None, ["gpu"], f"It asks for a runner with the label gpu, and this one has: amd64; {THERE}"),
        ("fast", ["large"], f"It asks for a runner with the label large, and this one has: amd64; {THERE}"),
        (
            None,
            ["large", "nvme"],
            f"It asks for a runner with all of large, nvme in one profile, and this one has: amd64; {THERE}",
        ),
    ],
)
def test_a_refusal_names_what_is_missing_and_what_there_is(profile: str | None, labels: list[str], told: str) -> None:
    there = {DEFAULT_PROFILE: frozenset[str](), "big": frozenset({"large"}), "fast": frozenset({"nvme"})}
    with pytest.raises(BadJobError) as refused:
        choose(wanted(frozenset({"amd64"}), profile, *labels), there)
    assert str(refused.value) == told
