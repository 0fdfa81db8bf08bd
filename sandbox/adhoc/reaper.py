"""Removes ad-hoc sandboxes that nobody uses any more: a small process on the host, while there are sandboxes.

Each command or program that makes a sandbox starts the reaper, unless it runs already. It is no daemon to install: it
ends with the last sandbox. Every command also does the reaper's work, but only the reaper watches the connections all
the time. It reads them from the host's own table, so nothing in a sandbox can pretend to be in use.

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
"""Seconds between two looks. A short connection between them stays in the kernel's table for a minute."""
GIVES_UP = 3600.0
"""Seconds of failures in a row after which the reaper ends; the next command continues its work."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_SSH = 22
_TIME_WAIT, _TIME_WAIT_SECONDS, _TICKS = "06", 60.0, 100
"""Linux's state and TCP_TIMEWAIT_LEN, and the unit of the timers in its table (USER_HZ, proc(5))."""


def start(store: Store) -> None:
    """Start a reaper if none runs, detached from this process and its terminal, with low priority (nice)."""
    with store.locked():  # a reaper ends only under this lock
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
    """Remove sandboxes whose life is over. Raises the last `SandboxError` of a removal, after trying all of them."""
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
    """Remove this installation's objects on the engine that have no record.

    Raises `EngineError`, or `ConfigError` when a record cannot be read, since its objects are then unknown.
    """
    there = engine.names(store.installation)  # before the records: each is older than its objects
    for name in there - {str(record.sandbox) for record in store.records()}:
        engine.remove(store.installation, name)


def last_connected(tables: Iterable[Path] = _TABLES) -> dict[IPv4Address, float]:
    """Return each address to whose port 22 this host was connected within the last minute, and the seconds since."""
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
    """Reap one store's sandboxes until it is empty."""
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
        with store.locked():  # a later record is the next reaper's
            if store.is_empty():
                os.close(lock)
                return
        time.sleep(INTERVAL)


def _lock(store: Store) -> int | None:
    """Take the lock that the one reaper of a store holds; None while another reaper holds it."""
    return durable.lock(store.folder / "reaper.lock")


def _look(store: Store, engine: Engine, enclosure: Enclosure) -> None:
    def remove(record: Record) -> None:
        engine.remove(record.installation, str(record.sandbox))
        store.drop(record)

    walled = any(record.unwalled is None for record in store.records())
    sweep(store, remove)
    if walled:
        enclosure.stand()
