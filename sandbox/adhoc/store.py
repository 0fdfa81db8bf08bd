"""The records of a user's ad-hoc sandboxes on one engine, in a folder that only the user can read.

A record exists before the engine is asked for anything and until everything is gone, so nothing is forgotten. The time
of a record's file is the time when its sandbox was last seen in use.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from sandbox import durable, installation
from sandbox.adhoc.record import NAME, Record
from sandbox.errors import ConfigError, NameInUse, NoSuchSandbox
from sandbox.template import SandboxName

_SUFFIX = ".json"


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the engine's own folder under `XDG_STATE_HOME`: two engines' names and firewall tables do not collide."""
    base = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME") or Path.home(), ".local", "state")
    engine = hashlib.sha256(environment.get("DOCKER_HOST", "").encode()).hexdigest()[:8]
    return Path(base, "sandbox", engine)


def network_namespace() -> int:
    """Return the number of this process's network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


class Store:
    """The records in one folder. Raises `ConfigError` when the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # it holds keys, even if somebody else made it
            with self.locked():
                self.installation = installation.of_folder(folder)
        except OSError as error:
            raise ConfigError(f"The state folder {folder} is not usable: {error}. Set XDG_STATE_HOME.") from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep every other process out during the block, which must be short. Not to be nested in one thread."""
        return durable.locked(self.folder / "lock")

    def claim(self, record: Record) -> None:
        """Write a record under an unused name. Raises `NameInUse`, or as `get`."""
        with self.locked():
            if self._read(self._path(record.name)):
                raise NameInUse(
                    f"There is a sandbox {record.name} already. Use it (sandbox shell {record.name}), "
                    f"remove it (sandbox rm {record.name}), or give this one another name."
                )
            self._write(record)

    def change(self, record: Record, changed: Callable[[Record], Record]) -> Record:
        """Replace a creation's record with the result of `changed` for its present version, and return the result.

        Raises `NoSuchSandbox` when the sandbox was removed meanwhile.
        """
        with self.locked():
            new = changed(self._same(record))
            self._write(new)
            return new

    def drop(self, record: Record) -> None:
        """Forget a creation; a later creation of the same name stays."""
        with self.locked():
            try:
                self._same(record)
            except NoSuchSandbox:
                return
            shutil.rmtree(self.ssh_folder(record.name), ignore_errors=True)
            self._path(record.name).unlink(missing_ok=True)

    def get(self, name: str) -> Record:
        """Return the record of a name. Raises `NoSuchSandbox`, or `ConfigError` when the record cannot be read."""
        found = self._read(self._path(name)) if re.fullmatch(NAME, name) else None
        if found is None and SandboxName.read(name):  # `ls` also lists the keeper's
            raise NoSuchSandbox(
                f"{name} is no sandbox of your own. If it is the keeper's: `sandbox hold` keeps it, "
                "`sandbox shell` gets in then, `sandbox release` throws it away."
            )
        if found is None:
            raise NoSuchSandbox(f"There is no sandbox {name}; `sandbox ls` lists them, `sandbox up {name}` makes it.")
        return found

    def records(self) -> list[Record]:
        """Return every record, oldest first. Raises `ConfigError` when one is unreadable: its sandbox depends on it."""
        found = [record for path in self.folder.glob(f"*{_SUFFIX}") if (record := self._read(path))]
        return sorted(found, key=lambda record: record.made)

    def is_empty(self) -> bool:
        """Return whether there is no record at all, not even an unreadable one."""
        return not any(self.folder.glob(f"*{_SUFFIX}"))

    def ssh_folder(self, name: str) -> Path:
        """Return the folder for the files that `sandbox ssh-config` writes."""
        return self.folder / "ssh" / name

    def last_used(self, record: Record) -> float:
        """Return the Unix time when the sandbox was last seen in use."""
        try:
            return self._path(record.name).stat().st_mtime
        except OSError:
            return time.time()

    def use(self, record: Record, when: float) -> None:
        """Note that the sandbox was in use at this Unix time, unless a later time is known."""
        path = self._path(record.name)
        try:
            last = max(when, path.stat().st_mtime)
            os.utime(path, (last, last))
        except FileNotFoundError:
            return

    # -- inside --------------------------------------------------------------------------------------------------

    def _same(self, record: Record) -> Record:
        """Return the present record of the same creation."""
        found = self.get(record.name)
        if found.sandbox != record.sandbox:
            raise NoSuchSandbox(f"The sandbox {record.name} was removed, and another one made under its name.")
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _write(self, record: Record) -> None:
        durable.replace(self._path(record.name), record.model_dump_json().encode())

    def _read(self, path: Path) -> Record | None:
        """Return the record in a file; None if there is no such file."""
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"The sandbox {path.stem} has a record that cannot be read: {error}. Try again."
            ) from error
        except ValidationError:  # its text would show the record, with its keys
            raise ConfigError(
                f"The sandbox {path.stem} has a record, {path}, that is damaged or another version's. Use the version "
                "that made it, or give the sandbox up and remove that file."
            ) from None
