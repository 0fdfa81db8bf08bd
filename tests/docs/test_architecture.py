"""The map of the code names modules that exist: what is renamed or removed is renamed or removed there too."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT


def test_every_module_on_the_map_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `((?:runner|sandbox)/[a-z_/]*/)`[^|]* \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 10
    missing = [
        f"{folder}{name}"
        for folder, text in rows
        for name in re.findall(r"`([a-z_]+)/?`", text)
        if not any(path.stem == name for path in (ROOT / folder).rglob("*"))
    ]
    assert missing == []
