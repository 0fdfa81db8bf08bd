"""Links within the documentation."""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_first_one() -> None:
    first = ROOT / "docs" / "README.md"
    seen, new = {first}, {first}
    while new:
        paths = {(page.parent / target.partition("#")[0]).resolve() for page in new for target in links(page)}
        new = {path for path in paths if path.suffix == ".md" and (ROOT / "docs") in path.parents} - seen
        seen |= new
    assert set(ROOT.glob("docs/**/*.md")) - seen == set()
