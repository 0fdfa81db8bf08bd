"""How long an ad-hoc sandbox lives: times to live, idle times, and how people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.adhoc import life

LENGTHS = st.integers(1, int(life.MAX_LIFE))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("0.5h", 1800), ("7d", 604800)]
)
def test_lengths_are_read(text: str, seconds: float) -> None:
    assert life.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "s", "-1s", "1w", "1 h", "0s", "8d", "1h-30m", "1.2345h", "1e3s", "٣s"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it as 90s|from 1 s to 7d"):
        life.seconds(text)


@given(LENGTHS)
def test_what_is_written_is_no_longer_than_it_is_and_can_be_read(length: int) -> None:
    read = life.seconds(life.written(length))
    assert 0 <= length - read < max(60, length / 24)


@given(now=st.floats(0, 1e9), ends=st.floats(0, 1e9), idle=st.none() | st.floats(1, 1e6), used=st.floats(0, 1e9))
def test_a_life_is_over_by_one_of_the_two_and_not_before(
    now: float, ends: float, idle: float | None, used: float
) -> None:
    why = life.over(now, ends, idle, used)
    assert (why is None) == (now < ends and (idle is None or now < used + idle))
