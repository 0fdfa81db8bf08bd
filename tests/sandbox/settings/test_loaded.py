"""How a configuration, and a later one that replaces it, are shown."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from pydantic import ByteSize, Field, SecretStr

from sandbox.settings.loaded import Loaded, Origin, Source, document, later, table
from sandbox.settings.model import About, Section, settings_of, written


class Part(Section):
    size: ByteSize = ByteSize(3 * 1024**2)
    """How large."""


class Whole(Section):
    name: str = "x"
    """What it is called, which
    takes two lines to say."""

    count: Annotated[int | None, Field(ge=1), About(live=True)] = None
    key: Annotated[SecretStr | None, Field(min_length=3)] = None
    parts: dict[str, Part] = {}  # noqa: RUF012 - pydantic copies it
    tags: tuple[str, ...] = ()


GIVEN = Whole(count=4, key=SecretStr("hush"), parts={"a b": Part()}, tags=("u", "v"))


def test_every_value_is_shown_with_its_origin_and_no_secret() -> None:
    loaded = Loaded(GIVEN, {("count",): Origin(Source.FILE, "f:3"), ("key",): Origin(Source.VARIABLE, "KEY_FILE")})
    assert list(table(loaded.values())) == [
        "SETTING         VALUE       FROM",
        'name            "x"         default',
        "count           4           f:3       live",
        "key             (hidden)    KEY_FILE",
        'parts.a b.size  "3MiB"      default',
        'tags            ["u", "v"]  default',
    ]
    shown = json.loads(json.dumps(document(loaded.values())))
    assert [one["value"] for one in shown] == ["x", 4, "(hidden)", 3 * 1024**2, ["u", "v"]]
    assert shown[1] == {"setting": "count", "value": 4, "source": "file", "place": "f:3", "live": True}


def test_what_a_running_program_cannot_take_up_is_named() -> None:
    other = Whole(name="y", count=7, key=SecretStr("another"), tags=("u", "v"))
    assert later(Loaded(GIVEN), Loaded(other)) == ["name", "key"]
    assert later(Loaded(GIVEN), Loaded(GIVEN)) == []


def test_what_is_known_of_a_setting() -> None:
    by_name = {setting.name: setting for setting in settings_of(Whole)}
    assert list(by_name) == ["name", "count", "key", "parts.*.size", "tags"]
    assert by_name["name"].text == "What it is called, which takes two lines to say."
    assert (by_name["key"].secret, by_name["name"].secret, by_name["tags"].many) == (True, False, True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (0.5, "0.5"),
        (2592000.0, "2592000"),
        (ByteSize(1536), '"1536B"'),
        (ByteSize(10), "10"),
        (ByteSize(2**50), '"1024TiB"'),
        (None, ""),
        ((), "[]"),
    ],
)
def test_a_value_is_written_as_a_file_has_it(value: object, text: str) -> None:
    assert written(value) == text
