"""A killed keeper, and the next one on its state folder: what it takes over and what it does not."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest

from sandbox import durable, pool
from sandbox.daemons import Daemon
from sandbox.engine import Engine
from sandbox.errors import EngineTimeout, Fault, KeeperRefused, SandboxFault
from sandbox.host import boot_id
from sandbox.keeper import adoption, protocol, workers
from sandbox.keeper import keeper as keeper_module
from sandbox.keeper.builder import Builder
from sandbox.processes import Process
from sandbox.profile import Profile
from sandbox.state import State
from sandbox.template import InstallationId, SandboxName
from tests.sandbox.keeper.conftest import MARGIN, Host, World, fail, fail_once


class Lives:
    """One keeper after another on the same state folder, each killed without a chance to clean up."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder
        self.host = host
        self.world: World | None = None

    def begin(self, **profile: object) -> World:
        if self.world is not None:
            self.end()
        self.world = World(self.folder, self.host, **profile)
        self.world.keeper.start()
        self.world.run()
        return self.world

    def end(self) -> None:
        assert self.world is not None
        self.world.keeper.detach()
        self.world.thread.join(MARGIN)
        self.world.home.release()
        self.world = None


@pytest.fixture
def lives(tmp_path: Path, host: Host) -> Iterator[Lives]:
    made = Lives(tmp_path, host)
    yield made
    if made.world is not None:
        made.world.keeper.hurry()
        made.world.stop()


def used(world: World, patience: float = 60.0) -> protocol.LeaseGrant:
    """A lease whose attempt has begun."""
    grant = world.lend(patience=patience)
    world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    return grant


def test_a_lent_sandbox_is_taken_over_with_its_lease(lives: Lives) -> None:
    grant = used(lives.begin())
    again = lives.begin()
    resumed, connection = again.keeper.verbs.resume(protocol.Resume(token=grant.token))
    connection.close()
    assert resumed == grant
    assert lives.host.made == [grant.sandbox]


def test_a_lease_that_is_over_stays_over_in_a_later_life(lives: Lives) -> None:
    world = lives.begin()
    grant = used(world)
    lives.host.on_remove = fail(EngineTimeout("It did not finish 'remove container'."))
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="it broke"))
    world.wait_for("a failed removal", lambda: State.STUCK in world.states())
    lives.host.on_remove = lambda: None
    again = lives.begin()
    with pytest.raises(KeeperRefused, match="over"):
        again.keeper.verbs.resume(protocol.Resume(token=grant.token))
    assert grant.sandbox not in lives.host.containers


def leftover(lives: Lives, generation: int) -> str:
    """Something of a sandbox that the next life does not take over."""
    assert lives.world is not None
    name = str(SandboxName(lives.world.home.installation, generation))
    lives.host.containers[name] = True
    return name


def state_of(world: World, name: str) -> State | None:
    return next((report.state for report in world.keeper.verbs.listing().sandboxes if report.name == name), None)


def test_what_cannot_be_removed_is_stuck_and_keeps_nothing_else(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: the keeper of a host with one wedged container did not start again, and no job found its sandbox."""
    monkeypatch.setattr(pool, "STUCK_RETRY", 0.05)
    world = lives.begin()
    grant = used(world)
    stuck, others = leftover(lives, 901), {leftover(lives, 900), leftover(lives, 902)}
    lives.end()
    lives.host.unremovable = {stuck}
    again = lives.begin(warm=2)
    again.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert others.isdisjoint(lives.host.containers)
    assert f"{stuck}, not removed yet" in caplog.text
    again.wait_for("another try", lambda: lives.host.calls.count(f"remove {stuck}") > 1)
    assert lives.host.made == [grant.sandbox]  # it takes up the other place
    lives.host.unremovable.clear()
    again.wait_for("its end", lambda: sorted(again.states()) == [State.LEASED, State.READY])
    assert stuck not in lives.host.containers


def test_a_removal_that_hangs_keeps_no_keeper_from_starting(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "LEFTOVERS_PATIENCE", 0.05)
    lives.begin()
    hangs = leftover(lives, 900)
    lives.end()
    go_on = threading.Event()
    lives.host.on_remove = lambda: go_on.wait(MARGIN)
    again = lives.begin()
    assert state_of(again, hangs) is State.DESTROYING
    again.lend()
    go_on.set()
    again.wait_for("its end", lambda: hangs not in lives.host.containers and state_of(again, hangs) is None)


@pytest.mark.parametrize("odd", ["name", "profile"])
def test_what_is_of_no_profile_takes_up_no_place_and_goes_too(
    lives: Lives, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STRANGER_RETRY", 0.05)
    world = lives.begin()
    grant = used(world)
    left = leftover(lives, 900) if odd == "profile" else "sandbox-somebody"
    lives.host.containers[left] = True
    lives.end()
    lives.host.labelled = "another" if odd == "profile" else "default"
    lives.host.unremovable = {left}
    again = lives.begin()
    again.give_back(grant)
    again.wait_for("a try", lambda: f"remove {left}" in lives.host.calls)
    again.wait_for("a sandbox", lambda: again.states() == [State.READY])
    lives.host.unremovable.clear()
    again.wait_for("its end", lambda: left not in lives.host.containers)


def test_an_idle_sandbox_is_looked_at_and_lent_to_its_own_key_only(lives: Lives) -> None:
    world = lives.begin()
    first = used(world)
    world.give_back(first)
    world.wait_for("its inspection", lambda: world.states() == [State.READY])
    lives.host.calls.clear()
    containers: list[None] = []
    lives.host.on_container = lambda: containers.append(None)
    again = lives.begin()
    assert again.lend("b1", key="another").sandbox != first.sandbox
    assert "prove after job" in lives.host.calls
    assert containers == [None], "nobody knows when one last ran in it"


@pytest.mark.parametrize(
    "lose",
    [
        lambda host: host.containers.clear(),
        lambda host: setattr(host, "on_adopt", fail(SandboxFault(Fault.HOST_KEY_CHANGED, "It is not ours any more."))),
        lambda host: setattr(host, "on_adopt", fail(EngineTimeout("The engine did not finish 'inspect'."))),
    ],
    ids=["gone", "not the same", "engine"],
)
def test_what_is_not_proven_to_be_the_same_is_not_taken_over(
    lives: Lives, lose: Callable[[Host], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "ENGINE_DEADLINE", 0.0)
    grant = used(lives.begin())
    lives.end()
    lose(lives.host)
    again = lives.begin()
    with pytest.raises(KeeperRefused, match="over"):
        again.keeper.verbs.resume(protocol.Resume(token=grant.token))
    assert grant.sandbox not in lives.host.containers


def test_an_engine_that_stumbles_costs_no_job(lives: Lives) -> None:
    grant = used(lives.begin())
    lives.end()
    lives.host.on_adopt = fail_once(EngineTimeout("The engine did not finish 'inspect'."))
    lives.begin().keeper.verbs.renew(protocol.Renew(token=grant.token))


def test_after_another_boot_of_the_host_nothing_is_what_it_was() -> None:
    """The trap: process ids and start times of an earlier boot may be anybody's by now."""
    name = SandboxName(InstallationId("0123abcd"), 1)
    host = Host()
    built = host.boot(host.prepare(name, "default", Profile()), lambda _: None)
    with pytest.raises(SandboxFault, match="The host was restarted") as caught:
        Builder(cast(Engine, None), IPv4Network("10.213.0.0/16")).adopt(built)
    assert caught.value.fault is Fault.STOPPED


def test_what_an_earlier_life_froze_goes_on_and_what_stands_still_for_the_disk_does_not(tmp_path: Path) -> None:
    """The trap: a look at a sandbox undid what the disk's watcher had asked for, and it believed it frozen."""
    name = SandboxName(InstallationId("0123abcd"), 1)
    host = Host()
    built = replace(host.boot(host.prepare(name, "default", Profile()), lambda _: None), cgroup=tmp_path)
    order = tmp_path / "cgroup.freeze"
    order.write_text("1")
    (tmp_path / "cgroup.events").write_text("frozen 1\n")
    engine = Mock(Engine)
    engine.facts.return_value = Mock(running=True, address="10.213.0.10")
    builder = Builder(engine, IPv4Network("10.213.0.0/16"))
    builder._awake(built)
    assert order.read_text() == "0"
    builder.freeze(built)
    builder._awake(built)
    assert order.read_text() == "1"


def test_no_login_is_asked_of_one_that_its_runtime_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: it would not be taken over, and its job would end without the cause."""
    name = SandboxName(InstallationId("0123abcd"), 1)
    host = Host()
    built = host.boot(host.prepare(name, "default", Profile()), lambda _: None)
    dead = replace(built, boot_id=boot_id(), rests_on=frozenset({Daemon("sysbox-fs", Process(os.getpid(), 1))}))
    builder = Builder(cast(Engine, None), IPv4Network("10.213.0.0/16"))
    asked = Mock(side_effect=SandboxFault(Fault.SSH_DEAD, "Nobody answers."))
    monkeypatch.setattr("sandbox.readiness.prove", asked)
    monkeypatch.setattr(builder, "_awake", lambda _: "10.213.0.10")
    builder.adopt(dead)
    with pytest.raises(SandboxFault):
        builder.adopt(replace(dead, rests_on=frozenset()))
    assert asked.call_count == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"name": 3}'])
def test_a_record_that_cannot_be_read_costs_its_sandbox_only(lives: Lives, content: bytes) -> None:
    world = lives.begin(warm=2)
    kept = used(world)
    world.wait_for("another one", lambda: State.READY in world.states())
    [other] = [name for name in lives.host.made if name != kept.sandbox]
    lives.end()
    (lives.folder / "sandboxes" / f"{other}.course.json").write_bytes(content)
    again = lives.begin(warm=2)
    again.keeper.verbs.renew(protocol.Renew(token=kept.token))
    assert other not in lives.host.containers


def test_nothing_idle_is_taken_over_under_a_changed_profile(lives: Lives) -> None:
    world = lives.begin(memory="1GiB")
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    again = lives.begin(memory="2GiB")
    assert again.lend().sandbox == lives.host.made[1]


def test_a_job_ends_under_the_profile_it_began_with_and_its_sandbox_goes_then(lives: Lives) -> None:
    grant = used(lives.begin(memory="1GiB"))
    again = lives.begin(memory="2GiB")
    again.give_back(grant)
    assert again.wait_for_condemned(Fault.RECREATE_POLICY) == grant.sandbox


def test_records_are_for_their_owner_only(lives: Lives) -> None:
    used(lives.begin())
    folder = lives.folder / "sandboxes"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_full_disk_is_told_and_costs_no_lease(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "replace", full)
    grant = world.lend()
    world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert "No space left on device" in caplog.text


def test_a_disk_that_cannot_be_written_keeps_no_sandbox_from_being_replaced(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: what could not be forgotten ended each pass at the first sandbox on its way out."""
    world = lives.begin(recreate="always")
    grant = used(world)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    world.give_back(grant)
    world.wait_for(
        "another one", lambda: grant.sandbox not in lives.host.containers and world.states() == [State.READY]
    )
    lives.end()
    lives.begin(recreate="always")  # nor a later life from its start
    assert "Read-only file system" in caplog.text
