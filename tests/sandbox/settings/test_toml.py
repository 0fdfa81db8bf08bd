"""The line of each key, in any valid TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.settings import toml

FILE = '''# a comment
state = "/x"

[jobs]
labels = [
  "a",  # not a table: [b]
  "c",
]
slots = 3
api.listen = "x"
[ profiles . "two words" ]
text = """
[fake]
slots = 9
"""
inline = { a = 1, b = { c = 2 } }
[[many]]
a = 1
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("state",), 2),
        (("jobs",), 4),
        (("jobs", "labels"), 5),
        (("jobs", "slots"), 9),
        (("jobs", "api", "listen"), 10),
        (("profiles",), 11),
        (("profiles", "two words"), 11),
        (("profiles", "two words", "text"), 12),
        (("profiles", "two words", "inline", "b", "c"), 16),
        (("many",), 17),
        (("many", "a"), 18),
    ],
)
def test_where_a_key_is(key: tuple[str, ...], line: int) -> None:
    assert toml.lines(FILE)[key] == line


def test_a_key_in_a_text_of_several_lines_is_none() -> None:
    assert ("fake",) not in toml.lines(FILE)


_NAMES = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
_VALUES = st.sampled_from(["1", '"x"', "[\n 1,\n 2 ]", "'''\nx = 1\n'''", "{ a = 1 }", "[]  # c"])


@given(st.dictionaries(_NAMES, st.dictionaries(_NAMES, _VALUES, max_size=4), max_size=4))
def test_each_line_begins_what_it_is_said_to_begin(tables: dict[str, dict[str, str]]) -> None:
    text = "".join(
        f"\n[{table}]\n" + "".join(f"{name} = {value}\n\n" for name, value in keys.items())
        for table, keys in tables.items()
    )
    assert tomllib.loads(text).keys() == tables.keys()
    found, written = toml.lines(text), text.split("\n")
    for table, keys in tables.items():
        assert written[found[table,] - 1] == f"[{table}]"
        for name in keys:
            assert written[found[table, name] - 1].startswith(f"{name} = ")


def test_what_a_file_says_nothing_of_is_told_with_what_it_would_be_in() -> None:
    document = toml.parse(FILE, "f")
    assert [document.place(key) for key in (("jobs", "slot"), ("jobs", "slots", "0"), ("none",))] == ["f:4", "f:9", "f"]


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(toml.BadFile, match="has more than 1048576 bytes"):
        toml.read(Path("/dev/zero"))


def test_what_is_nested_without_end_is_no_defect() -> None:
    with pytest.raises(toml.BadFile, match="is not valid TOML"):
        toml.parse("a = " + "[" * 100_000, "f")
