"""What signals do to a command and to what is cleaned up after it."""

import signal
from collections.abc import Iterator

import pytest

from sandbox.adhoc import terminal


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """They are the process's, and its end is theirs."""
    before = {number: signal.getsignal(number) for number in terminal._ENDED_BY}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end_twice(done: list[str]) -> None:
    """Meet a signal, and another one in the middle of what there is to do about the first."""
    try:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("copied files out")
    finally:
        done.append("removed the sandbox")


@pytest.mark.parametrize(
    ("one_press", "done", "ended_by"),
    [
        (60.0, ["copied files out", "removed the sandbox"], signal.SIGTERM),
        (0.0, ["removed the sandbox"], signal.SIGINT),
    ],
    ids=["the same press", "a later one"],
)
def test_a_second_signal(
    monkeypatch: pytest.MonkeyPatch, one_press: float, done: list[str], ended_by: signal.Signals
) -> None:
    """Else a sandbox that sends its files one byte in a minute was to be waited for, against all signals but KILL."""
    monkeypatch.setattr(terminal, "_ONE_PRESS", one_press)
    seen: list[str] = []
    with terminal.ended_by_signals(), pytest.raises(SystemExit) as left:
        end_twice(seen)
    assert seen == done
    assert left.value.code == 128 + ended_by
