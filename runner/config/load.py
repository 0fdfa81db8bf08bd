"""The settings of a command of the runner: the file, above it the environment, above that the command's own options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from runner.config.model import Config
from runner.errors import ConfigError
from sandbox.settings import toml
from sandbox.settings.complaints import together
from sandbox.settings.layers import Layers, Options, WrongSettings, exposed, unknown
from sandbox.settings.loaded import Loaded
from sandbox.settings.model import Setting, settings_of

DEFAULT_FILE: Final = Path("/etc/runner/runner.toml")
_WRONG: Final = "The configuration is wrong:"


@cache
def settings(only: str = "") -> tuple[Setting, ...]:
    """Return every setting, or those of one section."""
    return tuple(setting for setting in settings_of(Config) if setting.key[0] == only or not only)


def load(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    options: Options | None = None,
    only: str = "",
) -> Loaded[Config]:
    """Return the configuration of a command. Without a file, read the usual one, if it exists.

    With `only`, read that section's settings from the environment and options, and no file: for a person's command
    beside a service. Errors: ConfigError with every mistake.
    """
    if file is None and not only and _is_there(DEFAULT_FILE):
        file = DEFAULT_FILE
    try:
        document = toml.read(file) if file else toml.Document("the defaults", {}, {})
        layers = Layers(Config, document, settings(only))
        layers.add_environment(environment)
        layers.add_options(options or {})
        return layers.loaded([*unknown(environment, settings()), *exposed(file, layers.secrets_in_file)])
    except toml.BadFile as error:
        raise ConfigError(str(error)) from None
    except WrongSettings as wrong:
        raise ConfigError(together(_WRONG, wrong.told)) from None


def look_at_files(loaded: Loaded[Config]) -> None:
    """Check that the service can read the files that its settings name. Errors: ConfigError, as those of `load`."""
    tls, sandboxes = loaded.config.tls, loaded.config.sandboxes
    named = {("tls", "certificate"): tls.certificate, ("tls", "key"): tls.key}
    if sandboxes.addresses:
        named["sandboxes", "identity"] = sandboxes.identity
    told = []
    for key, path in named.items():
        try:
            if path is not None:
                path.expanduser().open("rb").close()
        except OSError as error:
            place = loaded.origin(key).place
            told.append(f"{place}: {'.'.join(key)}: the file {path} cannot be read: {error.strerror}.")
    if told:
        raise ConfigError(together(_WRONG, told))


def _is_there(file: Path) -> bool:
    """Return True also for a file that we may not look at: reading it tells the error."""
    try:
        file.stat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True
