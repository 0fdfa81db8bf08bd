"""The state folder, which belongs to one service at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from runner import durable
from runner.errors import StateError
from runner.store.database import Database
from runner.store.deliveries import Deliveries
from runner.store.jobs import Jobs
from runner.store.leases import LeaseNotes
from runner.store.seal import Seal
from runner.store.tokens import Tokens


class Home:
    """A folder that outlives the service. Two services that used it at once would both run the jobs that wait there.

    Raises StateError when it cannot be used, another service has it, or another version of the runner wrote it.
    """

    def __init__(self, folder: Path, receivers: Collection[str] = ()) -> None:
        """`receivers` are told of each job's end."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock: Final = durable.lock(folder / "lock")
        except (OSError, ValueError) as error:
            raise StateError(f"The state folder {folder} is not usable: {error}.") from error
        if self._lock is None:
            raise StateError(f"Another runner uses the state folder {folder}. Stop it, or give this one its own.")
        self.token = folder / "token"
        self.logs = folder / "logs"
        self.uploads = folder / "uploads"
        self.artifacts = folder / "artifacts"
        try:
            self._database, seal = _open(folder)
        except StateError:
            self._lock.close()
            raise
        self.jobs = Jobs(self._database, seal, receivers)
        self.deliveries = Deliveries(self._database)
        self.leases = LeaseNotes(self._database, seal)
        self.tokens = Tokens(self._database)
        self.gitlab = folder / "gitlab"

    def on_failure(self, call: Callable[[], object]) -> None:
        """Set the function to call, on any thread, each time the database cannot be written or read."""
        self._database.on_failure = call

    def release(self) -> None:
        """Let another service use the folder. The end of this process does that too."""
        self._database.close()
        if self._lock is not None:
            self._lock.close()


def _open(folder: Path) -> tuple[Database, Seal]:
    if (folder / "jobs").exists():
        raise StateError(
            f"The state folder {folder} was written by a version that kept each job in a folder of its own. Let that "
            "version finish its jobs, and give this one another state folder."
        )
    return Database(folder / "runner.db"), Seal(folder / "key")
