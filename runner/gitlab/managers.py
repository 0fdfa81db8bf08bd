"""Watches gitlab-runner's own processes: when one ends, for whatever reason, its jobs are over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class Manager:
    """The descriptor of a process (a pidfd), which becomes readable at its end; None if the hook sent none."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def take(self) -> int | None:
        """Return the descriptor, which the caller must close."""
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def close(self) -> None:
        """Close the descriptor, unless it was taken."""
        if (descriptor := self.take()) is not None:
            os.close(descriptor)


class Managers:
    """Watches one process for each job: the one that its latest hook came from."""

    def __init__(self) -> None:
        self._watched: dict[str, int] = {}

    def watch(self, job: str, manager: Manager, on_end: Callable[[], None]) -> None:
        """Call `on_end` once at the end of the process, and stop watching the job's earlier process."""
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
        """Stop watching."""
        for job in list(self._watched):
            self.forget(job)

    def forget(self, job: str) -> None:
        """Stop watching for a job. Idempotent."""
        if (descriptor := self._watched.pop(job, None)) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
