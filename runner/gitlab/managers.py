"""gitlab-runner's own processes: when one ends, however it ends, its jobs are over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class Manager:
    """A descriptor of a process (a pidfd), which becomes readable at its end; or none, where a hook sent none."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def take(self) -> int | None:
        """Return the descriptor; it is the caller's to close then."""
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def close(self) -> None:
        """Close the descriptor, unless somebody took it."""
        if (descriptor := self.take()) is not None:
            os.close(descriptor)


class Managers:
    """Watches one process for each job: the last that one of its hooks came from."""

    def __init__(self) -> None:
        self._watched: dict[str, int] = {}

    def watch(self, job: str, manager: Manager, on_end: Callable[[], None]) -> None:
        """Have `on_end` called, once, at the end of the process, and no more be heard of an earlier one."""
        descriptor = manager.take()
        if descriptor is None:
            return
        self.forget(job)

        def ended() -> None:
            self.forget(job)
            on_end()

        self._watched[job] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, ended)

    def close(self) -> None:
        """Watch nothing any more."""
        for job in list(self._watched):
            self.forget(job)

    def forget(self, job: str) -> None:
        """Watch nothing for a job any more. Idempotent."""
        if (descriptor := self._watched.pop(job, None)) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
