"""A configuration as it was put together, and where each of its values was said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, SecretStr

from sandbox.settings.model import Key, Setting, look_up, settings_of, written

C = TypeVar("C", bound=BaseModel)


class Source(StrEnum):
    """What a value can come from. Stable: `config show --json` has it."""

    DEFAULT = "default"
    FILE = "file"
    VARIABLE = "variable"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said: FILE:LINE, the variable's name, or the option's."""

    source: Source
    place: str = "default"


DEFAULT: Final = Origin(Source.DEFAULT)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a configuration."""

    key: Key
    value: Any
    origin: Origin
    setting: Setting


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A configuration, and how it came about."""

    config: C
    origins: Mapping[Key, Origin] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Sentences about what is not wrong, but hardly meant."""

    def origin(self, key: Key) -> Origin:
        """Where the value of a setting comes from."""
        return self.origins.get(key, DEFAULT)

    def values(self) -> Iterator[Value]:
        """Every value, in the order of the model."""
        for setting in settings_of(type(self.config)):
            for key, value in look_up(self.config, setting.key):
                yield Value(key, value, self.origin(key), setting)


def table(values: Iterable[Value]) -> Iterator[str]:
    """Lines for people: name, value, where from, and whether a HUP changes it. No secret is in them."""
    rows = [
        (".".join(one.key), written(_shown(one)) or "-", one.origin.place, "live" if one.setting.live else "")
        for one in values
    ]
    rows.insert(0, ("SETTING", "VALUE", "FROM", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def document(values: Iterable[Value]) -> list[dict[str, Any]]:
    """The same for programs, in the types of JSON."""
    return [
        {
            "setting": ".".join(one.key),
            "value": _plain(_shown(one)),
            "source": one.origin.source,
            "place": one.origin.place,
            "live": one.setting.live,
        }
        for one in values
    ]


def later(running: Loaded[C], said: Loaded[C]) -> list[str]:
    """The settings that are another now than those that a program runs with, and not live: the next start's."""
    before = {one.key: one.value for one in running.values()}
    return [one.setting.name for one in said.values() if not one.setting.live and before.get(one.key) != one.value]


def _shown(one: Value) -> Any:  # noqa: ANN401 - any type that a setting has
    """A value, or as much of it as may be seen: how many there are of a list."""
    if not one.setting.secret:
        return one.value
    return [SecretStr("")] * len(one.value) if one.setting.many else one.value and SecretStr("")


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON has
    match value:
        case SecretStr():
            return written(value)
        case None | bool() | int() | float():
            return value
        case tuple() | list() as many:
            return [_plain(one) for one in many]
    return str(value)
