"""Makes one sandbox, with its own network, container, keys and limits, up to the point where a login works.

Both the keeper's sandboxes and those that a person makes without a keeper come from here, with the same limits.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from sandbox import host, readiness
from sandbox.engine import ContainerFacts, Engine, NetworkMissing, SubnetTaken
from sandbox.errors import EngineError, EngineTimeout, EngineUnreachable, Fault, SandboxFault
from sandbox.identity import Identity
from sandbox.network import free_subnet
from sandbox.profile import InnerDocker, Profile
from sandbox.template import ContainerSpec, SandboxName, container_spec

BOOT_DEADLINE = 120.0
"""Seconds from start to proven. Inner Docker took 1.6 to 1.9 times as long under sysbox as without."""
_SUBNET_TRIES = 3
_LOOK_INTERVAL = 0.25
"""Seconds between two looks at a booting container: each look takes processor time from the boot."""


@dataclass(frozen=True, slots=True)
class Created:
    """A complete sandbox that was not started."""

    container_id: str
    subnet: IPv4Network
    host: host.HostFacts
    """The facts of the host that its specification follows."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A sandbox that was just started."""

    facts: ContainerFacts
    address: str
    deadline: float
    """The monotonic time by which it must be proven."""
    dial: readiness.Dial
    """Connects to its SSH server once that listens."""


class Maker:
    """Makes sandboxes on one engine, with subnets out of one range."""

    def __init__(self, engine: Engine, network_range: IPv4Network) -> None:
        self._engine = engine
        self._range = network_range
        self._choosing = threading.Lock()
        self._reserved: set[IPv4Network] = set()
        """Subnets of networks in the making, which the engine does not list yet."""

    def make(
        self,
        name: SandboxName,
        profile_name: str,
        profile: Profile,
        identity: Identity,
        started: Callable[[IPv4Network], None],
        docker: InnerDocker = InnerDocker.EAGER,
    ) -> str:
        """Make and start a sandbox; `started` gets its subnet once its container runs. Returns the container's id.

        Raises `EngineError`, or `ConfigError` when no subnet is left. The caller removes what was made by then.
        """
        created = self.create(name, profile_name, profile, identity, docker)
        self.start(created, started)
        return created.container_id

    def create(
        self,
        name: SandboxName,
        profile_name: str,
        profile: Profile,
        identity: Identity,
        docker: InnerDocker = InnerDocker.EAGER,
    ) -> Created:
        """Make a sandbox without starting it. Raises as `make` does."""
        facts = host.look()
        with ExitStack() as made:
            subnet = self._reserve(name, made)
            spec = container_spec(name, profile_name, profile, identity, subnet, facts, docker)
            container_id, subnet = self._create(spec, made)
        return Created(container_id, subnet, facts)

    def start(self, created: Created, started: Callable[[IPv4Network], None]) -> None:
        """Start a created sandbox; `started` gets its subnet once its container runs. Raises `EngineError`."""
        self._engine.start(created.container_id)
        started(created.subnet)

    @contextmanager
    def booting(self, container_id: str, profile: Profile) -> Iterator[Boot]:
        """Provide, for the block, what is needed to prove a sandbox that was just started.

        Raises `EngineError` or `SandboxFault`. A `SandboxFault`, also from the block, gets the container's last words.
        """
        facts = self._engine.facts(container_id)
        if facts.runtime != profile.runtime:
            raise SandboxFault(
                Fault.WRONG_RUNTIME,
                f"Its container reports the runtime {facts.runtime} although {profile.runtime} was asked for. "
                'Look at "runtimes" and "default-runtime" in the engine\'s daemon.json.',
            )
        try:
            address = check_running(facts)
            deadline = time.monotonic() + BOOT_DEADLINE
            patience = self._still_runs(container_id)
            yield Boot(facts, address, deadline, lambda: readiness.connect(address, deadline, patience))
        except SandboxFault as fault:
            words = self._engine.last_words(container_id)
            raise SandboxFault(fault.fault, f"{fault} Its last words: {words}" if words else str(fault)) from fault

    def _create(self, spec: ContainerSpec, made: ExitStack) -> tuple[str, IPv4Network]:
        """Create network and container in parallel: the container needs the network only at its start.

        Each takes a tenth of the whole creation. An engine that wants the network first is asked again.
        """
        with ThreadPoolExecutor(1) as beside:
            network = beside.submit(self._create_network, spec, made)
            try:
                container_id = self._engine.create(spec)
            except NetworkMissing:
                network.result()
                container_id = self._engine.create(spec)
            except (EngineTimeout, EngineUnreachable):
                raise
            except EngineError:
                self._engine.check(spec.runtime, spec.image)  # says what to do when runtime or image is missing
                raise
            return container_id, network.result()

    def _create_network(self, spec: ContainerSpec, made: ExitStack) -> IPv4Network:
        """Create the network and return its subnet. Tries others when another maker on this engine takes it first."""
        for _ in range(_SUBNET_TRIES):
            try:
                self._engine.create_network(spec)
            except SubnetTaken:
                spec = replace(spec, subnet=self._reserve(spec.name, made))
            else:
                return spec.subnet
        self._engine.create_network(spec)
        return spec.subnet

    def _reserve(self, name: SandboxName, made: ExitStack) -> IPv4Network:
        """Reserve a free subnet, which no other creation picks until `made` closes: by then the engine lists it."""
        taken = self._engine.taken_subnets()
        with self._choosing:
            subnet = free_subnet(self._range, [*taken, *self._reserved], name.generation)
            self._reserved.add(subnet)
        made.callback(self._release, subnet)
        return subnet

    def _release(self, subnet: IPv4Network) -> None:
        with self._choosing:
            self._reserved.discard(subnet)

    def _still_runs(self, container_id: str) -> readiness.Patience:
        next_look = 0.0

        def check() -> None:
            nonlocal next_look
            if (now := time.monotonic()) >= next_look:
                next_look = now + _LOOK_INTERVAL
                check_running(self._engine.facts(container_id))

        return check


def check_running(facts: ContainerFacts) -> str:
    """Return the address of a running container. Raises `SandboxFault` (`stopped`)."""
    if not facts.running or facts.address is None:
        raise SandboxFault(Fault.STOPPED, f"Its container is not running: {facts.status}.")
    return facts.address
