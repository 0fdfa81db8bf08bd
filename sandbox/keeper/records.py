"""The keeper's records of its sandboxes on disk, so that a later life can take them over.

Each sandbox has two files: what it was made as, written once, and its course, written when it changes. A course exists
only while the sandbox is lent or may be lent; anything without a course is a leftover. Nothing is synced to the disk,
since a crash of the host ends every sandbox too. The files hold keys, so only the owner can open the folder.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from sandbox import durable
from sandbox.errors import ConfigError
from sandbox.keeper.builder import Built
from sandbox.logs import Action, Events
from sandbox.pool import Sandbox
from sandbox.state import State

events = Events("keeper")

_KEPT: Final = frozenset({State.READY, State.INSPECTING, State.LEASED, State.ORPHANED, State.HELD})
_BUILT: Final = TypeAdapter(Built)
_COURSE: Final = TypeAdapter(Sandbox)
_BUILT_SUFFIX: Final = ".built.json"
_COURSE_SUFFIX: Final = ".course.json"

_T = TypeVar("_T")


class Records:
    """The records in one folder. Raises `ConfigError` when the folder cannot be made.

    A record that cannot be written or removed is only logged: it costs the sandbox when the keeper is killed, not the
    job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, Sandbox] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The keeper's folder for records {folder} cannot be made: {error}.") from error

    def load(self) -> list[tuple[Sandbox, Built]]:
        """Return the records of an earlier life, in order of creation, without those that cannot be read."""
        found = []
        for path in self._folder.glob(f"*{_COURSE_SUFFIX}"):
            course = _read(path, _COURSE)
            built = _read(self._path(path.name.removesuffix(_COURSE_SUFFIX), _BUILT_SUFFIX), _BUILT)
            if course and built and path.name == f"{course.name}{_COURSE_SUFFIX}":
                found.append((course, built))
        return sorted(found, key=lambda pair: pair[0].generation)

    def keep_built(self, name: str, built: Built) -> None:
        """Keep what a sandbox was made as."""
        self._write(self._path(name, _BUILT_SUFFIX), _BUILT.dump_json(built))

    def keep(self, sandbox: Sandbox) -> None:
        """Keep the course of a sandbox, or forget it when it is on its way out. Writes only changes."""
        if sandbox.state not in _KEPT:
            self._forget(sandbox.name)
            return
        course = _timeless(sandbox)
        if self._last.get(sandbox.name) != course:
            self._last.pop(sandbox.name, None)
            if self._write(self._path(sandbox.name, _COURSE_SUFFIX), _COURSE.dump_json(course)):
                self._last[sandbox.name] = course

    def forget_others(self, names: set[str]) -> None:
        """Remove the records of all sandboxes except these."""
        for path in self._folder.iterdir():
            if path.name.removesuffix(_BUILT_SUFFIX).removesuffix(_COURSE_SUFFIX) not in names:
                _remove(path)

    def _forget(self, name: str) -> None:
        self._last.pop(name, None)
        # The course first: without it, the other file means nothing.
        for suffix in (_COURSE_SUFFIX, _BUILT_SUFFIX):
            _remove(self._path(name, suffix))

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}{suffix}"

    def _write(self, path: Path, content: bytes) -> bool:
        try:
            durable.replace(path, content)
        except OSError as error:
            what = f"{path} cannot be written: {error}. A restarted keeper would not know this sandbox."
            events.warning(Action.RECORD_FAILED, what)
            return False
        return True


def _read(path: Path, shape: TypeAdapter[_T]) -> _T | None:
    try:
        return shape.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"the record {path} cannot be read and is left out: {type(error).__name__}"
        events.warning(Action.RECORD_FAILED, what)
        return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        what = f"{path} cannot be removed: {error}. A restarted keeper would look for this sandbox."
        events.warning(Action.RECORD_FAILED, what)


def _timeless(sandbox: Sandbox) -> Sandbox:
    """Remove the moments, which only mean something in one life of the keeper."""
    lease = sandbox.lease and replace(sandbox.lease, expires=0.0)
    return replace(sandbox, since=0.0, ran_container=None, served=0.0, lease=lease)
