"""The limit on a client's requests: never more and never less than its bucket holds, and the answer beyond it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api.rate import Buckets
from tests.runner.api.test_app import app_of, new_service

_TIMES = st.lists(st.floats(0, 2), max_size=60)


@given(_TIMES, st.integers(1, 5), st.sampled_from([0.5, 1.0, 4.0, 100.0]))
def test_within_any_time_no_more_comes_through_than_was_agreed(gaps: list[float], burst: int, rate: float) -> None:
    buckets, now = Buckets(rate, burst), 0.0
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        if not buckets.take("client", now):
            admitted.append(now)
    for first, start in enumerate(admitted):
        for count, end in enumerate(admitted[first:], start=1):
            assert count <= burst + rate * (end - start) + 1e-6


@given(_TIMES, st.integers(1, 5), st.sampled_from([0.5, 1.0, 4.0]))
def test_who_waits_as_long_as_it_is_told_comes_through(gaps: list[float], burst: int, rate: float) -> None:
    buckets, now = Buckets(rate, burst), 0.0
    for gap in gaps:
        now += gap
        if wait := buckets.take("client", now):
            now += wait + 1e-6
            assert buckets.take("client", now) == 0


def test_one_client_takes_nothing_from_another_and_few_are_remembered() -> None:
    buckets = Buckets(1.0, 2)
    assert [bool(buckets.take("a", 0.0)) for _ in range(3)] == [False, False, True]
    assert not buckets.take("b", 0.0)
    for number in range(5000):
        buckets.take(f"client {number}", float(number))
    assert len(buckets._full) <= 1001


@pytest.mark.anyio
async def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    service = new_service(tmp_path)
    app = app_of(service, tmp_path, rate=0.01, burst=2)
    headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://runner", headers=headers) as api:
        answers = [await api.get("/v1/jobs") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["content-type"] == "application/problem+json"
        assert 0 < int(answers[2].headers["retry-after"]) <= 100
        assert "Ask again in" in answers[2].json()["detail"]
        assert (await api.get("/ready")).status_code == 503  # a health check has no token and no bucket
