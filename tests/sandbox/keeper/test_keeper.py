"""The keeper with a made-up engine and a made-up builder: what it does when things go wrong, and in which order."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from sandbox import readiness
from sandbox.config import KeeperConfig
from sandbox.engine import Engine, Owned
from sandbox.errors import ConfigError, EngineError, EngineTimeout, Fault, KeeperRefused, RuntimeMissing, SandboxFault
from sandbox.identity import new_identity
from sandbox.keeper import keeper as keeper_module
from sandbox.keeper import protocol
from sandbox.keeper.builder import Builder, Built
from sandbox.keeper.home import Home
from sandbox.keeper.keeper import Keeper
from sandbox.processes import Process
from sandbox.profile import Profile, Recreate
from sandbox.state import State
from sandbox.template import InstallationId, SandboxName

MARGIN = 10.0
_IDENTITY = new_identity("sandbox-1")


class Host:
    """Engine and builder at once: what exists, and what goes wrong as the test says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.containers: dict[str, bool] = {}
        """By name: whether it runs."""
        self.made: list[str] = []
        self.calls: list[str] = []
        self.on_check: Callable[[], object] = lambda: None
        self.on_build: Callable[[], object] = lambda: None
        self.on_inspect: Callable[[], object] = lambda: None
        self.on_kill: Callable[[], object] = lambda: None
        self.on_remove: Callable[[], object] = lambda: None
        self.on_list: Callable[[], object] = lambda: None

    # the engine's part

    def check(self, runtime: str, image: str) -> None:
        self.on_check()

    def owned(self, installation: InstallationId) -> list[Owned]:
        self.on_list()
        with self.lock:
            return [Owned(name, runs, "running" if runs else "exited") for name, runs in self.containers.items()]

    # shared: the engine removes everything, the builder one sandbox

    def remove(self, what: InstallationId | SandboxName) -> int:
        self.calls.append(f"remove {what}")
        self.on_remove()
        with self.lock:
            names = [str(what)] if isinstance(what, SandboxName) else list(self.containers)
            return sum(self.containers.pop(name, None) is not None for name in names)

    # the builder's part

    def build(self, name: SandboxName, profile_name: str, profile: Profile, booting: Callable[[], None]) -> Built:
        with self.lock:
            self.made.append(str(name))
            self.containers[str(name)] = True
        booting()
        self.on_build()
        return Built(_IDENTITY, f"id-of-{name}", "127.0.0.1", profile.runtime, frozenset({Process(7, 1)}), "26.1.5")

    def inspect(self, built: Built, clean: bool) -> None:
        self.calls.append(f"inspect clean={clean}")
        self.on_inspect()

    def end_job(self, built: Built) -> int:
        self.on_kill()
        return 3


class World:
    """A running keeper."""

    def __init__(self, folder: Path, host: Host, **profile: object) -> None:
        self.host = host
        self.home = Home(folder)
        profiles = {"default": Profile.model_validate({"warm": 1, "runtime": "sysbox-runc"} | profile)}
        config = KeeperConfig(profiles=profiles)
        self.keeper = Keeper(config, cast(Engine, host), self.home, cast(Builder, host))
        self.thread = threading.Thread(target=self.keeper.run)

    def run(self) -> None:
        self.thread.start()

    def stop(self, patience: float = 0.0) -> None:
        self.keeper.stop(patience)
        self.thread.join(MARGIN)
        assert not self.thread.is_alive()

    def lend(self, attempt: str = "a1", key: str = "team", wait: float = MARGIN) -> protocol.LeaseGrant:
        request = protocol.Lend(attempt=attempt, profile="default", trust_key=key, wait=wait)
        return self.keeper.lend(request)[0]

    def give_back(self, grant: protocol.LeaseGrant, used: bool = True) -> None:
        self.keeper.give_back(protocol.Return(token=grant.token, used=used))

    def condemned(self) -> list[tuple[str, Fault | None]]:
        return [(report.name, report.fault) for report in self.keeper.listing().condemned]

    def wait_for(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until it holds; else fail with the last state. Looked at again whenever the pool changes."""
        end = time.monotonic() + MARGIN
        while not holds():
            assert time.monotonic() < end, f"{what} did not happen: {self.keeper.listing()!r}"
            with self.keeper._changed:
                self.keeper._changed.wait(0.02)

    def wait_for_condemned(self, fault: Fault) -> str:
        """The name of the first sandbox that was condemned, for that."""
        self.wait_for(f"condemning for {fault}", self.condemned)
        [(name, found), *_] = reversed(self.condemned())
        assert found is fault, self.keeper.listing().condemned
        return name

    def states(self) -> list[State]:
        return [report.state for report in self.keeper.listing().sandboxes]


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
        setattr(host, name, lambda: None)
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


# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_missing_runtime_refuses_the_start_before_anything_is_touched(tmp_path: Path, host: Host) -> None:
    host.containers["sandbox-left"] = True
    host.on_check = fail(RuntimeMissing("The runtime is not registered."))
    with pytest.raises(RuntimeMissing):
        World(tmp_path, host).keeper.start()
    assert host.containers == {"sandbox-left": True}


def test_start_removes_what_an_earlier_life_left(tmp_path: Path, host: Host) -> None:
    world = World(tmp_path, host)
    host.containers["sandbox-left"] = False
    world.keeper.start()
    assert host.containers == {}
    assert host.calls == [f"remove {world.home.installation}"]


def test_a_runtime_that_is_not_sysbox_is_said(tmp_path: Path, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    World(tmp_path, host, runtime="userns-runc").keeper.start()
    assert "userns-runc was asked for; it is not the wall" in caplog.text


# -- lending ----------------------------------------------------------------------------------------------------------


def test_it_lends_what_is_needed_to_log_in(world: World) -> None:
    grant = world.lend()
    assert (grant.sandbox, grant.generation) == (world.host.made[0], 1)
    assert (grant.host_key, grant.client_key) == (_IDENTITY.host.public, _IDENTITY.client.private)
    assert world.states() == [State.LEASED]


def test_asking_again_gives_the_same_lease(world: World) -> None:
    assert world.lend() == world.lend()


def test_a_request_waits_for_a_sandbox_that_is_being_made(world: World) -> None:
    booting, go = threading.Event(), threading.Event()
    grant = world.lend()

    def slowly() -> None:
        booting.set()
        go.wait(MARGIN)

    world.host.on_build = slowly
    world.keeper.condemn(protocol.Condemn(token=grant.token, reason="next"))
    assert booting.wait(MARGIN)
    threading.Timer(0.05, go.set).start()
    assert world.lend("a2").sandbox == world.host.made[1]


def test_after_its_wait_a_request_is_refused_with_the_last_trouble(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(SandboxFault(Fault.SSH_DEAD, "Its sshd never came up."))
    world = make()
    world.wait_for_condemned(Fault.SSH_DEAD)
    began = time.monotonic()
    with pytest.raises(KeeperRefused, match=r"within 0 s.*Its sshd never came up\."):
        world.lend(wait=0.2)
    assert 0.15 < time.monotonic() - began < 0.2 + 1


def test_a_busy_pool_is_no_trouble(world: World) -> None:
    world.lend()
    with pytest.raises(KeeperRefused, match=r"\(1 leased\)\.$"):
        world.lend("a2", wait=0.0)


def test_an_unknown_profile_is_refused_with_the_known_ones(world: World) -> None:
    with pytest.raises(KeeperRefused, match=r"no profile big.*default"):
        world.keeper.lend(protocol.Lend(attempt="a1", profile="big", trust_key="team", wait=1))


def test_a_sandbox_that_cannot_be_connected_is_condemned_and_the_next_one_lent(
    world: World, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]
) -> None:
    refusals = [SandboxFault(Fault.SSH_DEAD, "Nothing answers on its SSH port.")]

    def connect_second(*_: object) -> socket.socket:
        if refusals:
            raise refusals.pop()
        return connect()

    monkeypatch.setattr(readiness, "connect", connect_second)
    grant = world.lend()
    assert world.wait_for_condemned(Fault.SSH_DEAD) == world.host.made[0]
    assert grant.sandbox == world.host.made[1]


def test_a_sandbox_that_is_gone_before_its_connection_fails_is_no_defect(
    world: World, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]
) -> None:
    def connect_second(*_: object) -> socket.socket:
        if len(world.host.made) > 1:
            return connect()
        world.host.containers.clear()
        world.wait_for("its removal", lambda: world.host.made[0] not in {s.name for s in world.keeper._pool})
        raise SandboxFault(Fault.SSH_DEAD, "Nothing answers on its SSH port.")

    monkeypatch.setattr(readiness, "connect", connect_second)
    assert world.lend().sandbox == world.host.made[1]


def test_another_trust_key_gets_a_sandbox_of_its_own(world: World) -> None:
    world.give_back(world.lend(key="alice"))
    assert world.lend("a2", key="bob").sandbox == world.host.made[1]
    assert world.condemned() == [(world.host.made[0], Fault.OTHER_TRUST_KEY)]


def test_waiting_requests_do_not_keep_each_other_busy(world: World) -> None:
    world.lend()
    looks, listing = [0], world.keeper._pool.lend

    def lend(*arguments: object) -> object:
        looks[0] += 1
        return listing(*arguments)  # type: ignore[arg-type]

    world.keeper._pool.lend = lend  # type: ignore[assignment,method-assign]

    def ask(attempt: str) -> None:
        with pytest.raises(KeeperRefused):
            world.lend(attempt, wait=0.4)

    threads = [threading.Thread(target=ask, args=(f"b{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MARGIN)
    # Each looks every 20 ms here, and when another one comes; waking each other they would look thousands of times.
    assert looks[0] < 4 * (0.4 / 0.02) * 3


# -- the end of a lease -----------------------------------------------------------------------------------------------


def test_a_used_sandbox_is_cleaned_and_lent_again_to_its_key(world: World) -> None:
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox == first.sandbox
    assert "inspect clean=True" in world.host.calls


def test_each_lease_has_a_token_of_its_own(world: World) -> None:
    first = world.lend()
    world.give_back(first)
    second = world.lend("a2")
    assert second.token != first.token
    with pytest.raises(KeeperRefused, match="over"):
        world.keeper.kill(protocol.Kill(token=first.token))


def test_a_sandbox_that_fails_its_inspection_is_recreated(world: World) -> None:
    world.host.on_inspect = fail_once(SandboxFault(Fault.WRONG_STORAGE_DRIVER, "It is on vfs."))
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox != first.sandbox
    assert world.condemned() == [(first.sandbox, Fault.WRONG_STORAGE_DRIVER)]


def test_recreate_always_makes_a_new_one_for_each_job(make: Callable[..., World]) -> None:
    world = make(recreate=Recreate.ALWAYS)
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox != first.sandbox
    assert world.condemned() == [(first.sandbox, Fault.RECREATE_POLICY)]


def test_a_vanished_container_is_condemned_under_its_lease(world: World) -> None:
    grant = world.lend()
    world.host.containers.clear()
    assert world.wait_for_condemned(Fault.GONE) == grant.sandbox
    with pytest.raises(KeeperRefused, match="over"):
        world.keeper.renew(protocol.Renew(token=grant.token))


def test_a_stopped_container_is_condemned(world: World) -> None:
    grant = world.lend()
    world.host.containers[grant.sandbox] = False
    assert world.wait_for_condemned(Fault.STOPPED) == grant.sandbox


def test_a_lease_that_is_not_renewed_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.1)
    grant = world.lend()
    assert world.wait_for_condemned(Fault.LEASE_EXPIRED) == grant.sandbox


def test_a_lease_that_is_renewed_does_not_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.3)
    grant = world.lend()
    for _ in range(12):
        threading.Event().wait(0.05)  # this test is about time
        world.keeper.renew(protocol.Renew(token=grant.token))
    assert world.condemned() == []


def test_a_job_that_cannot_be_killed_costs_its_sandbox(world: World) -> None:
    grant = world.lend()
    world.host.on_kill = fail(SandboxFault(Fault.PROCESSES_LEFT, "2 of its job's processes could not be ended."))
    with pytest.raises(KeeperRefused, match="2 of its job's processes"):
        world.keeper.kill(protocol.Kill(token=grant.token))
    assert world.wait_for_condemned(Fault.PROCESSES_LEFT) == grant.sandbox


def test_a_kill_that_the_engine_does_not_answer_costs_the_sandbox(world: World) -> None:
    grant = world.lend()
    world.host.on_kill = fail(EngineTimeout("The Docker Engine did not finish 'pause' within 30 s."))
    with pytest.raises(KeeperRefused, match="pause"):
        world.keeper.kill(protocol.Kill(token=grant.token))
    assert world.wait_for_condemned(Fault.ENGINE_FAILED) == grant.sandbox


def test_the_runner_can_condemn(world: World) -> None:
    grant = world.lend()
    world.keeper.condemn(protocol.Condemn(token=grant.token, reason="sshd hung up"))
    assert world.wait_for_condemned(Fault.CONDEMNED_BY_RUNNER) == grant.sandbox
    assert world.keeper.listing().condemned[0].reason == "sshd hung up"


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_defect_while_making_one_does_not_cost_its_place(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail_once(ZeroDivisionError())
    world = make()
    assert world.lend().sandbox == host.made[1]
    assert world.condemned() == [(host.made[0], Fault.KEEPER_DEFECT)]


def test_a_defect_while_inspecting_does_not_cost_its_place(world: World) -> None:
    world.host.on_inspect = fail_once(ZeroDivisionError())
    world.give_back(world.lend())
    assert world.lend("a2").sandbox == world.host.made[1]
    assert world.condemned() == [(world.host.made[0], Fault.KEEPER_DEFECT)]


def test_a_defect_while_removing_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.STUCK_RETRY", 0.05)
    world.host.on_remove = fail_once(ZeroDivisionError())
    grant = world.lend()
    world.keeper.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.wait_for("its removal", lambda: grant.sandbox not in world.host.containers)


def test_a_removal_that_fails_is_stuck_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.STUCK_RETRY", 0.1)
    world.host.on_remove = fail(EngineTimeout("It did not finish 'remove container'."))
    grant = world.lend()
    world.keeper.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.wait_for("its being stuck", lambda: State.STUCK in world.states())
    world.host.on_remove = lambda: None
    world.wait_for("its removal", lambda: grant.sandbox not in world.host.containers)


def test_a_full_network_range_is_told_in_its_own_words(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(ConfigError("No subnet is left in the network range."))
    world = make()
    world.wait_for_condemned(Fault.NO_SUBNET)
    assert "No subnet is left" in world.keeper.ping().message


@pytest.mark.parametrize("error", [EngineError("It refused."), OSError("the disk is full"), ZeroDivisionError()])
def test_the_loop_does_not_die_whatever_a_pass_meets(
    make: Callable[..., World], host: Host, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    passes = threading.Semaphore(0)

    def act() -> None:
        passes.release()
        raise error

    host.on_list = act
    world = make()
    for _ in range(5):
        assert passes.acquire(timeout=MARGIN)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1  # told, and not with every pass
    host.on_list = lambda: None
    assert world.lend().sandbox == host.made[0]


def test_ping_tells_what_is_lacking_and_why(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(SandboxFault(Fault.DOCKER_DEAD, "Its Docker Engine does not answer."))
    world = make()
    world.wait_for_condemned(Fault.DOCKER_DEAD)
    pong = world.keeper.ping()
    assert not pong.fit
    assert "No sandbox for: default" in pong.message
    assert "Its Docker Engine does not answer." in pong.message


def test_ping_is_content_with_a_sandbox_at_work(world: World) -> None:
    world.lend()
    assert world.keeper.ping() == protocol.Pong(fit=True, message="ready")


def test_a_listing_tells_whom_a_sandbox_serves_and_no_secret(world: World) -> None:
    grant = world.lend()
    [report] = world.keeper.listing().sandboxes
    assert (report.attempt, report.trust_key, report.processes_at_ready) == ("a1", "team", [7])
    assert grant.token not in world.keeper.listing().model_dump_json()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_waits_for_what_is_lent_and_removes_everything(world: World, host: Host) -> None:
    grant = world.lend()
    stopping = threading.Thread(target=world.stop, args=(MARGIN,))
    stopping.start()
    world.wait_for("stopping", world.keeper._stopping.is_set)
    assert host.containers == {grant.sandbox: True}
    with pytest.raises(KeeperRefused, match="stopping"):
        world.lend("a2")
    world.give_back(grant)
    stopping.join(MARGIN)
    assert not stopping.is_alive()
    assert host.containers == {}


def test_stop_does_not_wait_longer_than_its_patience(world: World, host: Host) -> None:
    world.lend()
    began = time.monotonic()
    world.stop(patience=0.2)
    assert time.monotonic() - began < 0.2 + 1
    assert host.containers == {}


def test_stop_does_not_wait_for_a_runner_that_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.2)
    world.lend()
    began = time.monotonic()
    world.stop(patience=60.0)
    assert time.monotonic() - began < 5


def test_stop_ends_waiting_requests(world: World) -> None:
    world.lend()
    caught: list[str] = []

    def ask() -> None:
        try:
            world.lend("a2", wait=60)
        except KeeperRefused as error:
            caught.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    world.wait_for("its waiting", lambda: world.keeper._wants)
    world.stop()
    asking.join(MARGIN)
    assert "stopping" in caught[0]


def test_stop_removes_what_a_creation_under_way_left(make: Callable[..., World], host: Host) -> None:
    building, go = threading.Event(), threading.Event()

    def late() -> None:
        building.set()
        go.wait(MARGIN)
        host.containers["sandbox-late"] = True

    host.on_build = late
    world = make()
    assert building.wait(MARGIN)
    stopping = threading.Thread(target=world.stop)
    stopping.start()
    world.wait_for("the first removal", lambda: host.calls)
    go.set()
    stopping.join(MARGIN)
    assert host.containers == {}


def test_stop_tries_again_what_did_not_go_and_tells(world: World, host: Host) -> None:
    world.lend()
    host.on_remove = fail_once(EngineTimeout("It did not finish 'remove container'."))
    world.stop()
    assert host.containers == {}


def test_stop_tells_what_would_not_go(world: World, host: Host) -> None:
    world.lend()
    host.on_remove = fail(EngineTimeout("It did not finish 'remove container'."))
    with pytest.raises(EngineTimeout):
        world.stop()
    world.thread.join(MARGIN)


def test_nothing_is_made_once_it_stops(world: World, host: Host) -> None:
    grant = world.lend()
    stopping = threading.Thread(target=world.stop, args=(MARGIN,))
    stopping.start()
    world.wait_for("stopping", world.keeper._stopping.is_set)
    world.keeper.condemn(protocol.Condemn(token=grant.token, reason="it broke"))
    stopping.join(MARGIN)
    assert host.made == [grant.sandbox]
    assert host.containers == {}
