"""The keeper's state folder: who this installation is, and the number of its last creation."""

import fcntl
import os
import re
import secrets
import weakref
from pathlib import Path

from sandbox.errors import ConfigError
from sandbox.template import InstallationId

DEFAULT_HOME = "/var/lib/sandbox"


class Home:
    """A folder that outlives the keeper, so that a later life knows what an earlier one left behind.

    It belongs to one keeper at a time: two of one installation would remove each other's sandboxes. Raises
    `ConfigError` when the folder cannot be written or another keeper has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.release = weakref.finalize(self, os.close, _lock(folder))
            self.installation = InstallationId(self._kept("installation", secrets.token_hex(4)))
            self._generation = int(self._kept("generation", "0"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"The keeper's state folder {folder} is not usable: {error}.") from error
        if not re.fullmatch("[0-9a-f]{8}", self.installation):
            raise ConfigError(f"The file {folder / 'installation'} does not hold the eight hex digits it should.")

    @property
    def records(self) -> Path:
        """The folder for what is remembered of each sandbox."""
        return self._folder / "sandboxes"

    def next_generation(self) -> int:
        """A number that no earlier creation of this installation had. On disk before it is used.

        Raises `ConfigError` when it cannot be written.
        """
        self._generation += 1
        try:
            self._keep("generation", str(self._generation))
        except OSError as error:
            raise ConfigError(f"The keeper's state folder {self._folder} is not usable: {error}.") from error
        return self._generation

    def _kept(self, name: str, default: str) -> str:
        path = self._folder / name
        if not path.exists():
            self._keep(name, default)
        return path.read_text().strip()

    def _keep(self, name: str, value: str) -> None:
        temporary = self._folder / f".{name}"
        with temporary.open("w") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"Another keeper uses the state folder {folder}. Stop it, or give this one its own."
        ) from None
    return descriptor
