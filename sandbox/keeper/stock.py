"""The sandboxes of one keeper, shared by its threads: the pool, what each was made as, and the records of both."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sandbox.errors import Fault
from sandbox.keeper.builder import Built, Prepared
from sandbox.keeper.records import Records
from sandbox.logs import Action, Events
from sandbox.pool import Pool, Sandbox, Want
from sandbox.profile import Profile
from sandbox.rollout import short
from sandbox.state import IN_ADVANCE, State, can_be_condemned

events = Events("keeper")


class Stock:
    """The sandboxes and waiting requests. Read and change them only under `changed`, which is notified after a change.

    The methods notify by themselves, and may be called with `changed` held.
    """

    def __init__(self, profiles: Mapping[str, Profile], records: Records) -> None:
        self.changed = threading.Condition()
        self.records = records
        self.pool = Pool(profiles, records.keep)
        self.prepared: dict[str, Prepared] = {}
        """The sandboxes made in advance."""
        self.built: dict[str, Built] = {}
        self.wants: list[Want] = []
        """The requests that wait for a sandbox."""
        self.trouble = "none was ever made"
        """The last thing that went wrong: the answer to why there is no sandbox."""

    def add(self, name: str, built: Built) -> None:
        """Add a new sandbox that is fit."""
        with self.changed:
            self.built[name] = built
            self.records.keep_built(name, built)
            with self._images_told(name):
                self.pool.fit(name, time.monotonic())
            self.changed.notify_all()

    def put_aside(self, name: str, prepared: Prepared) -> None:
        """Add a sandbox that was made in advance."""
        with self.changed:
            sandbox = self.pool.get(name)
            if sandbox and sandbox.state is State.PREPARING:
                self.prepared[name] = prepared
                self.pool.prepared(name, time.monotonic())
                self.changed.notify_all()

    def take_over(self, sandbox: Sandbox, built: Built) -> Sandbox:
        """Take over a sandbox of an earlier life of the keeper."""
        with self.changed:
            self.built[sandbox.name] = built
            self.records.keep_built(sandbox.name, built)
            return self.pool.adopt(sandbox, time.monotonic())

    def remove(self, name: str) -> None:
        """Forget a sandbox: nothing of it is left."""
        with self.changed:
            self.pool.gone(name, time.monotonic())
            self.built.pop(name, None)
            self.prepared.pop(name, None)
            self.changed.notify_all()

    def condemn(self, name: str, fault: Fault, reason: str) -> None:
        """Mark a sandbox as unfit for another job: it is recreated, or held for a person where that was asked for."""
        with self.changed:
            sandbox = self.pool.get(name)
            if sandbox is None or not can_be_condemned(sandbox.state):  # another thread found it unfit first
                return
            if sandbox.state in IN_ADVANCE:
                self.pool.condemn(name, fault, reason, time.monotonic())
                events.info(Action.CONDEMNED, f"made in advance and given up ({fault}): {reason}", sandbox=name)
                self.changed.notify_all()
                return
            with self._images_told(name):
                sandbox = self.pool.condemn(name, fault, reason, time.monotonic())
            if not fault.is_quiet:
                self.trouble = reason
            tell = events.info if fault.is_quiet else events.warning
            then = "It is held for a person." if sandbox.state is State.HELD else "It is recreated."
            why = reason if fault is Fault.KEEPER_STOPPED else f"{reason} {then}"
            tell(Action.CONDEMNED, f"condemned ({fault}): {why}", sandbox=name)
            self.changed.notify_all()

    def end_what_ran_out(self, now: float) -> None:
        """End the leases and holds whose time is over."""
        with self.changed:
            for sandbox in self.pool.run_out(now):
                why = "Its lease ran out and its runner did not come back for it."
                self.condemn(sandbox.name, Fault.LEASE_EXPIRED, why)
            for sandbox in self.pool.held_too_long(now):
                self.condemn(sandbox.name, Fault.HOLD_OVER, "It was held for as long as was said.")

    def refused_images(self) -> list[str]:
        """Say what is wrong with each refused image, one sentence each."""
        with self.changed:
            refused = sorted((p, r) for p, r in self.pool.rollouts.items() if r.refused and p in self.pool.profiles)
            return [f"Profile {profile}: {rollout.sentence}" for profile, rollout in refused]

    @contextmanager
    def _images_told(self, name: str) -> Iterator[None]:
        """Log what happens to a new image in this block, which changes this sandbox."""
        sandbox = self.pool.get(name)
        rollout = self.pool.rollouts.get(sandbox.profile) if sandbox else None
        tried = rollout and rollout.candidate
        yield
        if not (sandbox and rollout and tried) or rollout.candidate:
            return
        if rollout.refused:
            events.error(Action.IMAGE_REFUSED, f"profile {sandbox.profile}: {rollout.sentence}")
        else:
            what = f"the new image {short(tried)} is fit; it replaces the others"
            events.info(Action.IMAGE_TAKEN, f"profile {sandbox.profile}: {what}")
