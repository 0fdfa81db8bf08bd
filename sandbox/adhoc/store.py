"""The records of a user's ad-hoc sandboxes on one engine: a folder that is the user's only.

A record is there before the engine is asked for anything and until everything is gone, so nothing is forgotten. When it
was last seen in use is the time of its file.
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
    """Under `XDG_STATE_HOME`, a folder for each engine: names and firewall tables of two do not meet."""
    base = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME") or Path.home(), ".local", "state")
    engine = hashlib.sha256(environment.get("DOCKER_HOST", "").encode()).hexdigest()[:8]
    return Path(base, "sandbox", engine)


def network_namespace() -> int:
    """Which network namespace this process is in."""
    return Path("/proc/self/ns/net").stat().st_ino


class Store:
    """The records in one folder. Raises `ConfigError` when it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # it holds keys, whoever made it
            with self.locked():
                self.installation = installation.of_folder(folder)
        except OSError as error:
            raise ConfigError(f"The state folder {folder} is not usable: {error}. Set XDG_STATE_HOME.") from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep every other process out for the length of the block, which must be short. Not twice in a thread."""
        return durable.locked(self.folder / "lock")

    def claim(self, record: Record) -> None:
        """Keep a record under a name that nobody has. Raises `NameInUse`, or as `get`."""
        with self.locked():
            if self._read(self._path(record.name)):
                raise NameInUse(
                    f"There is a sandbox {record.name} already. Use it (sandbox shell {record.name}), "
                    f"remove it (sandbox rm {record.name}), or give this one another name."
                )
            self._write(record)

    def change(self, record: Record, changed: Callable[[Record], Record]) -> Record:
        """Replace a creation's record by what `changed` makes of it as it is by now, and return that.

        Raises `NoSuchSandbox` when it was removed meanwhile.
        """
        with self.locked():
            new = changed(self._same(record))
            self._write(new)
            return new

    def drop(self, record: Record) -> None:
        """Forget a creation; a later one of the same name stays."""
        with self.locked():
            try:
                self._same(record)
            except NoSuchSandbox:
                return
            shutil.rmtree(self.ssh_folder(record.name), ignore_errors=True)
            self._path(record.name).unlink(missing_ok=True)

    def get(self, name: str) -> Record:
        """The record of a name. Raises `NoSuchSandbox`, or `ConfigError` when it cannot be read."""
        found = self._read(self._path(name)) if re.fullmatch(NAME, name) else None
        if found is None and SandboxName.read(name):  # `ls` lists these too
            raise NoSuchSandbox(
                f"{name} is no sandbox of your own. If it is the keeper's: `sandbox hold` keeps it, "
                "`sandbox shell` gets in then, `sandbox release` throws it away."
            )
        if found is None:
            raise NoSuchSandbox(f"There is no sandbox {name}; `sandbox ls` lists them, `sandbox up {name}` makes it.")
        return found

    def records(self) -> list[Record]:
        """Every record, oldest first. Raises `ConfigError` when one cannot be read: all its sandbox has hangs on it."""
        found = [record for path in self.folder.glob(f"*{_SUFFIX}") if (record := self._read(path))]
        return sorted(found, key=lambda record: record.made)

    def is_empty(self) -> bool:
        """Whether there is no record at all, also none that cannot be read."""
        return not any(self.folder.glob(f"*{_SUFFIX}"))

    def ssh_folder(self, name: str) -> Path:
        """For the files that `sandbox ssh-config` writes."""
        return self.folder / "ssh" / name

    def last_used(self, record: Record) -> float:
        """Unix time at which it was last seen in use."""
        try:
            return self._path(record.name).stat().st_mtime
        except OSError:
            return time.time()

    def use(self, record: Record, when: float) -> None:
        """It was in use at this Unix time, or later."""
        path = self._path(record.name)
        try:
            last = max(when, path.stat().st_mtime)
            os.utime(path, (last, last))
        except FileNotFoundError:
            return

    # -- inside --------------------------------------------------------------------------------------------------

    def _same(self, record: Record) -> Record:
        """The record of the same creation as it is by now."""
        found = self.get(record.name)
        if found.sandbox != record.sandbox:
            raise NoSuchSandbox(f"The sandbox {record.name} was removed, and another one made under its name.")
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _write(self, record: Record) -> None:
        durable.replace(self._path(record.name), record.model_dump_json().encode())

    def _read(self, path: Path) -> Record | None:
        """The record in a file; None where there is no such file."""
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"The sandbox {path.stem} has a record that cannot be read: {error}. Try again."
            ) from error
        except ValidationError:  # which would show what is in it, keys among that
            raise ConfigError(
                f"The sandbox {path.stem} has a record, {path}, that is damaged or another version's. Use the version "
                "that made it, or give the sandbox up and remove that file."
            ) from None
