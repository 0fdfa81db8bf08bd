"""The state folder, which belongs to one service at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from runner.errors import StateError
from runner.service import files


class Home:
    """A folder that outlives the service: two that used it at once would both run what waits there.

    Raises StateError when it cannot be used, or another service has it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock: Final = files.lock(folder / "lock")
        except (OSError, ValueError) as error:
            raise StateError(f"The state folder {folder} is not usable: {error}.") from error
        if self._lock is None:
            raise StateError(f"Another runner uses the state folder {folder}. Stop it, or give this one its own.")
        self.token = folder / "token"
        self.jobs = folder / "jobs"
        self.leases = folder / "leases.json"
        self.gitlab = folder / "gitlab"

    def release(self) -> None:
        """Let another service have it. The end of this process does that too."""
        if self._lock is not None:
            self._lock.close()
