"""Acts on one sandbox: make and prove it, inspect it after a job, remove it. Blocking; knows no pool."""

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import MappingProxyType

from sandbox import daemons, freezer, host, processes, readiness
from sandbox.daemons import Daemon
from sandbox.engine import Engine, ImageUnfit
from sandbox.errors import (
    ConfigError,
    EngineError,
    Fault,
    SandboxError,
    SandboxFault,
)
from sandbox.identity import Identity, new_identity
from sandbox.inspection import inspector
from sandbox.inspection.evidence import Baseline
from sandbox.inspection.judge import Verdict, VerdictKind
from sandbox.maker import Created, Maker, check_running
from sandbox.network import WallsDown
from sandbox.processes import Process
from sandbox.profile import Profile
from sandbox.template import SandboxName

PROOF_DEADLINE = 15.0
"""Seconds to inspect a sandbox after a job, cleaning included."""
KILL_DEADLINE = 10.0
FAULTS: Mapping[VerdictKind, Fault] = MappingProxyType(
    {
        VerdictKind.CLEANABLE: Fault.USED,  # cleaning failed: the next job would find the leftovers
        VerdictKind.USED: Fault.USED,
        VerdictKind.DAMAGED: Fault.DAMAGED,
    }
)
"""The fault for each verdict that keeps a sandbox from its next job."""
_GOES_ON = (VerdictKind.CLEAN, VerdictKind.CLEANABLE)
_CLEANINGS = 3
"""How often a sandbox is cleaned: inner Docker takes down unfinished work little by little."""


@dataclass(frozen=True, slots=True)
class Built:
    """A sandbox that was proven fit, and what is needed to reach and judge it."""

    identity: Identity
    container_id: str
    address: str
    runtime: str
    baseline: frozenset[Process]
    """The processes at `ready`; every other process belongs to a job."""
    docker_version: str
    profile: Profile
    """The profile it was made from; the keeper's file may have changed since."""
    boot_id: str
    """The host's boot when it was made: process ids and start times mean nothing after another boot."""
    evidence: Baseline
    """What was seen from outside at `ready`; it is judged against this after each job."""
    trees: tuple[str, ...]
    """The folders on the host that hold its files."""
    cgroup: Path
    """The cgroup that all of its processes are in, or below."""
    rests_on: frozenset[Daemon] = frozenset()
    """The host's daemons that it was started under. Empty when its runtime needs none, or when they are unknown."""

    def lost(self) -> SandboxFault | None:
        """Return why it is dead although its container runs, or None as far as known. Asks nobody."""
        return daemons.check(self.rests_on)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sandbox that only has to be started and proven."""

    name: SandboxName
    identity: Identity
    profile: Profile
    created: Created

    def fits(self, profile: Profile) -> bool:
        """Whether it would be made the same way now: neither its profile nor its host has changed."""
        return self.profile.makes_the_same_as(profile) and self.created.host == host.look()


class Builder:
    """Makes and unmakes sandboxes on one engine, with subnets out of one range."""

    def __init__(self, engine: Engine, network_range: IPv4Network) -> None:
        self._engine = engine
        self._maker = Maker(engine, network_range)
        self._freezer = freezer.Freezer()

    def build(
        self, name: SandboxName, profile_name: str, profile: Profile, started: Callable[[IPv4Network], None]
    ) -> Built:
        """Make a sandbox and prove it; `started` gets its subnet once its container runs.

        Raises `SandboxFault`, `EngineError`, or `ConfigError` when no subnet is left. What was made by then is left for
        `remove`.
        """
        return self.boot(self.prepare(name, profile_name, profile), started)

    def prepare(self, name: SandboxName, profile_name: str, profile: Profile) -> Prepared:
        """Make a sandbox without starting it. Raises as `build` does."""
        identity = new_identity(str(name))
        return Prepared(name, identity, profile, self._maker.create(name, profile_name, profile, identity))

    def boot(self, prepared: Prepared, started: Callable[[IPv4Network], None]) -> Built:
        """Start and prove a prepared sandbox. Raises `SandboxFault` or `EngineError`."""
        self._maker.start(prepared.created, started)
        return self._prove_new(prepared)

    def adopt(self, built: Built) -> None:
        """Prove that a sandbox from an earlier life of the keeper is there, and is still the same.

        Its inner Docker Engine may be in any state: that is its job's doing. If its runtime's daemon is gone, no login
        is tried; it is adopted, then condemned for that at the next look. Raises `SandboxFault` or `EngineError`.
        """
        if built.boot_id != host.boot_id():
            raise SandboxFault(Fault.STOPPED, "The host was restarted, which ended it.")
        address = self._awake(built)
        if built.lost():
            return
        deadline = time.monotonic() + PROOF_DEADLINE
        try:
            readiness.prove(lambda: readiness.connect(address, deadline), built.identity, deadline)
        except SandboxFault as fault:
            if fault.fault not in (Fault.DOCKER_DEAD, Fault.WRONG_STORAGE_DRIVER):
                raise

    def prove_after_job(self, built: Built, *, container: bool = False) -> None:
        """End a job's processes, clean up and prove the sandbox again; with `container`, also run a container in it.

        Raises `SandboxFault` or `EngineError`.
        """
        deadline = time.monotonic() + PROOF_DEADLINE
        self._awake(built)
        self._end_others(built)
        # Look from outside first: a damaged sandbox may refuse the login, and is not worth cleaning.
        _require_clean(self._clean(built, self._glance(built, deadline), deadline))
        if container:
            self._run_container(built)

    def prove_idle(self, built: Built) -> None:
        """Prove an idle sandbox again, with a container in it. Raises `SandboxFault` or `EngineError`."""
        deadline = time.monotonic() + PROOF_DEADLINE
        self._awake(built)
        verdict = self.verdict(built, deadline)
        if verdict.kind is VerdictKind.CLEANABLE:
            verdict = self._clean(built, verdict, deadline)
        _require_clean(verdict)
        self._run_container(built)

    def verdict(self, built: Built, deadline: float) -> Verdict:
        """Freeze a sandbox and judge it from outside before the monotonic `deadline`.

        Raises `SandboxFault` or `EngineError` when it cannot be frozen.
        """
        with self._freezer.still(built.cgroup):
            return inspector.inspect(built.evidence, deadline)

    def runs(self, built: Built) -> bool:
        """Whether the sandbox's first process is there: when it ends, everything in the sandbox ends. Asks nobody."""
        return any(processes.is_there(one) for one in built.baseline if one.pid == built.evidence.init_pid)

    def end_job(self, built: Built) -> int:
        """End every process that was not there at `ready`; return how many. Raises `SandboxFault` or `EngineError`."""
        check_running(self._engine.facts(built.container_id))
        return self._end_others(built)

    def freeze(self, built: Built) -> None:
        """Freeze a sandbox until `thaw`. Raises `SandboxFault` or `EngineError`."""
        self._freezer.freeze(built.cgroup)

    def thaw(self, built: Built) -> None:
        """Thaw a sandbox; does nothing when it is not frozen, or gone. Raises `EngineError`."""
        self._freezer.thaw(built.cgroup)

    def remove(self, name: SandboxName, built: Built | None) -> None:
        """Remove everything with this sandbox's label. Raises `EngineError`."""
        if built and self._freezer.is_wanted(built.cgroup):
            # Its processes must not go on, and under cgroups version 1 frozen processes survive the removal.
            processes.end_first(built.baseline, built.evidence.init_pid)
            self._freezer.thaw(built.cgroup)
        self._engine.remove(name.installation, str(name))

    def _glance(self, built: Built, deadline: float) -> Verdict:
        """Look without freezing, which takes longer than the look. Only a frozen look decides against a sandbox."""
        verdict = inspector.inspect(built.evidence, deadline)
        return verdict if verdict.kind in _GOES_ON else self.verdict(built, deadline)

    def _clean(self, built: Built, verdict: Verdict, deadline: float) -> Verdict:
        """Clean a sandbox after a first look, and look again. Raises `SandboxFault` or `EngineError`."""
        cleaning = readiness.Cleaning(built.evidence.evidence.kept)
        for _ in range(_CLEANINGS):
            if verdict.kind not in _GOES_ON:
                break
            self._prove(built, deadline, cleaning)
            verdict = self.verdict(built, deadline)
            if verdict.kind is VerdictKind.CLEAN:
                break
        return verdict

    def _run_container(self, built: Built) -> None:
        """Prove that a container runs, with a deadline of its own: the cleaning before may have taken its time."""
        self._prove(built, time.monotonic() + PROOF_DEADLINE, container=True)

    def _prove(
        self, built: Built, deadline: float, cleaning: readiness.Cleaning | None = None, *, container: bool = False
    ) -> None:
        def dial() -> socket.socket:
            return readiness.connect(built.address, deadline)

        readiness.prove(dial, built.identity, deadline, cleaning, container=container)
        self._end_others(built)

    def _prove_new(self, prepared: Prepared) -> Built:
        container_id, identity, profile = prepared.created.container_id, prepared.identity, prepared.profile
        with self._maker.booting(container_id, profile) as boot:
            proof = readiness.prove(boot.dial, identity, boot.deadline)
        facts = boot.facts
        baseline = processes.at_rest(container_id)
        if facts.init_pid not in {process.pid for process in baseline}:
            # Without those processes, a job's would not be seen either, and every end of a job would look clean.
            raise EngineError("The keeper does not see its sandboxes' processes; it needs the host's (`pid: host`).")
        cgroup = freezer.group_of(facts.init_pid, container_id)
        with self._freezer.still(cgroup):  # as at every later look
            recorded = inspector.record(container_id, facts.init_pid, boot.deadline)
        baseline &= processes.at_rest(container_id)  # without helpers of inner Docker's boot that have ended since
        services = {(process.pid, process.start_time) for process in baseline}
        return Built(
            identity=identity,
            container_id=container_id,
            address=boot.address,
            runtime=facts.runtime,
            baseline=baseline,
            docker_version=proof.docker_version,
            profile=profile,
            boot_id=host.boot_id(),
            evidence=recorded.with_services(services),
            trees=(recorded.evidence.upper, self._engine.volume_path(str(prepared.name))),
            cgroup=cgroup,
        )

    def _awake(self, built: Built) -> str:
        """Check that the container runs, and thaw it in case an earlier keeper was killed while it was frozen."""
        self._freezer.wake(built.cgroup)
        return check_running(self._engine.facts(built.container_id))

    def _end_others(self, built: Built) -> int:
        deadline = time.monotonic() + KILL_DEADLINE
        return processes.end_others(
            built.container_id, built.baseline, lambda: self._freezer.still(built.cgroup), deadline
        )


def _require_clean(verdict: Verdict) -> None:
    if verdict.kind is not VerdictKind.CLEAN:
        raise SandboxFault(FAULTS[verdict.kind], str(verdict), verdict.causes)


def as_fault(error: SandboxError) -> SandboxFault:
    """Convert the error of a failed creation or look into a fault of the sandbox."""
    match error:
        case SandboxFault():
            return error
        case ConfigError():
            return SandboxFault(Fault.NO_SUBNET, str(error))
        case WallsDown():
            return SandboxFault(Fault.NO_WALLS, str(error))
        case ImageUnfit():  # as when a container ends right after its start
            return SandboxFault(Fault.STOPPED, str(error))
        case _:
            return SandboxFault(Fault.ENGINE_FAILED, str(error))
