"""The keeper's background acts on its sandboxes: make, prove, remove; each in a thread of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network

from sandbox.acts import Act, Create, Destroy, Prepare, Probe, Replace, Start, Try
from sandbox.daemons import check
from sandbox.errors import ConfigError, EngineError, EngineTimeout, EngineUnreachable, Fault, SandboxFault
from sandbox.health import CreationBegan, CreationEnded, FreshUnfit
from sandbox.keeper.builder import Built, Prepared, as_fault
from sandbox.keeper.parts import Parts
from sandbox.logs import Action, Events
from sandbox.network import WallsDown
from sandbox.profile import Profile
from sandbox.state import State
from sandbox.template import SandboxName

events = Events("keeper")

_WORKERS = 16
STRANGER_RETRY = 5.0
"""Seconds between attempts to remove a leftover. It takes up no place, but still has its name and addresses."""
_OF_THE_HOST = frozenset({Fault.RUNTIME_LOST, Fault.HOST_DISK})
"""Faults of the host: they are no sign of how sandboxes are made."""
FROZEN_DEADLINE = 30.0
"""Seconds to wait for a sandbox that is frozen until the host's disk has room again."""


class Workers:
    """Does what the pool decided, and reports the outcome to the stock."""

    def __init__(self, parts: Parts) -> None:
        self._home = parts.home
        self._engine = parts.engine
        self._stock = parts.stock
        self._builder = parts.builder
        self._guard = parts.guard
        self._watch = parts.watch
        self._daemons = parts.daemons
        self._storage = parts.storage
        self._metrics = parts.metrics
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="keeper")
        self._stopping = threading.Event()
        self._strangers: set[str] = set()
        """Names of leftovers that are being removed."""
        self._put_off: dict[str, float] = {}
        """When to retry each leftover that could not be removed, by name."""

    def begin(self, action: Act) -> None:
        """Start an act of the pool's plan. The caller holds the stock's lock."""
        pool, now = self._stock.pool, time.monotonic()
        match action:
            case Create(profile, image):
                name = self._begin(profile, image)
                self._watch.observe(CreationBegan(profile, str(name)))
                self._submit(str(name), self._create, name, profile, image)
            case Prepare(profile, image):
                with suppress(ConfigError):  # its number cannot be written down; reported when a sandbox is needed
                    name = self._next_name()
                    pool.preparing(str(name), name.generation, profile, image, now)
                    self._submit(str(name), self._prepare, name, profile, image)
            case Start(name_, profile):
                self._start(name_, profile)
            case Try(profile, image):  # its outcome says nothing about the host or about other sandboxes
                name = self._begin(profile, image)
                self._submit(str(name), self._try, name, profile, image)
            case Replace(name_):
                why = "Its profile's image was replaced."
                self._stock.condemn(name_, Fault.IMAGE_REPLACED, why)
            case Destroy(name_):
                sandbox = pool.destroying(name_, now)
                self._submit(name_, self._destroy, SandboxName(self._home.installation, sandbox.generation))
            case Probe(name_):
                pool.probing(name_, now)
                self._submit(name_, self._prove_idle, name_)

    def prove_after_job(self, name: str) -> None:
        """Clean a sandbox in state `inspecting` after its job, and find out whether it may serve another."""
        self._submit(name, self._prove_after_job, name)

    def try_runtime(self, name: str) -> None:
        """Try the container runtime on an idle sandbox; the watch hears the outcome."""
        self._submit(name, self._try_runtime, name, self._stock.built[name].container_id)

    def remove_stranger(self, name: str) -> None:
        """Remove something of this installation that belongs to no sandbox of the pool.

        A call that was given up finished it later, or it is from an earlier life, of a profile that no longer exists.
        """
        if name not in self._strangers and time.monotonic() >= self._put_off.get(name, 0.0):
            self._strangers.add(name)
            self._submit(name, self._remove_stranger, name)

    def stop(self, *, wait: bool) -> None:
        """Start nothing more; with `wait`, let the acts under way finish. May be called again."""
        self._stopping.set()
        self._threads.shutdown(wait=wait, cancel_futures=True)

    def _next_name(self) -> SandboxName:
        return SandboxName(self._home.installation, self._home.next_generation())

    def _begin(self, profile: str, image: str) -> SandboxName:
        name = self._next_name()
        self._stock.pool.creating(str(name), name.generation, profile, image, time.monotonic())
        return name

    def _start(self, name: str, profile: str) -> None:
        """Start a prepared sandbox, unless a new one would be made differently by now."""
        stock = self._stock
        prepared, image = stock.prepared[name], stock.pool.image_of(profile)
        wanted = self._wanted(profile, image)
        if not prepared.fits(wanted):
            stock.condemn(name, Fault.RECREATE_POLICY, f"The profile {profile} or the host was changed.")
            self.begin(Create(profile, image))
            return
        del stock.prepared[name]
        stock.pool.starting(name, time.monotonic())
        self._watch.observe(CreationBegan(profile, name))
        self._submit(name, self._create, prepared.name, profile, image, replace(prepared, profile=wanted))

    def _prepare(self, name: SandboxName, profile: str, image: str) -> None:
        try:
            self._stock.put_aside(str(name), self._builder.prepare(name, profile, self._wanted(profile, image)))
        except (SandboxFault, EngineError, ConfigError) as error:
            self._stock.condemn(str(name), as_fault(error).fault, str(error))

    def _create(self, name: SandboxName, profile: str, image: str, prepared: Prepared | None = None) -> None:
        fault: Fault | None = Fault.KEEPER_DEFECT
        reason = "The keeper itself failed; its log has the details."
        try:
            self._stock.add(str(name), self._make(name, profile, image, prepared))
            fault = None
        except (SandboxFault, EngineError, ConfigError, WallsDown) as error:
            fault, reason = as_fault(error).fault, str(error)
            self._stock.condemn(str(name), fault, reason)
        finally:
            self._watch.observe(CreationEnded(profile, str(name), fault, reason))

    def _try(self, name: SandboxName, profile: str, image: str) -> None:
        try:
            built = self._make(name, profile, image)
            self._builder.prove_idle(built)  # with a container: an answer of the rest is not enough
            self._stock.add(str(name), built)
        except (SandboxFault, EngineError, ConfigError, WallsDown) as error:
            self._stock.condemn(str(name), as_fault(error).fault, str(error))

    def _make(self, name: SandboxName, profile: str, image: str, prepared: Prepared | None = None) -> Built:
        began = time.monotonic()
        stock = self._stock

        def started(subnet: IPv4Network) -> None:
            self._guard.admit(name, subnet, profile)
            with stock.changed:
                stock.pool.booting(str(name), time.monotonic())

        prepared = prepared or self._builder.prepare(name, profile, self._wanted(profile, image))
        rests_on = self._daemons.of(prepared.profile.runtime)  # before its start: a daemon may be replaced at any time
        try:
            built = replace(self._builder.boot(prepared, started), rests_on=rests_on)
        except (SandboxFault, EngineError) as error:
            raise check(rests_on) or error from error
        took = time.monotonic() - began
        self._metrics.boot.labels(profile).observe(took)
        how = f"ready after {took:.1f} s (runtime {built.runtime}, inner Docker {built.docker_version})"
        events.info(Action.READY, how, sandbox=str(name))
        return built

    def _wanted(self, profile: str, image: str) -> Profile:
        return self._stock.pool.profiles[profile].model_copy(update={"image": image})

    def _prove_after_job(self, name: str) -> None:
        def prove(built: Built) -> bool:
            pool = self._stock.pool
            sandbox = pool.get(name)
            if sandbox and pool.is_outdated(sandbox):  # an outdated idle sandbox waits for its turn
                raise SandboxFault(Fault.IMAGE_REPLACED, f"The image of the profile {sandbox.profile} was replaced.")
            container = sandbox is not None and sandbox.has_to_run_container(time.monotonic())
            self._builder.prove_after_job(built, container=container)
            return container

        self._prove(name, "job", prove)

    def _prove_idle(self, name: str) -> None:
        def prove(built: Built) -> bool:
            self._builder.prove_idle(built)
            return True

        self._prove(name, "idle", prove)

    def _prove(self, name: str, occasion: str, prove: Callable[[Built], bool]) -> None:
        """Prove a sandbox with `prove`, which returns whether a container ran in it."""
        stock, ran_container = self._stock, False
        if (built := stock.built.get(name)) is None:  # condemned and gone in the meantime
            return
        try:
            self._check_profile(name)
            self._storage.wait_while_frozen(name, time.monotonic() + FROZEN_DEADLINE)
            with self._metrics.inspection.labels(occasion).time():
                ran_container = prove(built)
            fault = built.lost()
        except (SandboxFault, EngineError) as error:
            # A sandbox whose runtime's daemon is gone looks damaged, though no job did it.
            fault = built.lost() or as_fault(error)
            self._metrics.found(fault.seen)
        with stock.changed:
            sandbox = stock.pool.get(name)
            if sandbox is None or sandbox.state is not State.INSPECTING:  # condemned or held in the meantime
                return
            if fault:
                if sandbox.jobs == 0 and not fault.fault.is_quiet and fault.fault not in _OF_THE_HOST:
                    unfit = FreshUnfit(sandbox.profile, built.container_id, fault.fault, str(fault))
                    self._watch.observe(unfit)
                stock.condemn(name, fault.fault, str(fault))
            else:
                stock.pool.fit(name, time.monotonic(), ran_container=ran_container)
                stock.changed.notify_all()

    def _check_profile(self, name: str) -> None:
        pool = self._stock.pool
        sandbox = pool.get(name)
        if sandbox is None:
            return
        if not self._stock.built[name].profile.makes_the_same_as(pool.profiles[sandbox.profile]):
            raise SandboxFault(Fault.RECREATE_POLICY, f"The profile {sandbox.profile} was changed.")

    def _destroy(self, name: SandboxName) -> None:
        stock = self._stock
        try:
            self._builder.remove(name, stock.built.get(str(name)))
        except EngineError as error:
            events.error(Action.REMOVAL_FAILED, f"could not be removed, will try again: {error}", sandbox=str(name))
            with stock.changed:
                stock.trouble = str(error)
                stock.pool.stuck(str(name), time.monotonic(), asked=not isinstance(error, EngineUnreachable))
                stock.changed.notify_all()
            return
        self._guard.forget(name)
        stock.remove(str(name))

    def _try_runtime(self, name: str, container_id: str) -> None:
        try:
            self._engine.probe(container_id)
        except EngineTimeout as error:
            self._stock.condemn(name, Fault.ENGINE_FAILED, f"The runtime does not answer about it: {error}")
        except EngineError:
            return  # a refusal is an answer; the next look tells what is wrong

    def _remove_stranger(self, name: str) -> None:
        try:
            self._engine.remove(self._home.installation, name)
            self._put_off.pop(name, None)
            why = "it had been given up before it was finished, or has no profile any more"
            events.info(Action.REMOVED_LATE, f"removed; {why}", sandbox=name)
        except EngineError as error:
            self._put_off[name] = time.monotonic() + STRANGER_RETRY
            events.warning(Action.REMOVAL_FAILED, f"could not be removed, will try again: {error}", sandbox=name)
        finally:
            self._strangers.discard(name)

    def _submit(self, name: str, act: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                act(*arguments)
            except Exception as error:  # noqa: BLE001 - the keeper goes on without this sandbox
                events.error(Action.DEFECT, "a defect in the keeper", error=error, sandbox=name)
                self._after_defect(name)

        if not self._stopping.is_set():  # otherwise everything is about to be removed, or left as it is
            self._threads.submit(guarded)

    def _after_defect(self, name: str) -> None:
        stock = self._stock
        with stock.changed:
            stock.condemn(name, Fault.KEEPER_DEFECT, "The keeper itself failed; its log has the details.")
            sandbox = stock.pool.get(name)
            if sandbox and sandbox.state is State.DESTROYING:
                stock.pool.stuck(name, time.monotonic())
                stock.changed.notify_all()
