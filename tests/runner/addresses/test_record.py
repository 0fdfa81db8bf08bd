"""What is known of a sandbox that nobody recreates, and what follows from it."""

from __future__ import annotations

import json

import pytest

from runner.addresses.record import Look, Record
from runner.execution.marker import Moment

LOOK = Look("boot", ((1, 5), (7, 9)), ("/volumes/a",))
FRESH = Record()


def lent(record: Record = FRESH, key: str = "team") -> Record:
    assert record.refusal(key) is None
    return record.lend("a", "t" * 32, key, 60.0, LOOK)


USED = lent().end(used=True)


@pytest.mark.parametrize(
    ("record", "key", "refusal"),
    [
        (FRESH, "team", None),
        (FRESH, "untrusted", None),
        (USED, "team", None),
        (USED, "others", "served the trust key team"),
        (USED, "untrusted", "served the trust key team"),
        (lent().end(used=False), "others", None),
        (lent(USED).end(used=False), "others", "served the trust key team"),
        (lent(key="untrusted").end(used=True), "untrusted", "always gets a fresh sandbox"),
        (lent().condemn("It broke."), "team", "It broke."),
        (lent().condemn("It broke.").condemn("Again."), "team", "It broke."),
        (FRESH.condemn(""), "team", "no reason was given"),
    ],
)
def test_who_may_have_it(record: Record, key: str, refusal: str | None) -> None:
    found = record.refusal(key)
    assert (found is None) if refusal is None else (found and refusal in found)


def test_a_lease_is_over_when_its_term_and_patience_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lent().lent
    assert lease
    for elapsed, over in ((0.0, False), (89.0, False), (91.0, True)):
        monkeypatch.setattr(Moment, "elapsed", lambda _, elapsed=elapsed: elapsed)
        assert lease.is_over is over


@pytest.mark.parametrize("record", [FRESH, lent(), USED, lent().condemn("It broke.")])
def test_what_is_written_is_read_as_the_same(record: Record) -> None:
    assert Record.from_bytes(record.to_bytes()) == record


@pytest.mark.parametrize("document", [None, [], {"generation": -1}, {"lent": {"token": "secret"}}, {"more": 1}])
def test_what_is_none_of_ours_is_not_believed_and_not_quoted(document: object) -> None:
    with pytest.raises(ValueError, match="cannot be read") as raised:
        Record.from_bytes(json.dumps(document).encode())
    assert "secret" not in str(raised.value)


def test_attempts_are_not_remembered_without_end() -> None:
    record = FRESH
    for _ in range(100):
        record = lent(record).end(used=True)
    assert len(record.ended) == 32
    assert "t" * 32 not in repr(lent())
