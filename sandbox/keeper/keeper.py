"""The keeper: keeps the pool as its profiles say, and lends from it. A thin shell around `pool` and `builder`."""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sandbox import readiness
from sandbox.config import KeeperConfig
from sandbox.engine import Engine
from sandbox.errors import ConfigError, EngineError, Fault, KeeperRefused, SandboxError, SandboxFault
from sandbox.keeper import protocol
from sandbox.keeper.builder import Builder, Built, as_fault
from sandbox.keeper.home import Home
from sandbox.pool import LEASE_TERM, Create, Destroy, Pool, Probe, Sandbox, Want
from sandbox.state import State
from sandbox.template import LOGIN_USER, SandboxName

log = logging.getLogger("keeper")

RECONCILE_INTERVAL = 1.0
CONNECT_DEADLINE = 5.0
_WORKERS = 16


class Keeper:
    """Owns the warm pool of one installation.

    `run` reconciles until `stop`; the verbs may be called from any thread while it runs.
    """

    def __init__(self, config: KeeperConfig, engine: Engine, home: Home, builder: Builder | None = None) -> None:
        self._engine = engine
        self._builder = builder or Builder(engine, config.network_range)
        self._home = home
        self._pool = Pool(config.profiles)
        self._built: dict[str, Built] = {}
        self._wants: list[Want] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._strangers: set[str] = set()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="keeper")
        self._last_trouble = "none was ever made"

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check that sandboxes can be made, and remove what an earlier life left behind. Raises `EngineError`."""
        for name, profile in self._pool.profiles.items():
            self._engine.check(profile.runtime, profile.image)
            log.info("profile %s: image %s, runtime %s, %d warm", name, profile.image, profile.runtime, profile.warm)
            if profile.runtime != "sysbox-runc":
                log.warning(
                    "profile %s: runtime %s was asked for; it is not the wall that sysbox-runc is",
                    name,
                    profile.runtime,
                )
        if left := self._engine.remove(self._home.installation):
            log.info("removed %d sandboxes that an earlier life of this keeper left behind", left)

    def run(self) -> None:
        """Reconcile until `stop` is called. A failing pass is logged and tried again: this loop does not die."""
        trouble = ""
        while not self._stopping.is_set():
            try:
                self.reconcile_once()
                trouble = ""
            except SandboxError as error:
                if str(error) != trouble:
                    log.error("cannot look after the sandboxes: %s", error)  # noqa: TRY400 - the sentence says it all
                trouble = self._last_trouble = str(error)
            except Exception as error:
                if repr(error) != trouble:
                    log.exception("cannot look after the sandboxes: a defect in the keeper")
                trouble = self._last_trouble = repr(error)
            with self._changed:
                self._changed.wait(RECONCILE_INTERVAL)

    def stop(self, patience: float) -> None:
        """Lend no more, wait up to `patience` seconds for what is lent, then remove every sandbox.

        A job whose lease is not renewed any more is not waited for, and after `hurry` none is.
        """
        deadline = time.monotonic() + patience
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
            told = 0
            while (lent := self._lent(time.monotonic())) and (left := deadline - time.monotonic()) > 0:
                if self._hurried.is_set():
                    break
                if lent != told:
                    log.info("waiting for %d running jobs", lent)
                told = lent
                self._changed.wait(min(left, RECONCILE_INTERVAL))
        self._workers.shutdown(wait=False, cancel_futures=True)
        removed = 0
        with suppress(EngineError):  # what does not go is tried once more, and told, below
            removed = self._engine.remove(self._home.installation)
        # A creation that was under way fails now that its container is gone, and may have left something meanwhile.
        self._workers.shutdown(wait=True)
        removed += self._engine.remove(self._home.installation)
        log.info("removed %d sandboxes; stopped", removed)

    def hurry(self) -> None:
        """Let `stop` wait no longer. Safe in a signal handler."""
        self._hurried.set()

    def reconcile_once(self) -> None:
        """Compare the pool with the engine and start what should be done. Raises `EngineError`."""
        began = time.monotonic()
        listed = {found.name: found for found in self._engine.owned(self._home.installation)}
        now = time.monotonic()
        with self._changed:
            if self._stopping.is_set():
                return
            for sandbox in self._pool:
                found = listed.get(sandbox.name)
                # The listing says nothing about one that moved while it was being made.
                settled = sandbox.state in (State.READY, State.LEASED) and sandbox.since < began
                if settled and not (found and found.running):
                    fault, what = (Fault.STOPPED, found.status) if found else (Fault.GONE, "it is gone")
                    self._condemn(sandbox.name, fault, f"Its container does not run any more: {what}.")
            for name in listed.keys() - {sandbox.name for sandbox in self._pool} - self._strangers:
                # Made by a call that was given up, and finished after its sandbox had been removed.
                self._strangers.add(name)
                self._submit(name, self._remove_stranger, name)
            for sandbox in self._pool.expired(now):
                self._condemn(sandbox.name, Fault.LEASE_EXPIRED, f"Its lease was not renewed for {LEASE_TERM:.0f} s.")
            for sandbox in self._pool.to_evict(self._wants):
                self._condemn(sandbox.name, Fault.OTHER_TRUST_KEY, "A job of another trust key needs its place.")
            for action in self._pool.plan(now):
                self._begin(action)

    # -- verbs ---------------------------------------------------------------------------------------------------

    def lend(self, request: protocol.Lend) -> tuple[protocol.LeaseGrant, socket.socket]:
        """Lend a sandbox and connect to its port 22. Raises `KeeperRefused` when none is fit in time."""
        if request.profile not in self._pool.profiles:
            known = ", ".join(self._pool.profiles)
            raise KeeperRefused(f"There is no profile {request.profile}; the keeper's configuration has: {known}.")
        deadline = time.monotonic() + request.wait
        while True:
            sandbox, built = self._take(request, deadline)
            try:
                connection = readiness.connect(built.address, time.monotonic() + CONNECT_DEADLINE)
            except SandboxFault as fault:
                with self._changed:
                    self._condemn(sandbox.name, fault.fault, str(fault))
                continue
            log.info("%s: lent to attempt %s", sandbox.name, request.attempt)
            return _grant(sandbox, built), connection

    def renew(self, request: protocol.Renew) -> protocol.Done:
        """One more term. Raises `KeeperRefused` when the lease is over."""
        with self._changed:
            self._pool.renew(request.token, time.monotonic())
        return protocol.Done()

    def kill(self, request: protocol.Kill) -> protocol.Done:
        """End what the attempt left running. Raises `KeeperRefused` when it would not go; it is condemned then."""
        with self._changed:
            sandbox = self._pool.by_token(request.token)
            built = self._built[sandbox.name]
        try:
            ended = self._builder.end_job(built)
        except (SandboxFault, EngineError) as error:
            with self._changed:
                self._condemn(sandbox.name, as_fault(error).fault, str(error))
            raise KeeperRefused(f"What the job left running could not be ended: {error}") from error
        log.info("%s: ended %d processes of its job", sandbox.name, ended)
        return protocol.Done()

    def give_back(self, request: protocol.Return) -> protocol.Done:
        """The attempt is over: the sandbox is inspected in the background, then lent again or recreated."""
        with self._changed:
            sandbox = self._pool.give_back(request.token, request.used, time.monotonic())
            self._changed.notify_all()
            if sandbox.state is State.INSPECTING:
                self._submit(sandbox.name, self._inspect, sandbox.name, True)
            else:
                log.info("%s: condemned (%s): %s", sandbox.name, sandbox.fault, sandbox.reason)
        return protocol.Done()

    def condemn(self, request: protocol.Condemn) -> protocol.Done:
        """The runner found the sandbox unfit."""
        with self._changed:
            sandbox = self._pool.by_token(request.token)
            self._condemn(sandbox.name, Fault.CONDEMNED_BY_RUNNER, request.reason)
        return protocol.Done()

    def listing(self) -> protocol.Listing:
        """Every sandbox, and the last ones that were condemned."""
        with self._changed:
            return protocol.Listing(
                installation=self._home.installation,
                sandboxes=[self._report(sandbox) for sandbox in self._pool],
                condemned=[self._report(sandbox) for sandbox in self._pool.condemned],
            )

    def ping(self) -> protocol.Pong:
        """Whether each profile has a sandbox that is ready or at work."""
        working = (State.READY, State.LEASED, State.INSPECTING)
        with self._changed:
            fit = {sandbox.profile for sandbox in self._pool if sandbox.state in working}
        lacking = sorted(set(self._pool.profiles) - fit)
        message = f"No sandbox for: {', '.join(lacking)}. Last trouble: {self._last_trouble}" if lacking else "ready"
        return protocol.Pong(fit=not lacking, message=message)

    # -- inside --------------------------------------------------------------------------------------------------

    def _take(self, request: protocol.Lend, deadline: float) -> tuple[Sandbox, Built]:
        want = Want(request.profile, request.trust_key)
        with self._changed:
            self._wants.append(want)
            self._changed.notify_all()  # the reconcile loop may have to make room
            try:
                while not self._stopping.is_set():
                    token = secrets.token_urlsafe(24)
                    if sandbox := self._pool.lend(want, request.attempt, token, time.monotonic()):
                        return sandbox, self._built[sandbox.name]
                    if (left := deadline - time.monotonic()) <= 0:
                        raise KeeperRefused(self._none_in_time(request))
                    self._changed.wait(min(left, RECONCILE_INTERVAL))
            finally:
                self._wants.remove(want)
        raise KeeperRefused("The keeper is stopping and lends no more sandboxes.")

    def _none_in_time(self, request: protocol.Lend) -> str:
        states = [sandbox.state for sandbox in self._pool if sandbox.profile == request.profile]
        doing = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"
        trouble = "" if State.LEASED in states else f" Last trouble: {self._last_trouble}"
        return f"No sandbox of profile {request.profile} was ready within {request.wait:.0f} s ({doing}).{trouble}"

    def _begin(self, action: Create | Destroy | Probe) -> None:
        match action:
            case Create(profile):
                generation = self._home.next_generation()
                name = SandboxName(self._home.installation, generation)
                self._pool.creating(str(name), generation, profile, time.monotonic())
                self._submit(str(name), self._create, name, profile)
            case Destroy(name_):
                sandbox = self._pool.destroying(name_, time.monotonic())
                self._submit(name_, self._destroy, sandbox)
            case Probe(name_):
                self._pool.probing(name_, time.monotonic())
                self._submit(name_, self._inspect, name_, False)

    def _create(self, name: SandboxName, profile: str) -> None:
        began = time.monotonic()
        try:
            built = self._builder.build(name, profile, self._pool.profiles[profile], lambda: self._booting(str(name)))
        except (SandboxFault, EngineError, ConfigError) as error:
            with self._changed:
                self._condemn(str(name), as_fault(error).fault, str(error))
            return
        with self._changed:
            self._built[str(name)] = built
            self._pool.fit(str(name), time.monotonic())
            self._changed.notify_all()
        log.info(
            "%s: ready after %.1f s (runtime %s, inner Docker %s)",
            name,
            time.monotonic() - began,
            built.runtime,
            built.docker_version,
        )

    def _booting(self, name: str) -> None:
        with self._changed:
            self._pool.booting(name, time.monotonic())

    def _inspect(self, name: str, clean: bool) -> None:
        try:
            self._builder.inspect(self._built[name], clean)
        except (SandboxFault, EngineError) as error:
            with self._changed:
                self._condemn(name, as_fault(error).fault, str(error))
            return
        with self._changed:
            sandbox = self._pool.get(name)
            if sandbox and sandbox.state is State.INSPECTING:  # it may have been condemned meanwhile
                self._pool.fit(name, time.monotonic())
                self._changed.notify_all()

    def _remove_stranger(self, name: str) -> None:
        try:
            self._engine.remove(self._home.installation, name)
            log.info("%s: removed; it was finished after it had been given up", name)
        except EngineError as error:
            log.warning("%s: could not be removed: %s", name, error)
        finally:
            self._strangers.discard(name)

    def _destroy(self, sandbox: Sandbox) -> None:
        try:
            self._builder.remove(SandboxName(self._home.installation, sandbox.generation))
        except EngineError as error:
            self._last_trouble = str(error)
            log.error("%s: could not be removed, will try again: %s", sandbox.name, error)  # noqa: TRY400
            with self._changed:
                self._pool.stuck(sandbox.name, time.monotonic())
            return
        with self._changed:
            self._pool.gone(sandbox.name, time.monotonic())
            self._built.pop(sandbox.name, None)
            self._changed.notify_all()

    def _condemn(self, name: str, fault: Fault, reason: str) -> None:
        if self._pool.get(name) is None:  # another thread found it unfit first, and it is removed already
            return
        self._last_trouble = reason
        sandbox = self._pool.condemn(name, fault, reason, time.monotonic())
        log.warning("%s: condemned (%s): %s It is recreated.", sandbox.name, fault, reason)
        self._changed.notify_all()

    def _submit(self, name: str, act: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                act(*arguments)
            except Exception:
                log.exception("%s: a defect in the keeper", name)
                with self._changed:
                    self._condemn(name, Fault.KEEPER_DEFECT, "The keeper itself failed; its log has the details.")
                    sandbox = self._pool.get(name)
                    if sandbox and sandbox.state is State.DESTROYING:
                        self._pool.stuck(name, time.monotonic())

        if self._stopping.is_set():  # everything is about to be removed
            return
        self._workers.submit(guarded)

    def _lent(self, now: float) -> int:
        return sum(sandbox.state is State.LEASED for sandbox in self._pool) - len(self._pool.expired(now))

    def _report(self, sandbox: Sandbox) -> protocol.SandboxReport:
        built = self._built.get(sandbox.name)
        return protocol.SandboxReport(
            name=sandbox.name,
            generation=sandbox.generation,
            profile=sandbox.profile,
            state=sandbox.state,
            seconds_in_state=round(time.monotonic() - sandbox.since, 3),
            runtime=self._pool.profiles[sandbox.profile].runtime,
            trust_key=sandbox.trust_key,
            attempt=sandbox.lease.attempt if sandbox.lease else None,
            jobs=sandbox.jobs,
            fault=sandbox.fault,
            reason=sandbox.reason,
            processes_at_ready=sorted(process.pid for process in built.baseline) if built else [],
        )


def _grant(sandbox: Sandbox, built: Built) -> protocol.LeaseGrant:
    assert sandbox.lease is not None
    return protocol.LeaseGrant(
        sandbox=sandbox.name,
        generation=sandbox.generation,
        runtime=built.runtime,
        user=LOGIN_USER,
        host_key=built.identity.host.public,
        client_key=built.identity.client.private,
        token=sandbox.lease.token,
        term=LEASE_TERM,
    )
