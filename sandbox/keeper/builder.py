"""What the keeper does to one sandbox: make and prove it, look at it after a job, remove it. Blocking; no pool here."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network

from sandbox import host, processes, readiness
from sandbox.engine import ContainerFacts, Engine
from sandbox.errors import ConfigError, EngineError, Fault, SandboxFault
from sandbox.identity import Identity, new_identity
from sandbox.network import free_subnet
from sandbox.processes import Process
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, SandboxName, container_spec

BOOT_DEADLINE = 120.0
"""Seconds from start to proven. Inner Docker under sysbox took 1.6 to 1.9 times what it takes without."""
INSPECT_DEADLINE = 15.0
"""Seconds to look at a sandbox after a job, cleaning included."""
KILL_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Built:
    """A sandbox that was proven fit, and what is needed to reach and to judge it."""

    identity: Identity
    container_id: str
    address: str
    runtime: str
    baseline: frozenset[Process]
    """The processes that were there at `ready`; every other one is a job's."""
    docker_version: str


class Builder:
    """Makes and unmakes sandboxes on one engine, with subnets out of one range."""

    def __init__(self, engine: Engine, network_range: IPv4Network) -> None:
        self._engine = engine
        self._range = network_range
        self._host = host.look()
        self._networks = threading.Lock()

    def build(self, name: SandboxName, profile_name: str, profile: Profile, booting: Callable[[], None]) -> Built:
        """Make a sandbox and prove it; `booting` is told when its container has been started.

        Raises `SandboxFault`, `EngineError`, or `ConfigError` when no subnet is left; what was made then stays to be
        removed.
        """
        self._engine.check(profile.runtime, profile.image)
        identity = new_identity(str(name))
        # Which subnets are taken is looked up and acted on under one lock: two creations must not pick the same.
        with self._networks:
            subnet = free_subnet(self._range, self._engine.taken_subnets(), name.generation)
            spec = container_spec(name, profile_name, profile, identity, subnet, self._host)
            container_id = self._create(spec)
        self._engine.start(container_id)
        booting()
        return self._prove_new(container_id, identity, profile.runtime)

    def _create(self, spec: ContainerSpec) -> str:
        """Create network and container side by side: the container needs the network only when it starts.

        Each takes a tenth of the whole creation. An engine that wants the network first is asked again.
        """
        with ThreadPoolExecutor(1) as beside:
            network = beside.submit(self._engine.create_network, spec)
            try:
                return self._engine.create(spec)
            except EngineError:
                network.result()
                return self._engine.create(spec)
            finally:
                network.result()

    def inspect(self, built: Built, clean: bool) -> None:
        """Prove a sandbox again, after a job (`clean`) or while idle. Raises `SandboxFault` or `EngineError`."""
        deadline = time.monotonic() + INSPECT_DEADLINE
        _check_running(self._engine.facts(built.container_id))
        if clean:
            self._end_others(built)
        folders = readiness.JOB_FOLDERS if clean else ()
        readiness.prove(lambda: readiness.connect(built.address, deadline), built.identity, deadline, folders)
        self._end_others(built)

    def end_job(self, built: Built) -> int:
        """End every process that was not there at `ready`. Returns how many. Raises `SandboxFault` or `EngineError`."""
        _check_running(self._engine.facts(built.container_id))
        return self._end_others(built)

    def remove(self, name: SandboxName) -> None:
        """Remove what belongs to this creation, by label. Raises `EngineError`."""
        self._engine.remove(name.installation, str(name))

    def _prove_new(self, container_id: str, identity: Identity, runtime: str) -> Built:
        facts = self._engine.facts(container_id)
        if facts.runtime != runtime:
            raise SandboxFault(
                Fault.WRONG_RUNTIME,
                f"Its container reports the runtime {facts.runtime} although {runtime} was asked for. "
                'Look at "runtimes" and "default-runtime" in the engine\'s daemon.json.',
            )
        try:
            address = _check_running(facts)
            deadline = time.monotonic() + BOOT_DEADLINE
            proof = readiness.prove(
                lambda: readiness.connect(address, deadline, self._still_runs(container_id)), identity, deadline
            )
        except SandboxFault as fault:
            words = self._engine.last_words(container_id)
            raise SandboxFault(fault.fault, f"{fault} Its last words: {words}" if words else str(fault)) from fault
        baseline = processes.settled(container_id, time.monotonic() + 2.0)
        if facts.init_pid not in {process.pid for process in baseline}:
            # Without them a job's processes would not be seen either, and every end of a job would look clean.
            raise EngineError("The keeper does not see its sandboxes' processes; it needs the host's (`pid: host`).")
        return Built(identity, container_id, address, runtime, baseline, proof.docker_version)

    def _still_runs(self, container_id: str) -> readiness.Patience:
        def check() -> None:
            _check_running(self._engine.facts(container_id))

        return check

    def _end_others(self, built: Built) -> int:
        deadline = time.monotonic() + KILL_DEADLINE
        return processes.end_others(
            built.container_id, built.baseline, lambda: self._engine.paused(built.container_id), deadline
        )


def _check_running(facts: ContainerFacts) -> str:
    if not facts.running or facts.address is None:
        raise SandboxFault(Fault.STOPPED, f"Its container is not running: {facts.status}.")
    return facts.address


def as_fault(error: SandboxFault | EngineError | ConfigError) -> SandboxFault:
    """What a failed creation or look says about the sandbox."""
    if isinstance(error, SandboxFault):
        return error
    return SandboxFault(Fault.NO_SUBNET if isinstance(error, ConfigError) else Fault.ENGINE_FAILED, str(error))
