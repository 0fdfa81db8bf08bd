"""`Sandbox`: a throw-away machine with Docker in it, for programs."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox import config as configuration
from sandbox import ssh
from sandbox.adhoc.life import PASSING, Life
from sandbox.adhoc.machine import Machines, Tell
from sandbox.adhoc.order import Order, profile_of
from sandbox.adhoc.record import Record
from sandbox.adhoc.session import Session
from sandbox.adhoc.store import Store, default_folder
from sandbox.engine import Engine
from sandbox.errors import NoSuchSandbox
from sandbox.logs import Action, Events
from sandbox.profile import InnerDocker, Profile

events = Events("sandbox")


def _tell(sentence: str) -> None:
    events.info(Action.PROGRESS, sentence)


class Sandbox(Session):
    """A sandbox that is made on entering its block, and removed on leaving it.

        with Sandbox() as box:
            box.run("docker run --rm hello-world").check()

    The process that made the sandbox stays connected to it. If that process is killed, the sandbox is removed two
    minutes later; in any case at the end of its `ttl`.
    """

    def __init__(
        self,
        profile: str | Profile = configuration.DEFAULT_PROFILE,
        *,
        cpus: float | None = None,
        memory: str | int | None = None,
        image: str | None = None,
        docker: InnerDocker | str = InnerDocker.EAGER,
        ttl: float = PASSING.ttl,
        idle: float | None = PASSING.idle,
        config: Path | None = None,
        tell: Tell = _tell,
    ) -> None:
        """`profile` is the name of a profile in the file `config`, or a profile itself. `cpus` (cores), `memory`
        (bytes, or `"8GiB"`) and `image` replace the profile's values.

        `docker="lazy"` starts the sandbox's own Docker Engine when it is first used. `ttl` and `idle` are seconds.
        `tell` gets the progress. Nothing is made before `start`. Raises `ConfigError`.
        """
        settings = configuration.load(config)
        self._order = Order(
            name=f"tmp-{secrets.token_hex(3)}",
            profile=profile_of(settings, profile, cpus, memory, image),
            life=Life(ttl, idle),
            docker=InnerDocker(docker),
        )
        self._tell = tell
        self._machines = Machines(Store(default_folder()), Engine(), settings)
        self._record: Record | None = None
        self._transport: ssh.Transport | None = None

    @property
    def name(self) -> str:
        """Return the sandbox's name in `sandbox ls`."""
        return self._order.name

    @property
    def record(self) -> Record:
        """Return the sandbox's record. Raises `NoSuchSandbox` while there is no sandbox."""
        if self._record is None:
            raise NoSuchSandbox("The sandbox is not there: it was not started yet, or closed. Use it in its block.")
        return self._record

    @property
    def transport(self) -> ssh.Transport:
        """See `Session`. Raises `NoSuchSandbox` while there is no sandbox."""
        if self._transport is None:
            raise NoSuchSandbox("The sandbox is not there: it was not started yet, or closed. Use it in its block.")
        return self._transport

    def start(self) -> Self:
        """Make the sandbox, unless it exists. Raises `EngineError`, `SandboxFault` or `SandboxUnreachable`."""
        if self._record is None:
            began = time.monotonic()
            self._record, self._transport = self._machines.make(self._order, self._tell)
            self._tell(f"ready in {time.monotonic() - began:.1f} s")
            if self._record.unwalled:
                what = f"No walls stand around the sandbox {self.name}: {self._record.unwalled}"
                events.warning(Action.UNWALLED, what)
        return self

    def reset(self) -> None:
        """Throw the sandbox away and make another one, with new keys, as fresh as a new `Sandbox`."""
        self.close()
        self._order = replace(self._order, name=f"tmp-{secrets.token_hex(3)}")
        self.start()

    def close(self) -> None:
        """Remove the sandbox with everything in it. Raises `EngineError` on failure; the reaper then tries again."""
        record, transport = self._record, self._transport
        self._record = self._transport = None
        if transport is not None:
            transport.close()
        if record is not None:
            self._machines.remove(record)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
