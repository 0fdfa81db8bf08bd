"""GitLab's jobs beside the service's own, under the same signals."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runner.execution.lease import LeaseSource
from runner.gitlab.jobs import Jobs
from runner.gitlab.options import Options
from runner.gitlab.server import Server
from runner.service.service import Service


def beside(service: Service, leases: LeaseSource, folder: Path, options: Options) -> Service | Beside:
    """Return the service, with GitLab's jobs where hooks are listened for. Needs a running event loop."""
    if options.socket is None:
        return service
    metrics = service.records.metrics
    jobs = Jobs(leases, folder, options, metrics)
    return Beside(service, jobs, Server(options.socket, jobs, metrics))


class Beside:
    """A service and GitLab's jobs, told and waited for together."""

    def __init__(self, service: Service, jobs: Jobs, server: Server) -> None:
        self._service = service
        self._jobs = jobs
        self._server = server

    @property
    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._service.draining

    def drain(self) -> None:
        """See `Service.drain`."""
        self._service.drain()
        self._jobs.drain()

    def stop(self, why: str) -> None:
        """See `Service.stop`."""
        self._service.stop(why)
        self._jobs.stop(why)

    def detach(self) -> None:
        """See `Service.detach`."""
        self._service.detach()
        self._jobs.detach()

    async def work(self) -> None:
        """See `Service.work`."""
        self._server.open()
        try:
            await asyncio.gather(self._service.work(), self._jobs.work())
        finally:
            self._server.close()
