"""Settings as models, and what is known of each setting."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ByteSize, ConfigDict, SecretStr

Key: TypeAlias = tuple[str, ...]
"""A setting's path from the top of the file. `EACH` stands for names that the file chooses."""

EACH: Final = "*"
HIDDEN: Final = "(hidden)"
"""Shown in place of a secret value."""


class Section(BaseModel):
    """A table of settings."""

    live: ClassVar[bool] = False
    """Whether all its settings are taken up while running; `About.live` says so for a single one."""

    variables: ClassVar[str] = ""
    """The prefix of all settings' variables. Only a whole configuration has one, not its tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class About:
    """What a setting's type does not say; part of its annotation."""

    live: bool = False
    """Whether a change is taken up while running, at HUP; otherwise the next start takes it up."""
    option: str = ""
    """Its name as an option, if it differs from the one by its path."""
    also: str = ""
    """A variable with the same meaning: another program's name for the setting, or an older one. For a setting below
    names that the file chooses, it stands in where the file says nothing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a model."""

    key: Key
    kind: Any
    """Its type."""
    default: Any
    example: Any
    """A possible value, if there is no default."""
    about: About
    section: type[BaseModel]
    """The model that has the field."""
    prefix: str = ""
    """The prefix of its configuration's variables."""

    @property
    def alone(self) -> bool:
        """Whether there is exactly one, for a variable and an option to name. Otherwise the file chooses the names."""
        return EACH not in self.key

    @property
    def variable(self) -> str:
        """Its variable: the prefix and its path. A secret's variable may end in `_FILE` and name a file."""
        return "_".join((self.prefix, *self.key)).upper() if self.alone else ""

    @property
    def option(self) -> str:
        """Its option. A secret's option names a file, since everybody can read a command's arguments."""
        if not self.alone:
            return ""
        name = self.about.option or f"--{'-'.join(self.key).replace('_', '-')}"
        return f"{name}-file" if self.secret else name

    @property
    def live(self) -> bool:
        """Whether a change is taken up while running."""
        return self.about.live or (issubclass(self.section, Section) and self.section.live)

    @property
    def text(self) -> str:
        """Its docstring, in one line."""
        return _docstrings(self.section.__module__).get((self.section.__name__, self.key[-1]), "")

    @property
    def name(self) -> str:
        """Its name, as people write it."""
        return ".".join(self.key)

    @property
    def secret(self) -> bool:
        """Whether it is a secret: nobody is shown it, and a file of its own may give it."""
        return SecretStr in _parts(self.kind)

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return get_origin(self.kind) in (tuple, list)


def settings_of(model: type[BaseModel], key: Key = (), prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a model, in the order of the model."""
    if issubclass(model, Section):
        prefix = prefix or model.variables
    for name, field in model.model_fields.items():
        here = (*key, name)
        inner, steps = _section(field.annotation)
        if inner is not None:
            yield from settings_of(inner, (*here, *steps), prefix)
            continue
        about = next((mark for mark in field.metadata if isinstance(mark, About)), About())
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        example = (field.examples or [default])[0]
        yield Setting(here, field.annotation, default, example, about, model, prefix)


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return the fields' docstrings, by class and field. pydantic would take 50 ms of every command's start."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        (section.name, field.target.id): " ".join(text.split())
        for section in tree.body
        if isinstance(section, ast.ClassDef)
        for field, docstring in itertools.pairwise(section.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
        if isinstance(text := docstring.value.value, str)
    }


def look_up(config: object, path: Sequence[str], so_far: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value that a configuration has at a path, with the names that the file chose."""
    match path:
        case []:
            yield so_far, config
        case [step, *rest] if step == EACH:
            assert isinstance(config, Mapping)
            for name, value in config.items():
                yield from look_up(value, rest, (*so_far, name))
        case [step, *rest]:
            yield from look_up(getattr(config, step), rest, (*so_far, step))


def written(value: object) -> str:
    """Write a value as TOML; empty for none."""
    match value:
        case None:
            text = ""
        case SecretStr():
            text = HIDDEN
        case bool():
            text = str(value).lower()
        case ByteSize() if value >= 1024:
            text = f'"{_bytes(value)}"'
        case int() | float():
            text = f"{value:.15g}" if isinstance(value, float) else str(int(value))
        case tuple() | list():
            text = f"[{', '.join(map(written, value))}]"
        case _:
            text = f'"{value}"'
    return text


def _bytes(value: int) -> str:
    """Write the exact size, in the largest unit that fits."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}B"


def _parts(kind: Any) -> Iterator[Any]:  # noqa: ANN401 - any type that a field may have
    """Yield a type and all the types in it."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _section(kind: Any) -> tuple[type[BaseModel] | None, Key]:  # noqa: ANN401 - any type that a field may have
    """Return the model that a field holds, and the step to it when the field holds models by name."""
    if get_origin(kind) is dict:
        inner, steps = _section(get_args(kind)[1])
        return inner, (EACH, *steps)
    return (kind, ()) if isinstance(kind, type) and issubclass(kind, BaseModel) else (None, ())
