"""Leases that a later life of the service can return: their tokens are on disk before they are asked for.

A sandbox is kept for an attempt whose runner is not heard of, for hours. The marker of a job names the attempt that is
followed again. Between the request for a lease and the marker, and between the outcome and the return of the sandbox,
only this file knows of the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from runner.errors import LeaseError, LeaseLostError
from runner.execution.cancellation import see_through
from runner.execution.lease import Lease, LeaseSource
from runner.service import files

_logger = logging.getLogger(__name__)

#: Leases that are remembered for each job at once: one that ends, one that is taken in advance, and those that broke.
_PER_SLOT: Final = 8
#: Largest file and longest text in it that are read back.
_MAX_FILE: Final = 4 * 1024 * 1024
_MAX_TEXT: Final = 200
#: Seconds between two tries to return a lease while the keeper does not answer.
_INTERVAL: Final = 5.0


class NotedLeases:
    """A source of leases that notes each request in a file, and can return what an earlier life was lent."""

    def __init__(self, leases: LeaseSource, path: Path, slots: int) -> None:
        """The file is for its owner only. One that cannot be read is as good as none: the keeper's patience ends."""
        self._leases = leases
        self._path = path
        self._earlier = _read(path)
        self._noted = deque(self._earlier, maxlen=max(len(self._earlier), _PER_SLOT * (slots + 1)))
        self._writing = asyncio.Lock()

    async def lend(self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float) -> Lease:
        """See `LeaseSource.lend`. Errors: LeaseError also when the request cannot be noted."""
        await see_through(self._note(attempt, token))
        return await self._leases.lend(attempt, token, profile, trust_key, wait, patience)

    async def resume(self, attempt: str, token: str) -> Lease:
        """See `LeaseSource.resume`."""
        return await self._leases.resume(attempt, token)

    async def return_earlier(self, followed: Collection[str]) -> None:
        """Return what an earlier life was lent, but for the attempts that are followed. Asks until it is answered."""
        for attempt, token in self._earlier:
            if attempt not in followed:
                await self._return(attempt, token)

    async def _note(self, attempt: str, token: str) -> None:
        async with self._writing:
            self._noted.append((attempt, token))
            try:
                await asyncio.to_thread(files.write, self._path, list(self._noted))
            except OSError as error:
                raise LeaseError(
                    f"The lease cannot be noted: {error.strerror}. Make room in the state folder."
                ) from error

    async def _return(self, attempt: str, token: str) -> None:
        while True:
            try:
                lease = await self._leases.resume(attempt, token)
                lease.access.socket.close()
                await lease.give_back(used=True)  # its job may have ended just before its runner did
                _logger.info("sandbox %s was left leased, and is returned", lease.sandbox)
            except LeaseLostError:
                return
            except LeaseError as error:
                _logger.info("a sandbox that was left leased cannot be returned yet: %s", error)
                await asyncio.sleep(_INTERVAL)
            else:
                return


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        document = files.read(path, _MAX_FILE)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _logger.warning("Leases of an earlier life are not returned, and end by themselves: %s", error)
        return []
    entries = document if isinstance(document, list) else []
    return [(entry[0], entry[1]) for entry in entries if _is_note(entry)]


def _is_note(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(text, str) and 0 < len(text) <= _MAX_TEXT for text in entry)
    )
