"""A finished configuration, and the origin of each of its values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, SecretStr

from sandbox.settings.model import Key, Setting, look_up, settings_of, written

C = TypeVar("C", bound=BaseModel)


class Source(StrEnum):
    """The source of a value. Stable: `config show --json` has it."""

    DEFAULT = "default"
    FILE = "file"
    VARIABLE = "variable"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given: FILE:LINE, or the name of the variable or option."""

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
    """A configuration and its origins."""

    config: C
    origins: Mapping[Key, Origin] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Sentences about values that are not wrong, but hardly meant."""

    def origin(self, key: Key) -> Origin:
        """Return where a setting's value comes from."""
        return self.origins.get(key, DEFAULT)

    def values(self) -> Iterator[Value]:
        """Yield every value, in the order of the model."""
        for setting in settings_of(type(self.config)):
            for key, value in look_up(self.config, setting.key):
                yield Value(key, value, self.origin(key), setting)


def table(values: Iterable[Value]) -> Iterator[str]:
    """Write lines for people: name, value, origin, and whether a HUP changes it. Contains no secret."""
    rows = [
        (".".join(one.key), written(_shown(one)) or "-", one.origin.place, "live" if one.setting.live else "")
        for one in values
    ]
    rows.insert(0, ("SETTING", "VALUE", "FROM", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def document(values: Iterable[Value]) -> list[dict[str, Any]]:
    """Write the same for programs, in JSON's types."""
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
    """Return the changed settings that only the next start takes up."""
    before = {one.key: one.value for one in running.values()}
    return [one.setting.name for one in said.values() if not one.setting.live and before.get(one.key) != one.value]


def _shown(one: Value) -> Any:  # noqa: ANN401 - any type that a setting has
    """Return what may be seen of a value: of a secret list, only its length."""
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
