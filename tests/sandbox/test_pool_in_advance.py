"""What is made in advance: the next sandbox of a profile, up to its start."""

from itertools import count

import pytest

from sandbox.errors import Fault
from sandbox.pool import Action, Create, Destroy, Lease, Pool, Prepare, Probe, Replace, Sandbox, Start, Want
from sandbox.profile import Profile
from sandbox.state import IN_ADVANCE, State

OLD, NEW = "sha256:old", "sha256:new"
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

    def plan(self, now: float = 0.0) -> list[Action]:
        return self.pool.plan(now)


def test_a_full_pool_makes_the_next_one_in_advance() -> None:
    world = World()
    assert world.plan() == [Prepare("default", OLD)]
    world.prepared()
    assert world.plan() == []


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


def test_one_from_an_image_that_was_replaced_goes() -> None:
    world = World()
    prepared = world.prepared()
    world.pool.named("default", NEW)
    world.pool.fit(world.booting(NEW), 0.0)
    assert world.plan() == [Replace(prepared)]
    world.pool.condemn(prepared, Fault.IMAGE_REPLACED, "a new image", 0.0)
    assert Replace(world.first) in world.plan()


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
