"""Preparation in advance: the next sandbox of a profile, up to its start."""

from itertools import count

import pytest

from sandbox.acts import Act, Create, Destroy, Prepare, Probe, Replace, Start, Try
from sandbox.errors import Fault
from sandbox.pool import PREPARE_RETRY, Lease, Pool, Sandbox, Want
from sandbox.profile import Profile
from sandbox.state import IN_ADVANCE, State

IMAGE, OLD, NEW = Profile().image, "sha256:old", "sha256:new"
LATER = 100.0
ALICE, BOB = Want("default", "alice"), Want("default", "bob")


class World:
    """A pool of one sandbox, full and at rest."""

    def __init__(self) -> None:
        self.pool = Pool({"default": Profile(warm=1)})
        self.pool.named("default", OLD)
        self._numbers = count(1)
        self.first = self.booting()
        self.pool.fit(self.first, 0.0)

    def booting(self, image: str = OLD) -> str:
        number = next(self._numbers)
        self.pool.creating(f"s{number}", number, "default", image, 0.0)
        return self.pool.booting(f"s{number}", 0.0).name

    def preparing(self, image: str = OLD) -> str:
        number = next(self._numbers)
        return self.pool.preparing(f"s{number}", number, "default", image, 0.0).name

    def prepared(self) -> str:
        return self.pool.prepared(self.preparing(), 0.0).name

    def lose(self, name: str) -> Sandbox:
        return self.pool.condemn(name, Fault.SSH_DEAD, "a test says so", 0.0)

    def gone(self, name: str) -> None:
        self.pool.destroying(name, 0.0)
        self.pool.gone(name, 0.0)

    def plan(self, now: float = 0.0) -> list[Act]:
        return self.pool.plan(now)


def test_a_full_pool_makes_the_next_one_in_advance() -> None:
    world = World()
    assert world.plan() == [Prepare("default", OLD)]
    world.prepared()
    assert world.plan() == []


def test_one_is_made_after_the_other() -> None:
    pool = Pool({"a": Profile(warm=1), "b": Profile(warm=1)})
    for number, profile in enumerate(("a", "b")):
        pool.creating(f"s{number}", number, profile, IMAGE, 0.0)
        pool.booting(f"s{number}", 0.0)
    assert pool.plan(0.0) == []
    pool.fit("s0", 0.0)
    assert pool.plan(0.0) == [], "another profile still waits for one"
    pool.fit("s1", 0.0)
    assert pool.plan(0.0) == [Prepare("a", IMAGE)]
    pool.preparing("s2", 2, "a", IMAGE, 0.0)
    assert pool.plan(0.0) == []
    pool.prepared("s2", 0.0)
    assert pool.plan(0.0) == [Prepare("b", IMAGE)]


@pytest.mark.parametrize("busy", ["lacking", "booting", "preparing", "stuck", "to be proven"])
def test_it_is_made_when_nothing_else_is_to_be_done(busy: str) -> None:
    world, now = World(), 0.0
    match busy:
        case "lacking":
            world.lose(world.first)
        case "booting":
            world.booting()
        case "preparing":
            world.preparing()
        case "stuck":
            world.pool.destroying(world.lose(world.booting()).name, 0.0)
            world.pool.stuck("s2", 0.0)
        case "to be proven":
            now = LATER
            assert Probe(world.first) in world.plan(now)
    assert not any(isinstance(action, Prepare) for action in world.plan(now))


def test_it_is_not_lent_and_comes_by_itself_for_nobody() -> None:
    world = World()
    world.pool.lend(ALICE, Lease("a1", "token-of-a1", 0.0), 0.0)
    world.pool.give_back("token-of-a1", used=True, now=0.0)
    world.pool.fit(world.first, 0.0)
    world.prepared()
    assert world.pool.lend(BOB, Lease("b1", "token-of-b1", 0.0), 0.0) is None
    assert [sandbox.name for sandbox in world.pool.to_evict([BOB])] == [world.first]


def test_it_becomes_the_next_one_that_is_needed() -> None:
    world = World()
    prepared = world.prepared()
    world.lose(world.first)
    assert world.plan() == [Destroy(world.first), Start(prepared, "default")]
    assert world.pool.starting(prepared, 0.0).state is State.CREATING
    assert world.plan() == [Destroy(world.first)]


def test_one_that_is_not_there_yet_is_not_waited_for() -> None:
    world = World()
    world.preparing()
    world.lose(world.first)
    assert world.plan() == [Destroy(world.first), Create("default", OLD)]


def test_it_makes_room_for_the_trial_of_a_new_image() -> None:
    """The trap: in a small range it has the last subnet, and no trial would ever come to its end."""
    world = World()
    prepared = world.prepared()
    world.pool.named("default", NEW)
    assert world.plan() == [Replace(prepared)]
    world.pool.condemn(prepared, Fault.IMAGE_REPLACED, "a new image", 0.0)
    assert world.plan() == [Destroy(prepared), Try("default", NEW)]
    world.gone(prepared)
    world.pool.fit(world.booting(NEW), 0.0)
    assert world.plan() == [Replace(world.first)]


def test_one_from_an_image_that_was_replaced_is_not_started() -> None:
    world = World()
    world.prepared()
    world.pool.named("default", NEW)
    new = world.booting(NEW)
    world.pool.fit(new, 0.0)
    world.lose(new)
    world.lose(world.first)
    assert Create("default", NEW) in world.plan()
    assert not any(isinstance(action, Start) for action in world.plan())


@pytest.mark.parametrize("state", sorted(IN_ADVANCE))
def test_no_loss_is_counted_that_nobody_had(state: State) -> None:
    world = World()
    name = world.preparing() if state is State.PREPARING else world.prepared()
    assert world.lose(name).state is State.CONDEMNED
    assert (list(world.pool.condemned), dict(world.pool.counts)) == ([], {})


@pytest.mark.parametrize(("fault", "pause"), [(Fault.ENGINE_FAILED, PREPARE_RETRY), (Fault.RECREATE_POLICY, 0.0)])
def test_after_a_failure_another_one_has_time(fault: Fault, pause: float) -> None:
    """The trap: nothing else fails meanwhile, so that nothing else would slow it down."""
    world = World()
    world.pool.condemn(world.preparing(), fault, "a test says so", 0.0)
    world.gone("s2")
    assert world.plan(max(0.0, pause - 1)) == ([] if pause else [Prepare("default", OLD)])
    world.pool.probing(world.first, pause)
    world.pool.fit(world.first, pause, ran_container=True)
    assert world.plan(pause) == [Prepare("default", OLD)]
