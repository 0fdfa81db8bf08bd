"""A service's state folder, opened as often as a test wants lives."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.execution.lease import LeaseSource
from runner.execution.options import Settings
from runner.service.housekeeping import Housekeeper
from runner.service.leases import NotedLeases
from runner.service.limits import Limits
from runner.service.records import Records
from runner.service.service import SETTINGS, Service
from runner.service.standby import Standby
from runner.service.uploads import Uploads
from runner.service.webhooks import Webhooks
from runner.store.database import Database
from runner.store.deliveries import Deliveries
from runner.store.jobs import Jobs
from runner.store.leases import LeaseNotes
from runner.store.seal import Seal
from runner.store.tokens import Tokens

ONE_SLOT = Limits(1)


@dataclass
class State:
    """One opening of a state folder. It holds no lock: a life that a test ends abruptly stays open beside the next."""

    folder: Path

    def __post_init__(self) -> None:
        self.database = Database(self.folder / "runner.db")
        self.database._writer.execute("PRAGMA busy_timeout=0")  # what is locked stays so as long as a test wants
        self.seal = Seal(self.folder / "key")
        self.jobs = Jobs(self.database, self.seal)
        self.leases = LeaseNotes(self.database, self.seal)
        self.tokens = Tokens(self.database)
        self.deliveries = Deliveries(self.database)

    @cached_property
    def records(self) -> Records:
        # A thread of the life before may be in the middle of a write: a process that ended would have let go of it.
        self.database._writer.execute("PRAGMA busy_timeout=10000")
        made = Records(self.jobs, self.folder / "logs", Uploads(self.folder / "uploads"), self.folder / "artifacts")
        self.database._writer.execute("PRAGMA busy_timeout=0")
        return made


def service_of(
    state: State,
    leases: LeaseSource,
    limits: Limits = ONE_SLOT,
    *,
    settings: Settings = SETTINGS,
    standby: Callable[[LeaseSource], Standby] | None = None,
    webhooks: Webhooks | None = None,
) -> Service:
    """A service on a state folder, as `serve` makes it."""
    noted = NotedLeases(leases, state.leases)
    ahead = standby(noted) if standby else None
    return Service(noted, state.records, limits, ahead, settings, Housekeeper(state.records), webhooks)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody can write to the database of a state folder."""
    other = sqlite3.connect(folder / "runner.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()
