"""The installation that a state folder's sandboxes belong to."""

import re
import secrets
from pathlib import Path

from sandbox import durable
from sandbox.errors import ConfigError
from sandbox.template import InstallationId


def of_folder(folder: Path) -> InstallationId:
    """Return the id in the folder's file `installation`, or make the file with a new one.

    Raises `OSError`, or `ConfigError` when the file holds something else.
    """
    path = folder / "installation"
    if not path.exists():
        durable.write(path, f"{secrets.token_hex(4)}\n".encode())
    found = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{8}", found):
        raise ConfigError(f"The file {path} does not hold the eight hex digits it should.")
    return InstallationId(found)
