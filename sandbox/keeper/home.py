"""The keeper's state folder: the installation's id, and the number of its last creation."""

import os
import weakref
from pathlib import Path

from sandbox import durable, installation
from sandbox.errors import ConfigError

_GENERATION = "generation"


class Home:
    """A folder that outlives the keeper, so that a later life knows what an earlier one left.

    One keeper at a time owns it: two keepers of one installation would remove each other's sandboxes. Raises
    `ConfigError` when the folder cannot be written or another keeper has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.release = weakref.finalize(self, os.close, _lock(folder))
            self.installation = installation.of_folder(folder)
            kept = folder / _GENERATION
            self._generation = int(kept.read_text()) if kept.exists() else 0
        except (OSError, ValueError) as error:
            raise ConfigError(f"The keeper's state folder {folder} is not usable: {error}.") from error

    @property
    def records(self) -> Path:
        """The folder for the records of sandboxes."""
        return self._folder / "sandboxes"

    def next_generation(self) -> int:
        """Return a number that no earlier creation of this installation had; it is on disk before it is used.

        Raises `ConfigError` when it cannot be written.
        """
        self._generation += 1
        try:
            durable.write(self._folder / _GENERATION, f"{self._generation}\n".encode())
        except OSError as error:
            raise ConfigError(f"The keeper's state folder {self._folder} is not usable: {error}.") from error
        return self._generation


def _lock(folder: Path) -> int:
    descriptor = durable.lock(folder / "lock")
    if descriptor is None:
        raise ConfigError(f"Another keeper uses the state folder {folder}. Stop it, or give this one its own.")
    return descriptor
