"""Makes, opens and removes ad-hoc sandboxes: first writes the record, then asks the engine; removes in reverse."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

from sandbox import config as configuration
from sandbox import host, readiness, ssh
from sandbox.adhoc import reaper
from sandbox.adhoc.order import Order
from sandbox.adhoc.record import Access, Record
from sandbox.adhoc.store import Store, default_folder, network_namespace
from sandbox.adhoc.walls import Enclosure
from sandbox.config import KeeperConfig
from sandbox.engine import Engine
from sandbox.errors import ConfigError, Fault, NoSuchSandbox, SandboxFault, SandboxUnreachable
from sandbox.identity import new_identity
from sandbox.maker import BOOT_DEADLINE, Maker
from sandbox.network import WallsDown, policy
from sandbox.profile import InnerDocker

CREATION = BOOT_DEADLINE + 120.0
"""Seconds that a creation may take; a sandbox that is not ready then was given up by its maker."""
CONNECT_DEADLINE = 10.0
_KEEPALIVE = 15
_SSH = 22
_REACH_DEADLINE = 10.0
_UNANSWERED = 30_000
"""Milliseconds without an answer until a connection counts as broken: a removed sandbox does not close it."""
_GENERATIONS = 0xFFFFFF
"""The number of sandboxes whose bridges' names differ."""

_PROFILE = "ad-hoc"
"""The value of the label that otherwise names a keeper's profile."""

Tell = Callable[[str], None]
"""Gets the progress, one short phrase at a time."""


class Machines:
    """A user's ad-hoc sandboxes on one engine."""

    def __init__(self, store: Store, engine: Engine, config: KeeperConfig) -> None:
        self.store = store
        self.engine = engine
        self.config = config
        self._enclosure = Enclosure(store, engine)

    @classmethod
    def of_user(cls, config: Path | None = None) -> Self:
        """Return this user's sandboxes on the engine that the environment names. Removes those whose life is over."""
        found = cls(Store(default_folder()), Engine(), configuration.load(config))
        if found.store.records():
            reaper.sweep(found.store, found.remove)
            reaper.start(found.store)
        return found

    def make(self, order: Order, tell: Tell) -> tuple[Record, ssh.Transport]:
        """Make a sandbox and log in to it. A failure leaves nothing behind.

        Raises `NameInUse`, `ConfigError`, `EngineError`, `SandboxFault` or `SandboxUnreachable`.
        """
        record = self._new(order)
        self.engine.image_id(order.profile.image)  # before the claim: a dead engine leaves no record to remove
        self.store.claim(record)
        try:
            reaper.start(self.store)
            tell("creating")
            record, transport = self._make(record, order, tell)
        except BaseException:
            with suppress(Exception):  # the reaper tries again
                self.remove(record)
            raise
        return record, transport

    def open(self, name: str) -> tuple[Record, ssh.Transport]:
        """Log in to a sandbox by name. Raises `NoSuchSandbox`, `SandboxFault` or `SandboxUnreachable`."""
        record = self.store.get(name)
        access = record.access
        if access is None:
            raise NoSuchSandbox(f"The sandbox {name} is still being made. Try again in a moment.")
        if access.client_key is None:
            raise SandboxUnreachable(f"The sandbox {name} belongs to a program that keeps its key to itself.")
        try:
            _check_reachable(access.address)
            deadline = time.monotonic() + CONNECT_DEADLINE
            return record, _log_in(
                readiness.connect(access.address, deadline), access.host_key, access.client_key, deadline
            )
        except (SandboxUnreachable, SandboxFault):
            self.check_running(record)  # only after a failure: a login that works needs no engine
            raise

    def check_running(self, record: Record) -> None:
        """Raise `SandboxFault` when the sandbox's container does not run, so that no login is possible."""
        running = {one.name: one.running for one in self.engine.owned(record.installation)}.get(str(record.sandbox))
        if not running:
            fault, state = (Fault.GONE, "gone") if running is None else (Fault.STOPPED, "stopped")
            raise SandboxFault(
                fault, f"The sandbox {record.name} is {state}. `sandbox reset {record.name}` makes it anew."
            )

    def remove(self, record: Record) -> None:
        """Remove a sandbox with everything in it. Raises `EngineError` when something cannot be removed."""
        self.engine.remove(record.installation, str(record.sandbox))
        self.store.drop(record)
        with suppress(WallsDown):  # the other walls still stand, or never stood
            self._enclosure.stand()

    # -- inside --------------------------------------------------------------------------------------------------

    def _new(self, order: Order) -> Record:
        now = time.time()
        resolvers = host.look().nameservers
        try:
            reach = policy(order.profile, self.config.openings, self.config.closings, resolvers)
        except ValueError as error:
            raise ConfigError(f"The profile is wrong: {error}.") from None
        return Record(
            name=order.name,
            installation=self.store.installation,
            generation=1 + secrets.randbelow(_GENERATIONS - 1),
            profile=order.profile,
            docker=order.docker,
            policy=reach,
            life=order.life,
            made=now,
            ends=now + CREATION,
            idle=None,
            network=network_namespace(),
        )

    def _make(self, record: Record, order: Order, tell: Tell) -> tuple[Record, ssh.Transport]:
        record = self._enclosure.erect(record)
        identity = new_identity(str(record.sandbox))
        places: list[IPv4Network] = []
        maker = Maker(self.engine, self.config.network_range)
        ssh.load()  # now, while nothing else needs the processor: the login comes soon
        container = maker.make(record.sandbox, _PROFILE, order.profile, identity, places.append, order.docker)
        there = {"container": container, "subnet": places[0], "unwalled": record.unwalled}
        record = self._enclosure.erect(self.store.change(record, lambda now: now.model_copy(update=there)))
        tell("booting")
        keys = identity.host.public, identity.client.private
        with maker.booting(container, order.profile) as boot:
            _check_reachable(boot.address)
            transport = _log_in(boot.dial(), *keys, boot.deadline)
            if order.docker is InnerDocker.EAGER:
                readiness.probe(transport, boot.deadline)
        access = Access(address=boot.address, host_key=keys[0], client_key=keys[1] if order.keeps_key else None)
        ready = {"access": access, "unwalled": record.unwalled}
        return self.store.change(record, lambda now: _living(now).model_copy(update=ready)), transport


def _living(record: Record) -> Record:
    """Return the record of a finished creation, with the life that was ordered, or that `hold` has set since."""
    if record.ends != record.made + CREATION:
        return record
    return record.model_copy(update={"ends": record.made + record.life.ttl, "idle": record.life.idle})


def _check_reachable(address: str) -> None:
    """Check the address: sandboxes of an engine in a virtual machine or another network namespace cannot be reached."""
    try:
        socket.create_connection((address, _SSH), timeout=_REACH_DEADLINE).close()
    except ConnectionRefusedError:  # the sandbox has not booted yet
        return
    except OSError as error:
        raise SandboxUnreachable(
            f"The sandbox's address {address} cannot be reached from here ({error}). The Docker Engine must be on this "
            "host and in this network namespace: one in a virtual machine is not. Run this where the engine runs."
        ) from error


def _log_in(sock: socket.socket, host_key: str, client_key: str, deadline: float) -> ssh.Transport:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED)
    transport = ssh.login(sock, host_key, client_key, deadline)
    transport.set_keepalive(_KEEPALIVE)
    return transport
