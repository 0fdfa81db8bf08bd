"""GitLab's jobs beside the service's own, under the same signals."""

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
"""Seconds between two looks whether the disk needs the room of caches."""


def with_service(service: Service, leases: NotedLeases, folder: Path, options: Options) -> Service | WithService:
    """Return the service, with GitLab's jobs where hooks are listened for. Needs a running event loop.

    They keep note of their leases themselves, also of one that the service took in advance; a note that cannot be read
    any more leaves its lease to the service, which returns it.
    """
    if options.socket is None:
        return service
    metrics = service.records.metrics
    jobs = Jobs(leases, folder, options, lambda: service.held, service.standby)
    service.leave_to_others(jobs.attempts)
    metrics.gitlab_jobs.set_function(lambda: len(jobs.live))
    return WithService(service, jobs, Server(options.socket, jobs, metrics), options.caches)


class WithService:
    """A service and GitLab's jobs, told and waited for together."""

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
        """How many jobs run, of both."""
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
            await self._jobs.leave()  # no sooner: hooks come as long as the service has jobs of its own
        finally:
            self._server.close()
            await stop(shrinking)


async def _shrink(caches: CacheStore | None) -> None:
    """Have caches make room for whatever else fills their disk, until cancelled."""
    while caches:
        await asyncio.to_thread(caches.shrink)
        await asyncio.sleep(_LOOK)
