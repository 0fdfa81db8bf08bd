"""The documentation draws the moves that the store allows."""

from __future__ import annotations

import re
from pathlib import Path

from runner.store.states import MOVES

DOCUMENT = Path(__file__).parents[3] / "docs" / "jobs.md"


def test_the_picture_is_the_table() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+)", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(drawn) == sorted((str(source), str(target)) for source, moves in MOVES.items() for target in moves)
