"""A keeper's reactions when the daemons of its sandboxes' runtime end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import daemons
from sandbox.errors import Fault, KeeperRefused, NotNow, SandboxFault
from sandbox.health import HostState
from sandbox.keeper import protocol
from sandbox.state import State
from tests.sandbox.keeper.conftest import Host, World
from tests.sandbox.keeper.test_later_life import Lives, lives, used
from tests.stand_ins import StandIn, both, service

__all__ = ["lives"]


@pytest.fixture
def pair(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandIn, StandIn]]:
    """Those that `sysbox-runc` rests on here. They run, and are seen."""
    monkeypatch.setattr(daemons, "SEARCH_INTERVAL", 0.02)
    host.seen = True
    with both(tmp_path / "daemons") as made:
        monkeypatch.setattr(daemons, "SERVICES", {"sysbox-runc": service(made)})
        yield made


@pytest.fixture
def fs(pair: tuple[StandIn, StandIn]) -> StandIn:
    return pair[0]


@pytest.fixture
def world(fs: StandIn, make: Callable[..., World]) -> World:
    """A keeper with two sandboxes."""
    world = make(warm=2)
    world.wait_for("a full pool", lambda: world.states() == [State.READY, State.READY])
    return world


def made_anew(world: World, *lost: str) -> bool:
    return world.states() == [State.READY] * 2 and set(world.host.containers).isdisjoint(lost)


def test_without_one_every_sandbox_is_lost_and_nothing_is_lent_or_made_until_it_is_back(
    world: World, fs: StandIn
) -> None:
    grant, made = world.lend(), list(world.host.made)
    fs.end()
    world.wait_for("the end of both", lambda: len(world.condemned()) == 2)
    assert dict(world.condemned()) == dict.fromkeys(made, Fault.RUNTIME_LOST)
    with pytest.raises(KeeperRefused, match=f"over: Its container runtime was stopped .* the {fs.program} that"):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    with pytest.raises(NotNow, match=f"{fs.program} does not run.*`systemctl start stand-in`"):
        world.lend("a2", wait=0.1)
    pong, listing = world.keeper.verbs.ping(), world.keeper.verbs.listing()
    assert (pong.fit, fs.program in pong.message, fs.program in listing.trouble) == (False, True, True)
    assert 'sandbox_runtime_down{profile="default"} 1' in world.keeper.verbs.measure().text
    assert world.host.made == made
    fs.start()
    world.wait_for("two others", lambda: made_anew(world, *made))
    assert world.keeper.verbs.ping().fit
    assert 'sandbox_runtime_down{profile="default"} 0' in world.keeper.verbs.measure().text
    assert (world.watch.state, world.keeper.verbs.listing().trouble) == (HostState.WELL, "")


def test_under_one_that_was_restarted_every_sandbox_is_made_anew(world: World, fs: StandIn) -> None:
    """The trap: by the time of the next look it runs again, and the sandboxes never stopped to read as running."""
    grant, made = world.lend(), list(world.host.made)
    fs.restart()
    world.wait_for("two others", lambda: made_anew(world, *made))
    assert set(world.condemned()) == {(name, Fault.RUNTIME_LOST) for name in made}
    with pytest.raises(KeeperRefused, match=fs.program):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))


def test_whoever_renews_hears_of_it_before_the_next_look(
    world: World, fs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a script that fails at once for want of it asks before the keeper has looked."""
    grant = world.lend()
    monkeypatch.setattr(world.keeper, "_look_at_daemons", lambda: None)
    fs.restart()
    with pytest.raises(KeeperRefused, match=fs.program):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert world.condemned() == [(grant.sandbox, Fault.RUNTIME_LOST)]


def test_nor_is_a_dead_one_lent_before_the_next_look(
    world: World, fs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = list(world.host.made)
    monkeypatch.setattr(world.keeper, "_look_at_daemons", lambda: None)
    fs.restart()
    with pytest.raises(KeeperRefused, match="within 0 s"):
        world.lend(wait=0.2)
    listing = world.keeper.verbs.listing
    world.wait_for("the end of both", lambda: not {one.name for one in listing().sandboxes} & set(dead))
    assert {fault for _, fault in world.condemned()} == {Fault.RUNTIME_LOST}


def test_what_looks_damaged_for_want_of_it_is_no_jobs_work(
    world: World, fs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sysbox-mgr removes its folders when it stops, and mounts of a sandbox are of deleted folders then."""
    grant = world.lend()
    monkeypatch.setattr(world.keeper, "_look_at_daemons", lambda: None)

    def damaged() -> None:
        fs.restart()
        raise SandboxFault(Fault.DAMAGED, "The mount of /var/lib/kubelet was changed.", ["mounts"])

    world.host.on_inspect = damaged
    world.give_back(grant)
    assert world.wait_for_condemned(Fault.RUNTIME_LOST) == grant.sandbox
    assert 'sandbox_findings_total{kind="mounts"} 0.0' in world.keeper.verbs.measure().text


def test_one_that_was_held_is_lost_too(world: World, fs: StandIn) -> None:
    name = world.host.made[0]
    world.keeper.verbs.hold(protocol.Hold(sandbox=name, seconds=3600))
    fs.restart()
    world.wait_for("its end", lambda: (name, Fault.RUNTIME_LOST) in world.condemned())


def test_a_creation_that_it_broke_says_so(make: Callable[..., World], host: Host, fs: StandIn) -> None:
    def breaks() -> None:
        host.on_build = lambda: None
        fs.restart()
        raise SandboxFault(Fault.SSH_DEAD, "Its sshd never came up.")

    host.on_build = breaks
    world = make()
    assert world.wait_for_condemned(Fault.RUNTIME_LOST) == host.made[0]
    world.wait_for("another", lambda: State.READY in world.states())


def test_whoever_does_not_see_the_host_goes_on(make: Callable[..., World], host: Host, fs: StandIn) -> None:
    host.seen = False
    world = make()
    grant = world.lend()
    fs.end()
    world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    world.give_back(grant)
    assert world.lend("a2").sandbox == grant.sandbox


def test_another_runtime_goes_on(make: Callable[..., World], fs: StandIn) -> None:
    world = make(runtime="userns-runc")
    grant = world.lend()
    fs.end()
    world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    world.give_back(grant)
    assert world.lend("a2").sandbox == grant.sandbox


# -- in a later life --------------------------------------------------------------------------------------------------


def test_what_ended_while_the_keeper_was_away_is_told_as_the_cause(lives: Lives, fs: StandIn) -> None:
    grant = used(lives.begin())
    lives.end()
    fs.restart()
    again = lives.begin()
    again.wait_for("its end", lambda: again.condemned() == [(grant.sandbox, Fault.RUNTIME_LOST)])
    with pytest.raises(KeeperRefused, match=fs.program):
        again.keeper.verbs.resume(protocol.Resume(token=grant.token))


def test_what_goes_on_is_taken_over(lives: Lives, fs: StandIn) -> None:
    grant = used(lives.begin())
    again = lives.begin()
    again.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert fs.running in again.keeper._stock.built[grant.sandbox].rests_on


def test_of_an_older_record_nothing_is_known(lives: Lives, fs: StandIn) -> None:
    """The trap: after an upgrade of the keeper, every running job would be lost."""
    world = lives.begin()
    grant = used(world)
    lives.end()
    record = world.home.records / f"{grant.sandbox}.built.json"
    written = json.loads(record.read_text())
    assert len(written.pop("rests_on")) == 2
    record.write_text(json.dumps(written))
    fs.restart()
    again = lives.begin()
    again.keeper.reconcile_once()
    again.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert again.condemned() == []
