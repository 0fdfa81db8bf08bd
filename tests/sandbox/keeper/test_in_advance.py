"""The sandboxes that a keeper makes in advance, and when it does not use them."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from sandbox.errors import ConfigError, EngineError, Fault, KeeperRefused
from sandbox.health import HostState
from sandbox.state import State
from tests.sandbox.keeper.conftest import MARGIN, SUBNET, Host, World, fail_once


@pytest.fixture
def prepared(world: World) -> str:
    """The one that is made in advance, beside the sandbox of a keeper at rest."""
    return wait_for_prepared(world)


def wait_for_prepared(world: World, but: str = "") -> str:
    world.wait_for("one in advance", lambda: names(world, State.PREPARED) - {but})
    [name] = names(world, State.PREPARED)
    return name


def names(world: World, state: State) -> set[str]:
    with world.keeper._stock.changed:
        return {sandbox.name for sandbox in world.keeper._stock.pool if sandbox.state is state}


def lose(world: World) -> None:
    """The sandbox that is there goes."""
    name = world.lend().sandbox
    world.host.containers[name] = False
    assert world.wait_for_condemned(Fault.STOPPED) == name


def test_the_next_sandbox_is_the_one_that_was_made_in_advance(world: World, prepared: str) -> None:
    lose(world)
    assert world.lend("a2").sandbox == prepared
    assert wait_for_prepared(world) != prepared


def test_it_is_listed_nowhere(world: World, prepared: str) -> None:
    world.lend()
    assert world.states() == [State.LEASED]
    with pytest.raises(KeeperRefused, match=r"\(1 leased\)"):
        world.lend("a2", wait=0.0)


@pytest.mark.parametrize("profile", [{"memory": "512MiB"}, {"network": "none"}])
def test_one_of_a_profile_that_was_changed_is_not_started(
    world: World, prepared: str, profile: dict[str, object]
) -> None:
    world.follow(**profile)
    lose(world)
    assert world.lend("a2").sandbox != prepared
    assert prepared not in world.host.made


def test_one_of_a_host_that_has_changed_is_not_started(world: World, host: Host) -> None:
    """The trap: a host that moved to another network would make sandboxes that ask the resolvers of the old one."""
    usual, host.facts = host.facts, replace(host.facts, mtu=1280)
    old = wait_for_prepared(world)
    host.facts = usual
    lose(world)
    assert world.lend("a2").sandbox != old
    assert old not in host.made


@pytest.mark.parametrize("taken", ["container", "network", "started"])
def test_one_that_was_taken_away_is_given_up_before_it_is_needed(
    world: World, prepared: str, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As `docker container prune`, `docker network prune` and `docker start` do it."""
    match taken:
        case "container":
            del world.host.containers[prepared]
        case "network":
            world.host.subnets.remove(SUBNET)
        case "started":
            world.host.containers[prepared] = True
    world.wait_for("its end", lambda: prepared not in world.host.containers and not names(world, State.PREPARED))
    lose(world)
    assert world.lend("a2").sandbox != prepared
    assert prepared not in dict(world.condemned())
    assert not [record for record in caplog.records if record.levelname == "WARNING" and prepared in record.message]


def test_what_is_started_has_the_limits_of_today(world: World, prepared: str) -> None:
    """The trap: the container has no limit of its disk, so it still fits; but the keeper ends jobs by it."""
    world.follow(disk="60GiB")
    lose(world)
    assert world.lend("a2").sandbox == prepared
    assert world.keeper._stock.built[prepared].profile.disk == 60 * 1024**3


def test_one_that_does_not_start_costs_its_own_place_only(world: World, prepared: str) -> None:
    world.host.on_build = fail_once(EngineError("No such network."))
    lose(world)
    assert world.lend("a2").sandbox != prepared
    assert (prepared, Fault.ENGINE_FAILED) in world.condemned()


@pytest.mark.parametrize("error", [EngineError("No subnet is left."), ZeroDivisionError()])
def test_what_cannot_be_made_in_advance_is_not_tried_over_and_over(
    make: Callable[..., World], host: Host, error: Exception
) -> None:
    """The trap: nothing else fails meanwhile, so that nothing would slow it down."""
    tries: list[None] = []

    def prepare() -> None:
        tries.append(None)
        if len(tries) > 1:
            raise error

    host.on_prepare = prepare
    world = make()
    first = world.lend()
    world.wait_for("the failure", lambda: len(tries) == 2 and list(host.containers) == [first.sandbox])
    for _ in range(20):
        world.keeper.reconcile_once()
    assert len(tries) == 2
    assert world.watch.look()[0] is HostState.WELL
    assert world.condemned() == []
    world.give_back(first)
    assert world.lend("a2").sandbox == first.sandbox


def test_a_state_folder_that_cannot_be_written_stops_nothing_else(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a full pool needed nothing of it, and what comes after the plan was not reached any more."""
    world, asked = make(), threading.Event()
    first = world.lend()
    wait_for_prepared(world)

    def no_generation() -> int:
        asked.set()
        raise ConfigError("The keeper's state folder is not usable.")

    monkeypatch.setattr(world.home, "next_generation", no_generation)
    world.keeper._stock.condemn(wait_for_prepared(world), Fault.RECREATE_POLICY, "a test says so")
    assert asked.wait(MARGIN)
    world.keeper.reconcile_once()
    world.give_back(first)
    assert world.lend("a2").sandbox == first.sandbox


def test_a_keeper_that_leaves_its_sandboxes_leaves_only_these(world: World, prepared: str) -> None:
    grant = world.lend()
    world.keeper.detach()
    assert list(world.host.containers) == [grant.sandbox]
