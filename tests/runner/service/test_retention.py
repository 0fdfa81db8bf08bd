"""The choice of the finished jobs to forget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.service.retention import FinishedJob, Retention, to_forget

NOW = 1000.0
jobs = st.lists(
    st.builds(FinishedJob, st.uuids().map(str), st.floats(0, NOW), st.integers(0, 100)), unique_by=lambda job: job.id
)
limits = st.builds(Retention, st.floats(0, NOW), st.integers(0, 500), st.integers(0, 10))


@given(jobs, limits)
def test_what_is_left_is_within_every_limit_and_nothing_goes_without_need(
    kept: list[FinishedJob], limit: Retention
) -> None:
    gone = list(to_forget(kept, NOW, limit))
    left = [job for job in kept if job.id not in gone]
    assert len(left) <= limit.jobs
    assert sum(job.bytes for job in left) <= limit.bytes
    assert all(NOW - job.ended <= limit.age for job in left)
    if gone:
        last = next(job for job in kept if job.id == gone[-1])
        more = [*left, last]
        assert len(more) > limit.jobs or sum(job.bytes for job in more) > limit.bytes or NOW - last.ended > limit.age


@given(jobs, limits)
def test_those_that_ended_first_go_first(kept: list[FinishedJob], limit: Retention) -> None:
    ended = {job.id: job.ended for job in kept}
    gone = list(to_forget(kept, NOW, limit))
    assert [ended[job] for job in gone] == sorted(ended.values())[: len(gone)]
