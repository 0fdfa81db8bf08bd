"""Ends ad-hoc sandboxes that nobody uses any more: a small process of the host's, there while there are some.

Each command and program that makes one starts it, and finds it running. It is no daemon to install: it goes when the
last sandbox has gone. What it would have done, every command does too. It alone knows who is connected, from the
host's own table of connections, so nothing in a sandbox can pretend to be in use.

    python -m sandbox.adhoc FOLDER
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path

from sandbox import durable
from sandbox.adhoc.life import over
from sandbox.adhoc.record import Record
from sandbox.adhoc.store import Store, network_namespace
from sandbox.adhoc.walls import Enclosure
from sandbox.engine import Engine
from sandbox.errors import SandboxError

INTERVAL = 5.0
"""Seconds between two looks. What was connected for a moment between them is in the kernel's table a minute more."""
GIVES_UP = 3600.0
"""Seconds of failures in a row after which the reaper ends; the next command goes on where it was."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_SSH = 22
_TIME_WAIT, _TIME_WAIT_SECONDS, _TICKS = "06", 60.0, 100
"""TCP_TIMEWAIT_LEN of Linux, and the unit of the timers in its table (USER_HZ, proc(5))."""


def start(store: Store) -> None:
    """Have a reaper run, detached from this process and its terminal. It leaves the processor to everybody else."""
    with store.locked():  # under which a reaper leaves
        lock = _lock(store)
    if lock is None:
        return
    os.close(lock)
    command = ["nice", "-n", "10", sys.executable, "-m", "sandbox.adhoc", str(store.folder)]
    subprocess.run(
        [
            "sh",
            "-c",
            f"{shlex.join(command)} </dev/null >/dev/null 2>>{shlex.quote(str(store.folder / 'reaper.log'))} &",
        ],
        check=True,
        start_new_session=True,
        cwd="/",
    )


def sweep(store: Store, remove: Callable[[Record], None]) -> None:
    """Remove what is over. Raises the last `SandboxError` when something would not go; the rest has gone."""
    failed: SandboxError | None = None
    used = last_connected()
    for record in store.records():
        if record.access is not None and IPv4Address(record.access.address) in used:
            store.use(record, time.time() - used[IPv4Address(record.access.address)])
        idle = record.idle if record.network == network_namespace() else None
        if over(time.time(), record.ends, idle, store.last_used(record)):
            try:
                remove(record)
            except SandboxError as error:
                failed = error
    if failed:
        raise failed


def remove_strangers(store: Store, engine: Engine) -> None:
    """Remove what the engine has of this installation and no record tells of.

    Raises `EngineError`, or `ConfigError` when a record cannot be read: what it tells of is nobody's guess.
    """
    there = engine.names(store.installation)  # before the records: each is older than what it tells of
    for name in there - {str(record.sandbox) for record in store.records()}:
        engine.remove(store.installation, name)


def last_connected(tables: Iterable[Path] = _TABLES) -> dict[IPv4Address, float]:
    """Whom this host has a connection to on port 22, or had within a minute: how many seconds ago that was."""
    found: dict[IPv4Address, float] = {}
    for table in tables:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            _, _, remote, state, _, timer, *_ = line.split()
            address, port = remote.split(":")
            if int(port, 16) == _SSH:
                ago = _TIME_WAIT_SECONDS - int(timer.split(":")[1], 16) / _TICKS if state == _TIME_WAIT else 0.0
                whom = IPv4Address(bytes.fromhex(address[-8:])[::-1])
                found[whom] = max(0.0, min(ago, found.get(whom, ago)))
    return found


def main() -> None:
    """Look after one store until it is empty."""
    store, engine = Store(Path(sys.argv[1])), Engine()
    lock = _lock(store)
    if lock is None:
        return
    enclosure = Enclosure(store, engine)
    strangers = True
    last_success = time.monotonic()
    while time.monotonic() - last_success < GIVES_UP:
        try:
            if strangers:
                remove_strangers(store, engine)
                strangers = False
            _look(store, engine, enclosure)
            last_success = time.monotonic()
        except SandboxError as error:
            print(error, file=sys.stderr)
        with store.locked():  # a record that is written from now on is another reaper's
            if store.is_empty():
                os.close(lock)
                return
        time.sleep(INTERVAL)


def _lock(store: Store) -> int | None:
    """What the one reaper of a store holds; None while another one does."""
    return durable.lock(store.folder / "reaper.lock")


def _look(store: Store, engine: Engine, enclosure: Enclosure) -> None:
    def remove(record: Record) -> None:
        engine.remove(record.installation, str(record.sandbox))
        store.drop(record)

    walled = any(record.unwalled is None for record in store.records())
    sweep(store, remove)
    if walled:
        enclosure.stand()
