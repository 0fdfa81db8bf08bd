"""A maker's questions while a sandbox boots."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import cast

import pytest

from sandbox import maker
from sandbox.engine import ContainerFacts, Engine, SubnetTaken
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.host import HostFacts
from sandbox.identity import new_identity
from sandbox.maker import Maker
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName

MARGIN = 10.0


@dataclass
class Container:
    """An engine with one container, which counts how often it is asked for it."""

    running: bool = True
    looks: list[str] = field(default_factory=list)

    def facts(self, container: str) -> ContainerFacts:
        self.looks.append(container)
        return ContainerFacts(container, self.running, "exited (1)", "sysbox-runc", 7, "10.0.0.2")

    def taken_subnets(self) -> list[IPv4Network]:
        return []


def booting(container: Container) -> Maker:
    return Maker(cast("Engine", container), IPv4Network("10.0.0.0/24"))


def test_a_container_that_boots_is_not_asked_for_at_each_try() -> None:
    """The trap: there are fifty tries a second, and each look takes processor time from what is waited for."""
    container = Container()
    patience = booting(container)._still_runs("one")
    for _ in range(100):
        patience()
    assert container.looks == ["one"]


class Slow:
    """An engine that makes as many containers at once as its test wants, and lists no network before they are made."""

    def __init__(self, at_once: int) -> None:
        self.barrier = threading.Barrier(at_once, timeout=MARGIN)
        self.subnets: list[IPv4Network] = []
        self.foreign: list[IPv4Network] = []
        """What another maker has taken since it was last asked."""

    def taken_subnets(self) -> list[IPv4Network]:
        return []

    def create_network(self, spec: ContainerSpec) -> None:
        if self.foreign == [spec.subnet]:
            self.foreign.clear()
            raise SubnetTaken("Pool overlaps with other one on this address space")
        self.subnets.append(spec.subnet)

    def create(self, spec: ContainerSpec) -> str:
        self.barrier.wait()
        return str(spec.name)


def create(made: Maker, generation: int) -> IPv4Network:
    name = SandboxName(InstallationId("0123abcd"), generation)
    return made.create(name, "default", Profile(), new_identity(str(name))).subnet


def test_sandboxes_are_made_side_by_side_in_subnets_of_their_own() -> None:
    """The trap: a creation that hangs in the engine kept all others, however many a host bears at once."""
    engine = Slow(at_once=4)
    made = Maker(cast("Engine", engine), IPv4Network("10.0.0.0/27"))  # four of them
    with ThreadPoolExecutor(4) as threads:
        subnets = list(threads.map(lambda _: create(made, 1), range(4)))
    assert sorted(subnets) == sorted(engine.subnets)
    assert len(set(subnets)) == 4


def test_a_subnet_is_reserved_until_its_network_is_there_and_no_longer() -> None:
    engine = Slow(at_once=1)
    made = Maker(cast("Engine", engine), IPv4Network("10.0.0.0/28"))
    first, second = (IPv4Network(f"10.0.0.{start}/29") for start in (0, 8))
    engine.foreign = [first]
    assert [create(made, 0), create(made, 0)] == [second, first]


def test_each_sandbox_follows_the_host_as_it_is_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: after another lease of its address, say, the host asks other resolvers than when the keeper began."""
    given: list[HostFacts] = []

    def container_spec(*arguments: object) -> ContainerSpec:
        given.extend(argument for argument in arguments if isinstance(argument, HostFacts))
        raise EngineError("That is enough.")

    monkeypatch.setattr(maker, "container_spec", container_spec)
    made = booting(Container())
    name, identity = SandboxName(InstallationId("0123abcd"), 1), new_identity("one")
    for server in ("192.0.2.1", "192.0.2.2"):
        facts = HostFacts(1024, 1500, (IPv4Address(server),))
        monkeypatch.setattr("sandbox.host.look", lambda facts=facts: facts)
        with pytest.raises(EngineError):
            made.make(name, "default", Profile(), identity, lambda _: None)
        assert given[-1] == facts


def test_one_that_has_ended_is_told_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "_LOOK_INTERVAL", 0.0)
    container = Container()
    patience = booting(container)._still_runs("one")
    patience()
    container.running = False
    with pytest.raises(SandboxFault, match="exited") as caught:
        patience()
    assert caught.value.fault is Fault.STOPPED
