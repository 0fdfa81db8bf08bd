"""The table of outcomes in the documentation."""

from runner import outcome
from tests.docs.outcomes import EXAMPLES, PAGE, page


def test_it_has_every_kind() -> None:
    assert {outcome.name(example) for example in EXAMPLES} == set(outcome.NAMES)


def test_it_is_fresh() -> None:
    assert PAGE.read_text() == page(), "Run `python -m tests.docs.outcomes`."
