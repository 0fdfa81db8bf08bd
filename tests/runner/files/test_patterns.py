"""The files that a pattern matches, whichever way one walks to them."""

from __future__ import annotations

import re
from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.execution.files.inside.patterns import Pattern, Patterns

_NAMES = st.sampled_from(["a", "b", "ab", "c.x", ".h"])
_PARTS = st.sampled_from(["a", "*", "?", "a*", "*.x", "[ab]", "**"])


@pytest.mark.parametrize(
    ("pattern", "meant", "not_meant"),
    [
        ("report.xml", ["report.xml"], ["x/report.xml", "report.xml2"]),
        ("dist", ["dist", "dist/a", "dist/a/b"], ["dist2", "a/dist"]),
        ("dist/", ["dist/a"], ["a"]),
        ("./dist/./*.whl", ["dist/a.whl", "dist/a.whl/in"], ["dist/a.txt", "dist/b/a.whl"]),
        ("**/*.log", ["a.log", "b/c/a.log"], ["a.txt"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z", "b/z"]),
        ("**", ["a", "a/b", ".hidden/x"], []),
        ("*", ["a", ".hidden"], []),
    ],
)
def test_what_a_pattern_means(pattern: str, meant: list[str], not_meant: list[str]) -> None:
    read = Pattern(pattern)
    assert [path for path in meant if not read.admits(path)] == []
    assert [path for path in not_meant if read.admits(path)] == []


@given(st.lists(_PARTS, min_size=1, max_size=5), st.lists(_NAMES, min_size=1, max_size=6))
def test_it_means_what_the_plain_reading_of_it_means(parts: list[str], names: list[str]) -> None:
    assert Pattern("/".join(parts)).admits("/".join(names)) == _means(parts, names)


@given(st.lists(_PARTS, min_size=1, max_size=5), st.lists(_NAMES, min_size=1, max_size=6))
def test_nothing_that_is_meant_lies_in_a_folder_that_is_not_looked_into(parts: list[str], names: list[str]) -> None:
    pattern = Pattern("/".join(parts))
    places = pattern.start
    for name in names:
        places = pattern.step(places, name)
        if not places:
            assert not pattern.admits("/".join(names))
            return


def _means(parts: list[str], names: list[str]) -> bool:
    """By trying everything."""
    if not parts:
        return True
    if not names:
        return all(part == "**" for part in parts)
    if parts[0] == "**":
        return _means(parts[1:], names) or _means(parts, names[1:])
    return bool(re.match(translate(parts[0]), names[0])) and _means(parts[1:], names[1:])


def test_what_nothing_has_met_is_known_whichever_pattern_came_first() -> None:
    patterns = Patterns(["z", "a", "**", "b"])
    assert patterns.first(patterns.step(patterns.start, "a")) == 1
    assert patterns.first(patterns.step(patterns.start, "c")) == 2
    assert list(patterns.unmet.values()) == ["z", "b"]
    assert Patterns(["a"]).first(Patterns(["a"]).start) is None
