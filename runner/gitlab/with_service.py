"""Runs GitLab's jobs beside the service's own, under the same signals."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from runner.execution.flight import stop
from runner.gitlab.jobs import Jobs
from runner.gitlab.options import Options
from runner.gitlab.server import Server
from runner.gitlab.store import CacheStore
from runner.service.lasting import lasting
from runner.service.leases import NotedLeases
from runner.service.mode import Mode
from runner.service.service import Service

_LOOK: Final = 5.0
"""Seconds between two checks whether the disk needs the room of caches."""


def with_service(service: Service, leases: NotedLeases, folder: Path, options: Options) -> Service | WithService:
    """Return the service, with GitLab's jobs if there is a socket for hooks. Needs a running event loop.

    GitLab's jobs note their leases themselves, also those that the service took in advance. If such a note becomes
    unreadable, the service returns the lease.
    """
    if options.socket is None:
        return service
    metrics = service.records.metrics
    jobs = Jobs(leases, folder, options, lambda: service.held, service.standby)
    service.leave_to_others(jobs.attempts)
    metrics.gitlab_jobs.set_function(lambda: len(jobs.live))
    return WithService(service, jobs, Server(options.socket, jobs, metrics), options.caches)


class WithService:
    """A service and GitLab's jobs, controlled and awaited together."""

    def __init__(self, service: Service, jobs: Jobs, server: Server, caches: CacheStore | None) -> None:
        self._service = service
        self._jobs = jobs
        self._server = server
        self._caches = caches

    @property
    def mode(self) -> Mode:
        """See `Service.mode`."""
        return self._service.mode

    @property
    def running(self) -> int:
        """Return the number of running jobs of both."""
        return self._service.running + self._jobs.running

    def stop(self) -> None:
        """See `Service.stop`."""
        self._service.stop()
        self._jobs.stop()

    def abort(self, why: str) -> None:
        """See `Service.abort`."""
        self._service.abort(why)
        self._jobs.abort(why)

    def detach(self) -> None:
        """See `Service.detach`."""
        self._service.detach()
        self._jobs.detach()

    async def work(self) -> None:
        """See `Service.work`."""
        self._server.open()
        shrinking = lasting("the look for the room that caches take", lambda: _shrink(self._caches))
        try:
            await asyncio.gather(self._service.work(), self._jobs.work())
            await self._jobs.leave()  # not earlier: hooks come as long as the service has jobs of its own
        finally:
            self._server.close()
            await stop(shrinking)


async def _shrink(caches: CacheStore | None) -> None:
    """Drop caches when other files fill their disk, until cancelled."""
    while caches:
        await asyncio.to_thread(caches.shrink)
        await asyncio.sleep(_LOOK)
