"""Serves the API for as long as the service works, and stops it on a signal or after a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from runner.errors import InputError, StateError
from runner.logs import Action, Events

_events = Events(__name__)

LAST_READS = 5
"""Seconds that followers of a log have to read its end when the service stops."""


class _Server(uvicorn.Server):
    """Leaves signals to us: the API stays up while running jobs end. `listening` is called once clients can connect."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate with its chain, and its key, as PEM files. Raises InputError when they cannot be used."""

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, _no_password
            )
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            raise InputError(
                f"The certificate {self.certificate} and the key {self.key} cannot be used: {error}."
            ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is asked for its password")


class Works(Protocol):
    """What the API serves: see `Service`."""

    @property
    def running(self) -> int:
        """The number of running jobs."""
        ...

    def stop(self) -> None:
        """Take no more jobs and start none; end when nothing runs."""

    def abort(self, why: str) -> None:
        """Stop, and end the running jobs too."""

    def detach(self) -> None:
        """Leave the running jobs running."""

    async def work(self) -> None:
        """Work until there is nothing to do."""


async def serve(
    service: Works,
    app: FastAPI,
    host: str,
    port: int,
    tls: Tls | None = None,
    max_run_time: float | None = None,
    reread: Callable[[], None] | None = None,
    listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve until the service has no more work after a signal. Raises StateError when the address cannot be used.

    TERM and INT stop the service: running jobs end first, and waiting jobs wait for its next life. A second of these
    signals, or QUIT, ends the running jobs. USR1 detaches: running jobs go on in their sandboxes. After `max_run_time`
    seconds the service stops by itself. HUP calls `reread`. `listening` is called once requests and signals are
    answered.
    """
    _handle_signals(service)
    if reread:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reread)
    if max_run_time is not None:
        asyncio.get_running_loop().call_later(max_run_time, _time_is_over, service, max_run_time)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        log_config=None,  # uvicorn's messages go through our log
        timeout_graceful_shutdown=LAST_READS,
        lifespan="off",
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    server = _Server(config, listening)
    serving = asyncio.create_task(_serve(server, host, port))
    working = asyncio.create_task(service.work())
    await asyncio.wait([serving, working], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        service.detach()  # the jobs of an earlier life must not end because a port is taken
    await working
    server.should_exit = True
    await serving


async def _serve(server: uvicorn.Server, host: str, port: int) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn exits when it cannot listen
        raise StateError(
            f"The API cannot listen on {host}:{port}; is the port taken? Give another --listen."
        ) from error


def _time_is_over(service: Works, seconds: float) -> None:
    what = f"stopping: the runner has run for {seconds:g} s, and was told to run no longer"
    _events.info(Action.STOPPING, what)
    service.stop()


def _handle_signals(service: Works) -> None:
    loop = asyncio.get_running_loop()

    earlier = itertools.count()  # counts signals alone: a stop by command, or by time, was not meant to end jobs

    def stop_or_abort() -> None:
        if next(earlier):
            service.abort("it was told twice to stop.")
        else:
            service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_or_abort)
    loop.add_signal_handler(signal.SIGQUIT, service.abort, "it was told to stop at once.")
    loop.add_signal_handler(signal.SIGUSR1, service.detach)
