"""The keeper: starts, reconciles and stops the sandboxes that its profiles ask for."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network

from sandbox.acts import Act, Create, Destroy, Prepare, Start, Try
from sandbox.config import KeeperConfig
from sandbox.daemons import Daemons, lost, still_there
from sandbox.engine import Engine, Owned, StaleSocket
from sandbox.errors import EngineError, Fault, SandboxError
from sandbox.keeper.adoption import adoptable
from sandbox.keeper.builder import Builder
from sandbox.keeper.guard import Guard
from sandbox.keeper.home import Home
from sandbox.keeper.images import Images
from sandbox.keeper.metrics import Metrics
from sandbox.keeper.parts import Parts
from sandbox.keeper.records import Records
from sandbox.keeper.stock import Stock
from sandbox.keeper.storage import Storage
from sandbox.keeper.verbs import Verbs
from sandbox.keeper.watch import HostWatch
from sandbox.keeper.workers import Workers
from sandbox.logs import Action, Events
from sandbox.network import Walls, subnet_of
from sandbox.profile import SYSBOX
from sandbox.state import BEING_MADE, IN_ADVANCE, State
from sandbox.template import SandboxName

events = Events("keeper")

RECONCILE_INTERVAL = 1.0
LEFTOVERS_INTERVAL = 30.0
"""Seconds between two searches for networks and volumes that belong to no sandbox."""
LEFTOVERS_PATIENCE = 10.0
"""Seconds that the start waits for leftovers of an earlier life to go, so that new sandboxes find room. Running jobs
wait for the keeper meanwhile."""
_AT_REST = frozenset({State.READY, State.LEASED, State.ORPHANED, State.HELD})
_MADE = _AT_REST | {State.INSPECTING}


class _Parting(Enum):
    """What `stop` does about running jobs."""

    WAITS = auto()
    ENDS_THEM = auto()
    LEAVES_ALL = auto()


class Keeper:
    """Owns the sandboxes of one installation.

    `run` reconciles until `stop` or `detach`. Any thread may call the `verbs` while it runs.
    """

    def __init__(
        self,
        config: KeeperConfig,
        engine: Engine,
        home: Home,
        builder: Builder | None = None,
        walls: Walls | None = None,
        watch: HostWatch | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`watch` must be the one that `engine` reports its calls to; `metrics` the one that `watch` counts with."""
        self._engine = engine
        self._builder = builder or Builder(engine, config.network_range)
        self._home = home
        self._records = Records(home.records)
        self._stock = Stock(config.profiles, self._records)
        self._guard = Guard(config, walls or Walls(home.installation))
        metrics = metrics or Metrics(config.profiles)
        self._watch = watch or HostWatch(metrics)
        self._images = Images(self._stock, engine)
        self._storage = Storage(config, self._stock, engine, self._builder)
        self._daemons = Daemons(engine.shows_its_host)
        parts = Parts(
            home, engine, self._stock, self._builder, self._guard, self._watch, self._daemons, self._storage, metrics
        )
        self._workers = Workers(parts)
        self.verbs = Verbs(parts, self._workers)
        self._stopping = threading.Event()
        self._parting = _Parting.WAITS
        self._next_leftovers = 0.0

    # -- its beginning -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check that sandboxes can be made, then take over or remove the sandboxes of an earlier life.

        Raises `EngineError` or `WallsDown`.
        """
        self._engine.check_storage()
        self._look_at_daemons()
        for name, profile in self._stock.pool.profiles.items():
            self._engine.check(profile.runtime, profile.image)
            what = f"profile {name}: image {profile.image}, runtime {profile.runtime}, {profile.warm} warm"
            events.info(Action.PROFILE_KEPT, what)
            if profile.runtime != SYSBOX:
                weaker = f"runtime {profile.runtime} was asked for; it is not the wall that sysbox-runc is"
                events.warning(Action.RUNTIME_WEAKER, f"profile {name}: {weaker}")
        self._adopt()

    def _adopt(self) -> None:
        profiles = self._stock.pool.profiles
        records = self._records.load()
        adopted = adoptable(self._engine, self._builder, self._home.installation, profiles, records)
        names = {sandbox.name for sandbox, _ in adopted}
        self._records.forget_others(names)
        self._remove_leftovers(names)
        self._guard.look(self._engine.taken_subnets("bridge"))  # walls must stand before the first sandbox
        for sandbox, built in adopted:
            name = SandboxName(self._home.installation, sandbox.generation)
            self._guard.admit(name, subnet_of(IPv4Address(built.address)), sandbox.profile)
            self._stock.take_over(sandbox, built)
        self._images.look()  # after the adopted sandboxes, which tell the image in use
        for sandbox in self._stock.pool:
            if sandbox.state is State.INSPECTING:
                self._workers.prove_after_job(sandbox.name)
        self._storage.start()

    def _remove_leftovers(self, kept: set[str]) -> None:
        """Remove the leftovers of an earlier life. Waits `LEFTOVERS_PATIENCE`; the rest goes in the background.

        A leftover sandbox is like any other on its way out: when its removal fails it is `stuck` and retried. A
        leftover of a profile that no longer exists takes up no place; each comparison with the engine tries to remove
        it.
        """
        installation, pool = self._home.installation, self._stock.pool
        found = self._engine.profiles(installation)
        with self._stock.changed:
            for text, profile in found.items():
                name = SandboxName.read(text)
                if name and name.installation == installation and profile in pool.profiles and text not in kept:
                    pool.leave(text, name.generation, profile, time.monotonic())
                    self._workers.begin(Destroy(text))
            began = len(list(pool))
            self._stock.changed.wait_for(lambda: all(s.state is State.STUCK for s in pool), LEFTOVERS_PATIENCE)
            left = [sandbox.name for sandbox in pool]
        if gone := began - len(left):
            what = f"removed {gone} sandboxes that an earlier life of this keeper left behind"
            events.info(Action.LEFTOVERS_REMOVED, what)
        if left:
            what = (
                f"an earlier life of this keeper left {', '.join(left)}, not removed yet; the keeper starts beside them"
            )
            events.warning(Action.REMOVAL_FAILED, what)

    # -- its days ------------------------------------------------------------------------------------------------

    def run(self, give_up: Callable[[], None] = lambda: None) -> None:
        """Reconcile until told to stop. A failing pass is logged and retried: this loop does not die.

        Calls `give_up` when only a new process can go on: the engine's socket, as this process has it, is a dead file.
        """
        trouble = ""
        while not self._stopping.is_set():
            try:
                self.reconcile_once()
                trouble = ""
            except StaleSocket as error:
                events.error(Action.GAVE_UP, f"giving up, to be started again: {error}")
                give_up()
                return
            except SandboxError as error:
                if str(error) != trouble:
                    events.error(Action.RECONCILE_FAILED, f"cannot look after the sandboxes: {error}")
                trouble = self._stock.trouble = str(error)
            except Exception as error:  # noqa: BLE001 - this loop does not die
                if repr(error) != trouble:
                    events.error(Action.DEFECT, "cannot look after the sandboxes: a defect in the keeper", error=error)
                trouble = self._stock.trouble = repr(error)
            with self._stock.changed:
                self._stock.changed.wait(RECONCILE_INTERVAL)

    def reconcile_once(self) -> None:
        """Compare the pool with the engine and start the planned acts. Raises `EngineError` or `WallsDown`."""
        self._watch.look()
        self._look_at_daemons()  # first, as it needs no engine: the engine may be down together with the daemons
        if self._watch.listing_due():
            self._compare()
            self._images.look()
        now, pool = time.monotonic(), self._stock.pool
        with self._stock.changed:
            if self._stopping.is_set():
                return
            self._stock.end_what_ran_out(now)
            for sandbox in pool.to_evict(self._stock.wants):
                why = "A job of another trust key needs its place."
                self._stock.condemn(sandbox.name, Fault.OTHER_TRUST_KEY, why)
            for action in pool.plan(now):
                if self._admits(action):
                    self._workers.begin(action)
            idle = {self._stock.built[s.name].container_id: s.name for s in pool if s.state is State.READY}
            if (container := self._watch.admits_trial(frozenset(idle))) is not None:
                self._workers.try_runtime(idle[container])

    def _admits(self, action: Act) -> bool:
        """Whether the host can bear this act now."""
        if isinstance(action, Create | Prepare | Start | Try):
            runtime = self._stock.pool.profiles[action.profile].runtime
            if self._storage.refusal or self._daemons.refusal([runtime]):
                return False
        return self._watch.admits(action, sum(s.state in BEING_MADE for s in self._stock.pool))

    def _look_at_daemons(self) -> None:
        """Check which daemons of the runtimes run, and condemn sandboxes whose daemon has ended."""
        with self._stock.changed:
            built = {s.name: self._stock.built[s.name] for s in self._stock.pool if s.state in _MADE}
        # Before the look below: otherwise a daemon that ends in between costs its sandboxes while it still counts as
        # running, and others are made that cannot work either.
        there = still_there({daemon for each in built.values() for daemon in each.rests_on})
        runtimes = [profile.runtime for profile in self._stock.pool.profiles.values()]
        before = self._daemons.refusal(runtimes)
        self._daemons.look(runtimes)
        now = self._daemons.refusal(runtimes)
        if now and not before:
            events.warning(Action.HOST_CHANGED, now)
        elif before and not now:
            events.info(Action.HOST_CHANGED, "The host: what its container runtime rests on runs again.")
        for name, each in built.items():
            if fault := lost(each.rests_on, there):
                self._stock.condemn(name, fault.fault, str(fault))

    def _compare(self) -> None:
        """Bring the pool in line with what the engine has."""
        began = time.monotonic()
        listed = {found.name: found for found in self._engine.owned(self._home.installation)}
        there = listed.keys() | self._leftovers(began)
        subnets = self._engine.taken_subnets("bridge")
        self._guard.look(subnets)
        with self._stock.changed:
            self._condemn_what_stopped(listed, began)
            self._give_up_what_was_taken_away(listed, subnets, began)
            for name in there - {sandbox.name for sandbox in self._stock.pool}:
                if not self._stopping.is_set() and self._admits(Destroy(name)):
                    self._workers.remove_stranger(name)

    def _condemn_what_stopped(self, listed: dict[str, Owned], began: float) -> None:
        for sandbox in self._stock.pool:
            found = listed.get(sandbox.name)
            # The listing says nothing about a sandbox that moved while it was being made.
            settled = sandbox.state in _AT_REST and sandbox.since < began
            if settled and not (found and found.running):
                fault, what = (Fault.STOPPED, found.status) if found else (Fault.GONE, "it is gone")
                self._stock.condemn(sandbox.name, fault, f"Its container does not run any more: {what}.")

    def _give_up_what_was_taken_away(
        self, listed: Mapping[str, Owned], subnets: Collection[IPv4Network], began: float
    ) -> None:
        """Give up prepared sandboxes that `docker container prune` or `docker network prune` took as unused."""
        for sandbox in self._stock.pool:
            if sandbox.state is not State.PREPARED or sandbox.since >= began:
                continue
            found = listed.get(sandbox.name)
            if found is None or found.running or self._stock.prepared[sandbox.name].created.subnet not in subnets:
                self._stock.condemn(sandbox.name, Fault.GONE, "Its container or network was removed, or started.")

    def _leftovers(self, now: float) -> set[str]:
        """Every `LEFTOVERS_INTERVAL`, return the names of all networks and volumes, also those without a container."""
        if now < self._next_leftovers:
            return set()
        self._next_leftovers = now + LEFTOVERS_INTERVAL
        return self._engine.names(self._home.installation)

    # -- its end -------------------------------------------------------------------------------------------------

    def stop(self, patience: float) -> None:
        """Lend no more, wait up to `patience` seconds for jobs, then remove every sandbox without a job.

        Sandboxes still lent then are left running for the next keeper. After `hurry`, nothing is waited for or left;
        after `leave`, this acts as `detach`.
        """
        self._close()
        self._wait_for_jobs(time.monotonic() + patience)
        if self._parting is _Parting.LEAVES_ALL:
            self.detach()
            return
        self._storage.stop()
        with self._stock.changed:
            lent = {sandbox.name for sandbox in self._stock.pool if sandbox.lease is not None}
        left_running = set() if self._parting is _Parting.ENDS_THEM else lent
        for name in lent - left_running:  # its runner asks when the connection breaks, and nobody answers later
            self._stock.condemn(name, Fault.KEEPER_STOPPED, "The keeper was told to stop at once.")
        self._workers.stop(wait=False)
        removed = 0
        with suppress(EngineError):  # failures are retried and reported below
            removed = self._remove_all_but(left_running)
        # A creation that was under way fails now that its container is gone, and may have left something meanwhile.
        self._workers.stop(wait=True)
        removed += self._remove_all_but(left_running)
        self._records.forget_others(left_running)
        if left_running:
            left = f"left {len(left_running)} sandboxes with jobs for the next keeper; `sandbox purge` removes them"
            events.warning(Action.LEFT_RUNNING, left)
        else:
            self._guard.take_down()
        events.info(Action.STOPPED, f"removed {removed} sandboxes; stopped")

    def detach(self) -> None:
        """Stop at once and leave every sandbox as it is for the next keeper."""
        self._close()
        self._storage.stop()
        self._workers.stop(wait=True)
        for name in list(self._stock.prepared):
            with suppress(EngineError):  # the next keeper tries again
                self._engine.remove(self._home.installation, name)
        left = sum(sandbox.state not in IN_ADVANCE for sandbox in self._stock.pool)
        events.info(Action.STOPPED, f"stopped; {left} sandboxes are left for the next keeper")

    def follow(self, config: KeeperConfig) -> None:
        """Use another configuration: for sandboxes made from now on, and at once for the networks and the disk.

        Raises `ConfigError`, and changes nothing, when a profile with sandboxes is missing.
        """
        with self._stock.changed:
            self._stock.pool.follow(config.profiles)
            self._guard.follow(config)
            self._storage.follow(config)
            self._images.forgive()
            self._stock.changed.notify_all()
        events.info(Action.CONFIGURATION_READ, "the configuration was read anew")

    def hurry(self) -> None:
        """Make `stop` wait no longer, and end the running jobs."""
        self._part(_Parting.ENDS_THEM)

    def leave(self) -> None:
        """Make `stop` wait no longer, and leave everything for the next keeper."""
        self._part(_Parting.LEAVES_ALL)

    def _part(self, how: _Parting) -> None:
        with self._stock.changed:
            self._parting = how
            self._stock.changed.notify_all()

    def _close(self) -> None:
        self._stopping.set()
        self.verbs.close()

    def _wait_for_jobs(self, deadline: float) -> None:
        """Wait until no lease is being renewed, or the `deadline` passes."""
        told = 0
        with self._stock.changed:
            while self._parting is _Parting.WAITS and (left := deadline - time.monotonic()) > 0:
                self._stock.end_what_ran_out(time.monotonic())
                lent = sum(sandbox.state is State.LEASED for sandbox in self._stock.pool)
                if lent == 0:
                    return
                if lent != told:
                    events.info(Action.WAITING, f"waiting for {lent} running jobs")
                told = lent
                self._stock.changed.wait(min(left, RECONCILE_INTERVAL))

    def _remove_all_but(self, kept: set[str]) -> int:
        """Remove everything of this installation except these sandboxes. Returns how many sandboxes went.

        Tries everything, then raises the first `EngineError`.
        """
        removed = 0
        refusals: list[EngineError] = []
        for name in self._engine.names(self._home.installation) - kept:
            try:
                removed += bool(self._engine.remove(self._home.installation, name))
            except EngineError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return removed
