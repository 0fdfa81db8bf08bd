"""The keeper's answers: one method for each verb of `protocol`. Any thread may call them."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sandbox import readiness
from sandbox.errors import EngineError, Fault, KeeperRefused, NotNow, SandboxFault
from sandbox.inspection.judge import ReasonKind
from sandbox.keeper import protocol
from sandbox.keeper.builder import Built, as_fault
from sandbox.keeper.gauges import Gauges
from sandbox.keeper.parts import Parts
from sandbox.keeper.workers import FROZEN_DEADLINE, Workers
from sandbox.logs import Action, Events
from sandbox.network import WallsDown
from sandbox.pool import LEASE_TERM, Lease, Sandbox, Want
from sandbox.state import IN_ADVANCE, State, is_alive
from sandbox.template import LOGIN_USER

events = Events("keeper")

CONNECT_DEADLINE = 5.0
INSPECT_DEADLINE = 10.0
LOOK_INTERVAL = 1.0
"""Seconds after which a waiting request looks again even without a notice of change."""
_WORKING = frozenset({State.READY, State.LEASED, State.ORPHANED, State.INSPECTING})
_HOLDABLE = frozenset({State.READY, State.LEASED, State.ORPHANED, State.INSPECTING, State.HELD})


class Verbs:
    """Answers for one keeper. After `close`, nothing is lent."""

    def __init__(self, parts: Parts, workers: Workers) -> None:
        self._installation = parts.home.installation
        self._stock = parts.stock
        self._builder = parts.builder
        self._guard = parts.guard
        self._watch = parts.watch
        self._daemons = parts.daemons
        self._storage = parts.storage
        self._metrics = parts.metrics
        self._workers = workers
        self._gauges = Gauges(parts.metrics, parts.stock, parts.guard, parts.watch, parts.daemons, parts.storage)
        self._closed = threading.Event()

    def close(self) -> None:
        """Lend nothing more, and tell the waiting requests."""
        with self._stock.changed:
            self._closed.set()
            self._stock.changed.notify_all()

    # -- of an attempt -------------------------------------------------------------------------------------------

    def lend(
        self, request: protocol.Lend, hung_up: Callable[[], bool] = lambda: False
    ) -> tuple[protocol.LeaseGrant, socket.socket]:
        """Lend a sandbox and connect to its port 22.

        `hung_up` returns whether the client is gone: its request is dropped then.

        Raises `KeeperRefused` when none is free in time, and `NotNow` while the keeper lends none at all: because it
        stops, its host is unfit, or there are no walls.
        """
        profiles = self._stock.pool.profiles
        if request.profile not in profiles:
            known = ", ".join(profiles)
            raise KeeperRefused(f"There is no profile {request.profile}; the keeper's configuration has: {known}.")
        began = time.monotonic()
        want = Want(request.profile, request.trust_key, began)
        while True:
            sandbox, built = self._take(request, want, hung_up)
            self._refuse_without_walls(request)
            with suppress(SandboxFault):  # then it is condemned, and the next one is tried
                connection = self._connect(sandbox.name, built)
                self._metrics.lend.labels(request.profile).observe(time.monotonic() - began)
                to = request.attempt
                events.info(Action.LENT, f"lent to attempt {to}", sandbox=sandbox.name, attempt=to)
                return _grant(sandbox, built), connection

    def take_back(self, request: protocol.Lend) -> None:
        """Take back a lease whose client went away before the answer: nobody knows of it."""
        with suppress(KeeperRefused):
            self.give_back(protocol.Return(token=request.token, used=False))

    def resume(self, request: protocol.Resume) -> tuple[protocol.LeaseGrant, socket.socket]:
        """Connect an attempt to its sandbox again; its next term begins when that worked.

        Raises `KeeperRefused` when its lease is over, and `NotNow` when its sandbox does not answer: its job may still
        run behind a network that is cut.
        """
        with self._stock.changed:
            sandbox = self._stock.pool.by_token(request.token)
            built = self._stock.built[sandbox.name]
        try:
            connection = _dial(built)
        except SandboxFault as fault:
            # A refused connection means that sshd has ended, and nothing starts it again.
            lasting = fault if isinstance(fault.__cause__, ConnectionRefusedError) else self._closed_itself_off(built)
            if lasting is None:
                raise NotNow(f"There is no way into sandbox {sandbox.name} now. {fault}") from fault
            self._stock.condemn(sandbox.name, lasting.fault, str(lasting))
            raise KeeperRefused(str(lasting)) from fault
        try:
            with self._stock.changed:
                sandbox = self._stock.pool.renew(request.token, time.monotonic())
        except KeeperRefused:  # it ran out meanwhile
            connection.close()
            raise
        assert sandbox.lease is not None
        to = sandbox.lease.attempt
        events.info(Action.RESUMED, f"attempt {to} has it again", sandbox=sandbox.name, attempt=to)
        return _grant(sandbox, built), connection

    def renew(self, request: protocol.Renew) -> protocol.Done:
        """Renew a lease for one more term. Raises `KeeperRefused` when the lease is over or its sandbox has ended.

        Looks for that end without the engine: the loop that asks the engine would see it a second later.
        """
        with self._stock.changed:
            sandbox = self._stock.pool.renew(request.token, time.monotonic())
            fault = self._ended(self._stock.built[sandbox.name])
        if fault:
            self._stock.condemn(sandbox.name, fault.fault, str(fault))
            raise KeeperRefused(str(fault))
        return protocol.Done()

    def kill(self, request: protocol.Kill) -> protocol.Done:
        """End the job's processes. If they cannot be ended, condemns the sandbox and raises `KeeperRefused`."""
        with self._stock.changed:
            sandbox = self._stock.pool.by_token(request.token)
            built = self._stock.built[sandbox.name]
        try:
            self._storage.wait_while_frozen(sandbox.name, time.monotonic() + FROZEN_DEADLINE)
            ended = self._builder.end_job(built)
        except (SandboxFault, EngineError) as error:
            self._stock.condemn(sandbox.name, as_fault(error).fault, str(error))
            raise KeeperRefused(f"What the job left running could not be ended: {error}") from error
        events.info(Action.JOB_ENDED, f"ended {ended} processes of its job", sandbox=sandbox.name)
        return protocol.Done()

    def give_back(self, request: protocol.Return) -> protocol.Done:
        """End a lease. The sandbox is inspected in the background, then lent again or recreated."""
        with self._stock.changed:
            sandbox = self._stock.pool.give_back(request.token, request.used, time.monotonic())
            self._stock.changed.notify_all()
            if sandbox.state is State.INSPECTING:
                self._workers.prove_after_job(sandbox.name)
            elif sandbox.state is State.CONDEMNED:
                events.info(Action.CONDEMNED, f"condemned ({sandbox.fault}): {sandbox.reason}", sandbox=sandbox.name)
        return protocol.Done()

    def condemn(self, request: protocol.Condemn) -> protocol.Done:
        """Condemn a sandbox that the runner found unfit."""
        with self._stock.changed:
            sandbox = self._stock.pool.by_token(request.token)
            self._stock.condemn(sandbox.name, Fault.CONDEMNED_BY_RUNNER, request.reason)
        return protocol.Done()

    # -- of people -----------------------------------------------------------------------------------------------

    def listing(self) -> protocol.Listing:
        """List every sandbox, and the last ones that were condemned."""
        state, _ = self._watch.look()
        with self._stock.changed:
            return protocol.Listing(
                installation=self._installation,
                host=state,
                trouble=self._wrong(),
                sandboxes=[self._report(sandbox) for sandbox in self._stock.pool if sandbox.state not in IN_ADVANCE],
                condemned=[self._report(sandbox) for sandbox in self._stock.pool.condemned],
                counts=dict(self._stock.pool.counts),
            )

    def offer(self) -> protocol.Offered:
        """List the profiles that a client can ask for."""
        with self._stock.changed:
            profiles = self._stock.pool.profiles
            return protocol.Offered(profiles={name: list(profile.labels) for name, profile in profiles.items()})

    def ping(self) -> protocol.Pong:
        """Report whether each profile has a sandbox that is ready or at work, on a host that works."""
        with self._stock.changed:
            fit = {sandbox.profile for sandbox in self._stock.pool if sandbox.state in _WORKING}
        lacking = sorted(set(self._stock.pool.profiles) - fit)
        wrong = self._wrong()
        if lacking:
            wrong = f"No sandbox for: {', '.join(lacking)}. {wrong or f'Last trouble: {self._stock.trouble}'}"
        can = all(map(self._host_can, self._stock.pool.profiles))
        return protocol.Pong(fit=not lacking and can, message=wrong or "ready")

    def measure(self) -> protocol.Measured:
        """Return all metrics."""
        return protocol.Measured(text=self._gauges.text())

    def inspect(self, request: protocol.Inspect) -> protocol.Findings:
        """Look at a sandbox from outside; for a gone one, say why it went. Raises `KeeperRefused`."""
        with self._stock.changed:
            gone = next((s for s in self._stock.pool.condemned if s.name == request.sandbox), None)
            sandbox = self._stock.pool.get(request.sandbox) or gone or self._named(request.sandbox)
            report, built = self._report(sandbox), self._stock.built.get(sandbox.name)
        if built is None or not is_alive(sandbox.state):
            return protocol.Findings(sandbox=report, verdict=None, findings=[])
        try:
            verdict = self._builder.verdict(built, time.monotonic() + INSPECT_DEADLINE)
        except (SandboxFault, EngineError) as error:
            raise KeeperRefused(f"Sandbox {sandbox.name} could not be looked at: {error}") from error
        findings = [protocol.Finding(kind=r.kind, verdict=r.verdict, sentence=r.sentence) for r in verdict.reasons]
        return protocol.Findings(sandbox=report, verdict=verdict.kind, findings=findings)

    def hold(self, request: protocol.Hold) -> protocol.Done:
        """Keep a sandbox for a person, at once or from the end of its lease on. Raises `KeeperRefused`."""
        with self._stock.changed:
            sandbox = self._named(request.sandbox)
            if sandbox.state not in _HOLDABLE:
                raise KeeperRefused(f"Sandbox {sandbox.name} is {sandbox.state}: there is nothing to hold.")
            held = self._stock.pool.hold(sandbox.name, request.seconds, time.monotonic())
            self._stock.changed.notify_all()
        when = "" if held.state is State.HELD else " once its job has ended"
        events.info(Action.HELD, f"held for {request.seconds:.0f} s{when}", sandbox=held.name)
        return protocol.Done()

    def release(self, request: protocol.Release) -> protocol.Done:
        """Throw a held sandbox away. Raises `KeeperRefused` when it is not held."""
        with self._stock.changed:
            self._held(request.sandbox)
            self._stock.condemn(request.sandbox, Fault.HOLD_OVER, "Somebody released it.")
        return protocol.Done()

    def enter(self, request: protocol.Enter) -> tuple[protocol.Entrance, socket.socket]:
        """Connect a person to a held sandbox. Raises `KeeperRefused` when it is not held or does not answer."""
        with self._stock.changed:
            name = self._held(request.sandbox).name
            built = self._stock.built[name]
        try:
            connection = _dial(built)
        except SandboxFault as fault:
            raise KeeperRefused(f"Sandbox {name} cannot be entered: {fault}") from fault
        events.info(Action.ENTERED, "somebody enters it", sandbox=name)
        host_key, client_key = built.identity.host.public, built.identity.client.private
        return protocol.Entrance(user=LOGIN_USER, host_key=host_key, client_key=client_key), connection

    # -- inside --------------------------------------------------------------------------------------------------

    def _take(self, request: protocol.Lend, want: Want, hung_up: Callable[[], bool]) -> tuple[Sandbox, Built]:
        stock, deadline = self._stock, want.came + request.wait
        lease = Lease(request.attempt, request.token, request.patience)
        with stock.changed:
            stock.wants.append(want)
            stock.changed.notify_all()  # the reconcile loop may have to make room
            try:
                while not self._closed.is_set():
                    if hung_up():  # it would take a sandbox from the others, or have theirs evicted
                        raise NotNow("Its client went away while it waited for a sandbox.")
                    now, can = time.monotonic(), self._host_can(request.profile)
                    if can and (sandbox := stock.pool.lend(want, lease, now, stock.wants)):
                        return sandbox, stock.built[sandbox.name]
                    if (left := deadline - now) <= 0:
                        raise (KeeperRefused if can else NotNow)(self._none_in_time(request))
                    stock.changed.wait(min(left, LOOK_INTERVAL))
            finally:
                stock.wants.remove(want)
                stock.changed.notify_all()  # the sandbox meant for it is free for another
        raise NotNow("The keeper is stopping and lends no more sandboxes.")

    def _refuse_without_walls(self, request: protocol.Lend) -> None:
        try:
            self._guard.look()
        except WallsDown as error:
            self.take_back(request)
            raise NotNow(f"No sandbox is lent while there are no walls around it. {error}") from error

    def _connect(self, name: str, built: Built) -> socket.socket:
        try:
            if lost := built.lost():
                raise lost
            return _dial(built)
        except SandboxFault as fault:
            self._stock.condemn(name, fault.fault, str(fault))
            raise

    def _closed_itself_off(self, built: Built) -> SandboxFault | None:
        """Return how the job damaged its sandbox's network, if it did, when nothing answers there."""
        try:
            verdict = self._builder.verdict(built, time.monotonic() + INSPECT_DEADLINE)
        except (SandboxFault, EngineError):
            return None
        seen = [reason.sentence for reason in verdict.reasons if reason.kind is ReasonKind.NETWORK]
        return SandboxFault(Fault.DAMAGED, " ".join(seen)) if seen else None

    def _ended(self, built: Built) -> SandboxFault | None:
        """Return whether the sandbox has ended, as far as the kernel alone can tell."""
        if not self._builder.runs(built):
            return SandboxFault(Fault.STOPPED, "Its container does not run any more.")
        return built.lost()

    def _host_can(self, profile: str) -> bool:
        known = self._stock.pool.profiles.get(profile)  # nothing of a removed profile is lent anyway
        missing = self._daemons.refusal([known.runtime]) if known else None
        return self._watch.may_lend() and self._storage.refusal is None and missing is None

    def _wrong(self) -> str:
        """Say what is wrong with the host or a new image and what to do; empty when nothing is."""
        _, wrong = self._watch.look()
        missing = self._daemons.refusal(profile.runtime for profile in self._stock.pool.profiles.values())
        return self._storage.refusal or missing or wrong or " ".join(self._stock.refused_images())

    def _none_in_time(self, request: protocol.Lend) -> str:
        mine = [sandbox.state for sandbox in self._stock.pool if sandbox.profile == request.profile]
        states = [state for state in mine if state not in IN_ADVANCE]
        doing = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"
        wrong = self._wrong()
        trouble = "" if State.LEASED in states and not wrong else f" {wrong or f'Last trouble: {self._stock.trouble}'}"
        return f"No sandbox of profile {request.profile} was ready within {request.wait:.0f} s ({doing}).{trouble}"

    def _named(self, name: str) -> Sandbox:
        if sandbox := self._stock.pool.get(name):
            return sandbox
        raise KeeperRefused(f"There is no sandbox {name}; `sandbox ls` lists them.")

    def _held(self, name: str) -> Sandbox:
        sandbox = self._named(name)
        if sandbox.state is not State.HELD:
            raise KeeperRefused(f"Sandbox {name} is {sandbox.state} and not held; hold it first: sandbox hold {name}.")
        return sandbox

    def _report(self, sandbox: Sandbox) -> protocol.SandboxReport:
        built = self._stock.built.get(sandbox.name)
        return protocol.SandboxReport(
            name=sandbox.name,
            generation=sandbox.generation,
            profile=sandbox.profile,
            state=sandbox.state,
            seconds_in_state=round(time.monotonic() - sandbox.since, 3),
            runtime=self._stock.pool.profiles[sandbox.profile].runtime,
            trust_key=sandbox.trust_key,
            attempt=sandbox.lease.attempt if sandbox.lease else None,
            jobs=sandbox.jobs,
            fault=sandbox.fault,
            reason=sandbox.reason,
            processes_at_ready=sorted(process.pid for process in built.baseline) if built else [],
        )


def _dial(built: Built) -> socket.socket:
    return readiness.connect(built.address, time.monotonic() + CONNECT_DEADLINE)


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
