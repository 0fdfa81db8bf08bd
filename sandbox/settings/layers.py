"""Puts settings together: a file, above it the environment, above that the command's own options.

Reports all mistakes at once, each with its place. Pure, except for reading files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from sandbox.settings import toml
from sandbox.settings.complaints import complaints, nearest
from sandbox.settings.loaded import Loaded, Origin, Source
from sandbox.settings.model import EACH, Key, Setting

C = TypeVar("C", bound=BaseModel)

Options: TypeAlias = Mapping[Key, str | list[str]]
"""A command's options, by setting: text, which is validated like a variable's."""

_FILE: Final = "_file"
_MAX_SECRET: Final = 64 * 1024
"""Most characters of a secret."""


class WrongSettings(Exception):
    """The settings are wrong. `told` has a sentence for each mistake."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(*told)
        self.told = told


class Layers(Generic[C]):
    """The given values, layer by layer, each with its place."""

    def __init__(self, model: type[C], document: toml.Document, wanted: Iterable[Setting]) -> None:
        self._model = model
        self._document = document
        self._tree = document.tables
        self._wanted = list(wanted)
        self._origins = {key: Origin(Source.FILE, document.place(key)) for key in document.lines}
        self._problems: list[str] = []
        self.secrets_in_file: list[Setting] = []
        for setting in self._wanted:
            if setting.secret:
                self._take_secret_from_file(setting)

    def _take_secret_from_file(self, setting: Setting) -> None:
        table, name = self._table(setting.key), setting.key[-1]
        if table is None:
            return
        if name in table:
            self.secrets_in_file.append(setting)
        if (path := table.pop(name + _FILE, None)) is not None:
            place = self._document.place((*setting.key[:-1], name + _FILE))
            if name in table:
                self._problems.append(f"{place}: {setting.name} is given twice, by value and by file. Give one.")
            self._put(setting, self._secret(setting, str(path), place), Origin(Source.FILE, place))

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """Add the variables. Empty ones count as unset: compose files set those that nobody gave."""
        for setting in self._wanted:
            if not setting.alone:
                self._stand_in(setting, environment)
                continue
            for name in filter(None, (setting.about.also, setting.variable)):  # the later one wins
                if text := environment.get(name):
                    self._put(setting, _value(setting, text), Origin(Source.VARIABLE, name))
            file = f"{setting.variable}{_FILE.upper()}"
            if setting.secret and (path := environment.get(file)):
                if environment.get(setting.variable):
                    self._problems.append(f"{file}: {setting.variable} is set as well. Set one of them.")
                self._put(setting, self._secret(setting, path, file), Origin(Source.VARIABLE, file))

    def _stand_in(self, setting: Setting, environment: Mapping[str, str]) -> None:
        """Use a variable where the file says nothing, under each name that the file chose."""
        if text := environment.get(setting.about.also):
            for key, table in _tables(self._tree, setting.key[:-1]):
                if setting.key[-1] not in table:
                    table[setting.key[-1]] = _value(setting, text)
                    self._origins[*key, setting.key[-1]] = Origin(Source.VARIABLE, setting.about.also)

    def add_options(self, options: Options) -> None:
        """Add the command line's options."""
        for setting in self._wanted:
            given = options.get(setting.key)
            if given is not None:
                value = self._secret(setting, str(given), setting.option) if setting.secret else given
                self._put(setting, value, Origin(Source.OPTION, setting.option))

    def loaded(self, remarks: Iterable[str] = ()) -> Loaded[C]:
        """Validate and return the configuration. Raises `WrongSettings`."""
        try:
            config = self._model.model_validate(self._tree)
        except ValidationError as error:
            self._problems += complaints(error, self._model, self._place)
        if self._problems:
            raise WrongSettings(self._problems)
        return Loaded(config, self._origins, tuple(remarks))

    def _put(self, setting: Setting, value: object, origin: Origin) -> None:
        table = self._table(setting.key)
        if table is not None and value is not None:  # otherwise the mistake is reported elsewhere
            table[setting.key[-1]] = value
            self._origins[setting.key] = origin

    def _table(self, key: Key) -> dict[str, Any] | None:
        table: Any = self._tree
        for step in key[:-1]:
            table = table.setdefault(step, {}) if isinstance(table, dict) else None
        return table if isinstance(table, dict) else None

    def _place(self, key: Key) -> str:
        """Return the place of a wrong value."""
        for end in range(len(key), 0, -1):
            if origin := self._origins.get(key[:end]):
                return origin.place
        within = (origin.place for said, origin in self._origins.items() if key and said[: len(key)] == key)
        return next(within, self._document.place(key))

    def _secret(self, setting: Setting, path: str, place: str) -> str | list[str] | None:
        try:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(_MAX_SECRET).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            self._problems.append(f"{place}: the file {path} cannot be read: {reason}.")
            return None
        if not text:
            self._problems.append(f"{place}: the file {path} is empty. Write {setting.name} into it.")
            return None
        return _value(setting, text)


def unknown(environment: Mapping[str, str], settings: Iterable[Setting]) -> Iterator[str]:
    """Warn of variables that look like settings and are none. No error, as Kubernetes sets some for a service."""
    named = [setting for setting in settings if setting.alone]
    known = {setting.variable for setting in named}
    others = {setting.about.also for setting in named}
    others |= {f"{setting.variable}{_FILE.upper()}" for setting in named if setting.secret}
    sections = tuple(f"{setting.prefix}_{setting.key[0]}_".upper() for setting in named if len(setting.key) > 1)
    for name in sorted(environment):
        if name.startswith(sections) and name not in known | others:
            near = nearest(name, sorted(known), likeness=0.9)  # high, as all names begin alike
            yield f"{name} is no setting, and has no effect.{f' Did you mean {near}?' if near else ''}"


def exposed(file: Path | None, secrets: Iterable[Setting]) -> Iterator[str]:
    """Warn of secrets in a file that everybody can read."""
    if file and file.stat().st_mode & 0o004:
        for setting in secrets:
            fix = f"Close the file (chmod o-r), or give {setting.name}{_FILE}."
            yield f"{file}: everybody can read {setting.name} there. {fix}"


def _value(setting: Setting, text: str) -> str | list[str]:
    """Parse the text of a variable or a secret's file: a list's text is split into words."""
    return text.split() if setting.many else text


def _tables(tree: object, path: Key, so_far: Key = ()) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield every table at a path, with its key."""
    if not isinstance(tree, dict):
        return  # validation reports this mistake later
    if not path:
        yield so_far, tree
        return
    for step in tree if path[0] == EACH else [path[0]]:
        yield from _tables(tree.get(step), path[1:], (*so_far, step))
