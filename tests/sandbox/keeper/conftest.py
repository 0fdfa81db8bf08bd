"""A keeper with a fake engine and a fake builder, which fail as a test says."""

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

import pytest

from sandbox import readiness
from sandbox.config import KeeperConfig
from sandbox.engine import Engine, Owned
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.host import look
from sandbox.identity import new_identity
from sandbox.inspection.evidence import Baseline, Events, Evidence, Network
from sandbox.inspection.judge import Verdict, VerdictKind
from sandbox.keeper import guard as guard_module
from sandbox.keeper import images as images_module
from sandbox.keeper import keeper as keeper_module
from sandbox.keeper import protocol
from sandbox.keeper import verbs as verbs_module
from sandbox.keeper.builder import Builder, Built, Prepared
from sandbox.keeper.home import Home
from sandbox.keeper.keeper import Keeper
from sandbox.maker import Created
from sandbox.network import Count, Refusal, Wall, Walls, WallState
from sandbox.processes import Process
from sandbox.profile import Profile
from sandbox.state import State
from sandbox.template import InstallationId, SandboxName

MARGIN = 10.0
IDENTITY = new_identity("sandbox-1")
SUBNET = IPv4Network("10.213.0.8/29")
EVIDENCE = Baseline(
    "id",
    7,
    Evidence(
        init_start=1,
        upper="/upper",
        lower=(),
        mounts=(),
        processes=(),
        entries={},
        crowded=(),
        complete=True,
        network=Network((), ()),
        events=Events(0, 0),
        commands=frozenset(),
        kept={},
    ),
)


class Host:
    """Engine and builder at once: what exists, and what goes wrong as the test says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.containers: dict[str, bool] = {}
        """By name: whether it runs."""
        self.networks: set[str] = set()
        """Names of sandboxes of which only a network is left."""
        self.labelled = "default"
        """The profile that is on everything."""
        self.made: list[str] = []
        self.images = {"sandbox:latest": "sha256:first"}
        """What each name means."""
        self.image_ids = {"sha256:first"}
        self.made_from: dict[str, str] = {}
        self.unfit_images: set[str] = set()
        self.calls: list[str] = []
        self.walls: dict[str, Wall] = {}
        self.on_walls: Callable[[], WallState] = lambda: WallState.STANDING
        self.verdict_of = Verdict(VerdictKind.CLEAN, ())
        self.on_check: Callable[[], object] = lambda: None
        self.on_check_storage: Callable[[], object] = lambda: None
        self.subnets = [IPv4Network("172.17.0.0/16"), SUBNET]
        self.seen = False
        """Whether its processes are to be seen."""
        self.facts = look()
        """What it looks like, by which sandboxes are made."""
        self.on_prepare: Callable[[], object] = lambda: None
        self.on_build: Callable[[], object] = lambda: None
        self.on_inspect: Callable[[], object] = lambda: None
        self.on_container: Callable[[], object] = lambda: None
        """While one is run in a sandbox."""
        self.on_adopt: Callable[[], object] = lambda: None
        self.on_kill: Callable[[], object] = lambda: None
        self.on_remove: Callable[[], object] = lambda: None
        self.unremovable: set[str] = set()
        self.on_list: Callable[[], object] = lambda: None

    # the engine's part

    def data_root(self) -> Path:
        return Path("/")

    def shows_its_host(self) -> bool:
        return self.seen

    def taken_subnets(self, driver: str | None = None) -> list[IPv4Network]:
        return list(self.subnets)

    def check(self, runtime: str, image: str) -> None:
        self.on_check()

    def check_storage(self) -> None:
        self.on_check_storage()

    def image_id(self, image: str) -> str | None:
        return image if image in self.image_ids else self.images.get(image)

    def tag(self, image_id: str, name: str = "sandbox:latest") -> None:
        """An image was built under that name; what the name meant before stays."""
        self.image_ids.add(image_id)
        self.images[name] = image_id

    def owned(self, installation: InstallationId) -> list[Owned]:
        self.on_list()
        with self.lock:
            containers = self.containers.items()
            return [Owned(f"id-of-{name}", name, runs, "running" if runs else "exited") for name, runs in containers]

    def names(self, installation: InstallationId) -> set[str]:
        with self.lock:
            return {*self.containers, *self.networks}

    def profiles(self, installation: InstallationId) -> dict[str, str]:
        return dict.fromkeys(self.names(installation), self.labelled)

    # shared: the engine removes by installation and name, the builder by both in one

    def remove(self, what: InstallationId | SandboxName, which: str | Built | None = None) -> int:
        sandbox = which if isinstance(which, str) else str(what)
        self.calls.append(f"remove {sandbox}")
        self.on_remove()
        if sandbox in self.unremovable:
            raise EngineError(f"The Docker Engine refused to remove {sandbox}.")
        with self.lock:
            self.networks.discard(sandbox)
            return self.containers.pop(sandbox, None) is not None

    # the builder's part

    def prepare(self, name: SandboxName, profile_name: str, profile: Profile) -> Prepared:
        self.on_prepare()
        with self.lock:
            self.containers[str(name)] = False
        return Prepared(name, IDENTITY, profile, Created(f"id-of-{name}", SUBNET, self.facts))

    def boot(self, prepared: Prepared, started: Callable[[IPv4Network], None]) -> Built:
        name, profile = prepared.name, prepared.profile
        with self.lock:
            self.made.append(str(name))
            self.containers[str(name)] = True
            self.made_from[str(name)] = profile.image
        started(SUBNET)
        self.on_build()
        if profile.image in self.unfit_images:
            raise SandboxFault(Fault.SSH_DEAD, "Its sshd never came up.")
        return Built(
            identity=IDENTITY,
            container_id=f"id-of-{name}",
            address="10.213.0.10",
            runtime=profile.runtime,
            baseline=frozenset({Process(7, 1)}),
            docker_version="26.1.5",
            profile=profile,
            boot_id="this-boot",
            evidence=EVIDENCE,
            trees=(),
            cgroup=Path("/nowhere"),
        )

    def adopt(self, built: Built) -> None:
        self.calls.append(f"adopt {built.container_id}")
        self.on_adopt()

    def prove_after_job(self, built: Built, *, container: bool = False) -> None:
        self.calls.append("prove after job")
        self.on_inspect()
        if container:
            self.on_container()

    def prove_idle(self, built: Built) -> None:
        self.calls.append("prove idle")
        self.on_inspect()
        self.on_container()

    def freeze(self, built: Built) -> None:
        self.calls.append(f"freeze {built.container_id}")

    def thaw(self, built: Built) -> None:
        self.calls.append(f"thaw {built.container_id}")

    def verdict(self, built: Built, deadline: float) -> Verdict:
        return self.verdict_of

    def runs(self, built: Built) -> bool:
        return self.containers.get(built.container_id.removeprefix("id-of-"), False)

    def end_job(self, built: Built) -> int:
        self.on_kill()
        return 3


class HostWalls:
    """The walls of a made-up host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def put(self, bridge: str, wall: Wall) -> None:
        self.host.walls[bridge] = wall

    def forget(self, bridge: str) -> None:
        self.host.walls.pop(bridge, None)

    def ensure(self, neighbours: Collection[IPv4Network] | None = None) -> WallState:
        return self.host.on_walls()

    def remove(self) -> None:
        self.host.walls = {}

    def counters(self) -> dict[Refusal, Count]:
        self.host.on_walls()
        return {Refusal.HOST: Count(3, 180)}


def ask(attempt: str = "a1", **more: object) -> protocol.Lend:
    """A request with a token that follows from the attempt."""
    usual = {"attempt": attempt, "token": f"token-of-{attempt:_<20}", "profile": "default", "trust_key": "team"}
    return protocol.Lend.model_validate({**usual, "wait": MARGIN, "patience": 0.0, **more})


class World:
    """A running keeper."""

    def __init__(self, folder: Path, host: Host, **profile: object) -> None:
        self.host = host
        self.home = Home(folder)
        self.profile = {"warm": 1, "runtime": "sysbox-runc"} | profile
        config = KeeperConfig(profiles={"default": Profile.model_validate(self.profile)})
        self.keeper = Keeper(config, cast(Engine, host), self.home, cast(Builder, host), cast(Walls, HostWalls(host)))
        self.watch = self.keeper._watch
        self.thread = threading.Thread(target=self.keeper.run)

    def follow(self, **changes: object) -> None:
        self.keeper.follow(KeeperConfig(profiles={"default": Profile.model_validate(self.profile | changes)}))

    def run(self) -> None:
        self.thread.start()

    def stop(self, patience: float = 0.0) -> None:
        self.keeper.stop(patience)
        self.thread.join(MARGIN)
        assert not self.thread.is_alive()

    def lend(
        self, attempt: str = "a1", key: str = "team", wait: float = MARGIN, patience: float = 0.0
    ) -> protocol.LeaseGrant:
        return self.keeper.verbs.lend(ask(attempt, trust_key=key, wait=wait, patience=patience))[0]

    def give_back(self, grant: protocol.LeaseGrant, used: bool = True) -> None:
        self.keeper.verbs.give_back(protocol.Return(token=grant.token, used=used))

    def condemned(self) -> list[tuple[str, Fault | None]]:
        return [(report.name, report.fault) for report in self.keeper.verbs.listing().condemned]

    def wait_for(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until it holds; else fail with the last state. Looked at again whenever the pool changes."""
        end = time.monotonic() + MARGIN
        while not holds():
            assert time.monotonic() < end, f"{what} did not happen: {self.keeper.verbs.listing()!r}"
            with self.keeper._stock.changed:
                self.keeper._stock.changed.wait(0.02)

    def wait_for_condemned(self, fault: Fault) -> str:
        """The name of the first sandbox that was condemned, for that."""
        self.wait_for(f"condemning for {fault}", self.condemned)
        [(name, found), *_] = reversed(self.condemned())
        assert found is fault, self.keeper.verbs.listing().condemned
        return name

    def states(self) -> list[State]:
        return [report.state for report in self.keeper.verbs.listing().sandboxes]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., socket.socket]]:
    """Stands in for `readiness.connect`."""
    made: list[socket.socket] = []

    def connect(*_: object) -> socket.socket:
        made.extend(socket.socketpair())
        return made[-1]

    monkeypatch.setattr(readiness, "connect", connect)
    yield connect
    for end in made:
        end.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]) -> Host:
    monkeypatch.setattr(keeper_module, "RECONCILE_INTERVAL", 0.02)
    monkeypatch.setattr(images_module, "LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(verbs_module, "LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(guard_module, "require_bridge", lambda _: None)
    return Host()


@pytest.fixture
def make(tmp_path: Path, host: Host) -> Iterator[Callable[..., World]]:
    """Makes a running keeper; `profile` fields by name."""
    made: list[World] = []

    def make(**profile: object) -> World:
        made.append(World(tmp_path, host, **profile))
        made[-1].run()
        return made[-1]

    yield make
    for name in [name for name in vars(host) if name.startswith("on_")]:
        setattr(host, name, lambda: WallState.STANDING)
    for world in made:
        if world.thread.is_alive():
            world.stop()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def fail(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def fail_once(error: Exception) -> Callable[[], None]:
    left = [error]

    def act() -> None:
        if left:
            raise left.pop()

    return act
