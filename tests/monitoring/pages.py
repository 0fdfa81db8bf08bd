"""The pages of the manual that are made from tables in the source: `python -m tests.monitoring.pages` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.monitoring.source import ROOT, members

LOGS = Path("docs/logs.md")

_MARK = "<!-- made from the source: python -m tests.monitoring.pages -->\n"


def logs_page() -> str:
    """`docs/logs.md`: what is above its mark by hand, and the tables of actions."""
    return _page(
        LOGS,
        {
            "The runner's actions": _table(("action", "means"), _lines("runner/logs.py")),
            "The keeper's actions": _table(("action", "means"), _lines("sandbox/logs.py")),
        },
    )


def _lines(module: str) -> Iterable[tuple[str, str]]:
    return [(f"`{value}`", meaning) for value, meaning in members(module, "Action").items()]


def _page(path: Path, tables: Mapping[str, str]) -> str:
    above, mark, _ = (ROOT / path).read_text().partition(_MARK)
    assert mark, f"{path} has lost the line {_MARK}"
    return above + mark + "".join(f"\n## {title}\n\n{table}" for title, table in tables.items())


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    (ROOT / LOGS).write_text(logs_page())
