"""Puts the settings together: a file, above it the environment, above that the command's own options.

Everything that is wrong is told at once, each by where it was said. Pure, but for reading files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from runner.config.model import Config
from runner.errors import ConfigError
from sandbox.settings import toml
from sandbox.settings.complaints import complaints, nearest, together
from sandbox.settings.loaded import Loaded, Origin, Source
from sandbox.settings.model import Key, Setting, settings_of

DEFAULT_FILE: Final = Path("/etc/runner/runner.toml")
_FILE: Final = "_file"
#: Characters of a secret.
_MAX_SECRET: Final = 64 * 1024


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting there is."""
    return tuple(settings_of(Config))


def variable(setting: Setting) -> str:
    """The variable of a setting. A secret's may have `_FILE` behind it, and then names a file."""
    return "_".join(("RUNNER", *setting.key)).upper()


def option(setting: Setting) -> str:
    """The option of a setting. A secret's names a file: everybody can read a command's arguments."""
    name = setting.about.option or f"--{'-'.join(setting.key).replace('_', '-')}"
    return f"{name}-file" if setting.secret else name


def load(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    options: Mapping[Key, str | list[str]] | None = None,
    only: str = "",
) -> Loaded[Config]:
    """Return the configuration of a command. Without a file, the usual one, if it is there.

    With `only`, that section's settings by environment and options, and no file: for a person's command beside a
    service. Errors: ConfigError with every mistake.
    """
    wanted = [setting for setting in settings() if setting.key[0] == only or not only]
    if file is None and not only and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    try:
        document = toml.read(file) if file else toml.Document("the defaults", {}, {})
    except toml.BadFile as error:
        raise ConfigError(str(error)) from None
    layers = _Layers(document, wanted)
    layers.add_environment(environment)
    layers.add_options(options or {})
    remarks = [*_unknown(environment), *_exposed(file, layers.secrets_in_file)]
    return layers.loaded(remarks)


class _Layers:
    """What was given, one above the other, and where each was said."""

    def __init__(self, document: toml.Document, wanted: Iterable[Setting]) -> None:
        self._document = document
        self._tree = document.tables
        self._wanted = list(wanted)
        self._origins: dict[Key, Origin] = {}
        self._problems: list[str] = []
        self.secrets_in_file: list[Setting] = []
        for setting in self._wanted:
            self._take_from_file(setting)

    def _take_from_file(self, setting: Setting) -> None:
        table, name, place = self._table(setting.key), setting.key[-1], self._document.place(setting.key)
        if table is None:
            return
        if name in table:
            self._origins[setting.key] = Origin(Source.FILE, place)
            self.secrets_in_file += [setting] if setting.secret else []
        if setting.secret and (path := table.pop(name + _FILE, None)) is not None:
            if name in table:
                self._problems.append(f"{place}: {setting.name} is given twice, by value and by file. Give one.")
            place = self._document.place((*setting.key[:-1], name + _FILE))
            self._put(setting, self._secret(str(path), place), Origin(Source.FILE, place))

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """An empty variable says nothing: compose files set those that nobody gave."""
        for setting in self._wanted:
            for name in filter(None, (setting.about.also, variable(setting))):  # the last one counts
                if text := environment.get(name):
                    self._put(setting, text.split() if setting.many else text, Origin(Source.VARIABLE, name))
            file = f"{variable(setting)}{_FILE.upper()}"
            if setting.secret and (path := environment.get(file)):
                if environment.get(variable(setting)):
                    self._problems.append(f"{file}: {variable(setting)} is set as well. Set one of them.")
                self._put(setting, self._secret(path, file), Origin(Source.VARIABLE, file))

    def add_options(self, options: Mapping[Key, str | list[str]]) -> None:
        """As they were on the command line."""
        for setting in self._wanted:
            given = options.get(setting.key)
            if given is not None:
                value = self._secret(str(given), option(setting)) if setting.secret else given
                self._put(setting, value, Origin(Source.OPTION, option(setting)))

    def loaded(self, remarks: Iterable[str]) -> Loaded[Config]:
        """Errors: ConfigError."""
        try:
            config = Config.model_validate(self._tree)
        except ValidationError as error:
            self._problems += complaints(error, Config, self._place)
        if self._problems:
            raise ConfigError(together("The configuration is wrong:", self._problems))
        return Loaded(config, self._origins, tuple(remarks))

    def _put(self, setting: Setting, value: object, origin: Origin) -> None:
        table = self._table(setting.key)
        if table is not None and value is not None:  # else what is wrong is told already, or will be
            table[setting.key[-1]] = value
            self._origins[setting.key] = origin

    def _table(self, key: Key) -> dict[str, Any] | None:
        table: Any = self._tree
        for step in key[:-1]:
            table = table.setdefault(step, {}) if isinstance(table, dict) else None
        return table if isinstance(table, dict) else None

    def _place(self, key: Key) -> str:
        """Where something was said that is wrong."""
        for end in range(len(key), 0, -1):
            if origin := self._origins.get(key[:end]):
                return origin.place
        return self._document.place(key)

    def _secret(self, path: str, place: str) -> str | None:
        try:
            with Path(path).open(encoding="utf-8") as file:
                return file.read(_MAX_SECRET).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            self._problems.append(f"{place}: the file {path} cannot be read: {reason}.")
            return None


def _unknown(environment: Mapping[str, str]) -> Iterable[str]:
    """Variables that look like settings and are none. No error: Kubernetes sets such by itself, for a service."""
    known = {variable(setting): setting for setting in settings()}
    others = {setting.about.also for setting in settings()} | {
        f"{name}{_FILE.upper()}" for name, setting in known.items() if setting.secret
    }
    sections = tuple(f"RUNNER_{setting.key[0].upper()}_" for setting in known.values() if len(setting.key) > 1)
    for name in sorted(environment):
        if name.startswith(sections) and name not in known and name not in others:
            near = nearest(name, sorted(known), likeness=0.9)  # all begin alike
            yield f"{name} is no setting, and has no effect.{f' Did you mean {near}?' if near else ''}"


def _exposed(file: Path | None, secrets: Iterable[Setting]) -> Iterable[str]:
    """Secrets in a file that is not theirs alone."""
    if file and file.stat().st_mode & 0o004:
        for setting in secrets:
            fix = f"Close the file (chmod o-r), or give {setting.name}_file."
            yield f"{file}: everybody can read {setting.name} there. {fix}"
