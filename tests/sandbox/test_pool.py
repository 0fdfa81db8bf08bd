"""The warm pool: who gets which sandbox, and what is to be done next."""

from itertools import count

import pytest

from sandbox.errors import Fault, KeeperRefused
from sandbox.pool import LEASE_TERM, PROBE_INTERVAL, STUCK_RETRY, UNTRUSTED, Create, Destroy, Pool, Probe, Sandbox, Want
from sandbox.profile import Profile, Recreate
from sandbox.state import State

ALICE, BOB = Want("default", "alice"), Want("default", "bob")


class World:
    """A pool with one profile, and the few steps that tests are told in."""

    def __init__(self, warm: int = 2, recreate: Recreate = Recreate.ON_DAMAGE) -> None:
        self.pool = Pool({"default": Profile(warm=warm, recreate=recreate)})
        self._numbers = count(1)

    def ready(self, now: float = 0.0) -> str:
        """One more fit sandbox."""
        name = self.booting(now)
        self.pool.fit(name, now)
        return name

    def booting(self, now: float = 0.0) -> str:
        number = next(self._numbers)
        self.pool.creating(f"s{number}", number, "default", now)
        self.pool.booting(f"s{number}", now)
        return f"s{number}"

    def fail_creation(self, now: float) -> str:
        """A creation that fails and is removed."""
        name = self.booting(now)
        self.pool.condemn(name, Fault.SSH_DEAD, "it did not boot", now)
        self.remove(name, now)
        return name

    def lend(self, want: Want, attempt: str, now: float = 0.0) -> Sandbox:
        lent = self.pool.lend(want, attempt, f"token-of-{attempt}", now)
        assert lent is not None
        return lent

    def serve(self, want: Want, attempt: str, now: float = 0.0) -> str:
        """Lend, use, return and inspect: what a whole job does to a sandbox."""
        name = self.lend(want, attempt, now).name
        self.pool.give_back(f"token-of-{attempt}", used=True, now=now)
        self.pool.fit(name, now)
        return name

    def state(self, name: str) -> State:
        sandbox = self.pool.get(name)
        assert sandbox is not None
        return sandbox.state

    def remove(self, name: str, now: float) -> None:
        self.pool.destroying(name, now)
        self.pool.gone(name, now)


# -- lending ----------------------------------------------------------------------------------------------------------


def test_a_key_gets_its_own_sandbox_before_a_fresh_one() -> None:
    world = World()
    own = world.serve(ALICE, "a1") if world.ready() else ""
    world.ready(now=-100.0)  # longer ready, and still second
    assert world.lend(ALICE, "a2").name == own


def test_without_its_own_a_key_gets_the_longest_ready_fresh_one() -> None:
    world = World()
    world.ready(now=5.0)
    older = world.ready(now=1.0)
    assert world.lend(ALICE, "a1", now=9.0).name == older


def test_a_sandbox_that_served_one_key_is_not_lent_to_another() -> None:
    world = World()
    world.ready()
    world.serve(ALICE, "a1")
    assert world.pool.lend(BOB, "b1", "token-of-b1", 0.0) is None


def test_another_profile_gets_nothing() -> None:
    world = World()
    world.ready()
    assert world.pool.lend(Want("big", "alice"), "a1", "token-of-a1", 0.0) is None


def test_what_is_not_proven_is_not_lent() -> None:
    world = World()
    world.booting()
    assert world.pool.lend(ALICE, "a1", "token-of-a1", 0.0) is None


def test_the_same_attempt_gets_the_same_lease_and_its_first_token() -> None:
    world = World()
    world.ready()
    world.ready()
    first = world.lend(ALICE, "a1")
    again = world.pool.lend(ALICE, "a1", "another-token", 1.0)
    assert again == first


@pytest.mark.parametrize("want", [BOB, Want("big", "alice")])
def test_an_attempt_cannot_get_its_sandbox_under_another_key_or_profile(want: Want) -> None:
    world = World()
    world.ready()
    world.lend(ALICE, "a1")
    with pytest.raises(KeeperRefused, match="another"):
        world.pool.lend(want, "a1", "token-2", 1.0)


def test_a_token_is_not_in_a_repr() -> None:
    world = World()
    world.ready()
    assert "token-of-a1" not in repr(world.lend(ALICE, "a1"))


# -- the end of a lease -----------------------------------------------------------------------------------------------


def test_the_token_is_over_after_return() -> None:
    world = World()
    world.ready()
    world.lend(ALICE, "a1")
    world.pool.give_back("token-of-a1", used=True, now=1.0)
    with pytest.raises(KeeperRefused, match="over"):
        world.pool.renew("token-of-a1", 1.0)


def test_the_token_is_over_after_condemning() -> None:
    world = World()
    world.pool.condemn(world.ready(), Fault.GONE, "gone", 0.0)
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.condemn(name, Fault.LEASE_EXPIRED, "not renewed", 1.0)
    with pytest.raises(KeeperRefused, match="over"):
        world.pool.give_back("token-of-a1", used=True, now=1.0)


def test_a_lease_expires_when_it_is_not_renewed() -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1", now=0.0)
    assert world.pool.expired(LEASE_TERM) == []
    assert [s.name for s in world.pool.expired(LEASE_TERM + 0.1)] == [name]


def test_renewing_gives_a_whole_term_from_now() -> None:
    world = World()
    world.ready()
    world.lend(ALICE, "a1", now=0.0)
    world.pool.renew("token-of-a1", LEASE_TERM - 1)
    assert world.pool.expired(2 * LEASE_TERM - 1.1) == []
    assert world.pool.expired(2 * LEASE_TERM - 0.9) != []


def test_renewing_does_not_change_since_when_it_is_lent() -> None:
    world = World()
    world.ready()
    lent = world.lend(ALICE, "a1", now=3.0)
    assert world.pool.renew("token-of-a1", 9.0).since == lent.since


def test_recreate_always_condemns_what_was_used() -> None:
    world = World(recreate=Recreate.ALWAYS)
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.give_back("token-of-a1", used=True, now=1.0)
    assert world.state(name) is State.CONDEMNED
    assert [(s.name, s.fault, s.jobs) for s in world.pool.condemned] == [(name, Fault.RECREATE_POLICY, 1)]


def test_an_untrusted_job_leaves_its_sandbox_to_nobody() -> None:
    world = World()
    name = world.ready()
    world.lend(Want("default", UNTRUSTED), "u1")
    world.pool.give_back("token-of-u1", used=True, now=1.0)
    assert world.state(name) is State.CONDEMNED


def test_recreate_always_keeps_what_was_not_used() -> None:
    world = World(recreate=Recreate.ALWAYS)
    name = world.ready()
    world.lend(ALICE, "a1")
    assert world.pool.give_back("token-of-a1", used=False, now=1.0).state is State.INSPECTING
    assert world.state(name) is State.INSPECTING


def test_an_unused_fresh_sandbox_belongs_to_nobody_again() -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.give_back("token-of-a1", used=False, now=1.0)
    world.pool.fit(name, 1.0)
    assert world.lend(BOB, "b1", now=2.0).name == name


def test_an_unused_sandbox_with_leftovers_keeps_its_key() -> None:
    world = World()
    name = world.ready()
    world.serve(ALICE, "a1")
    world.lend(ALICE, "a2")
    world.pool.give_back("token-of-a2", used=False, now=1.0)
    world.pool.fit(name, 1.0)
    assert world.pool.lend(BOB, "b1", "token-of-b1", 2.0) is None


def test_the_first_cause_of_condemning_is_kept() -> None:
    world = World()
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    world.pool.condemn(name, Fault.SSH_DEAD, "sshd is dead", 2.0)
    assert [(s.fault, s.reason) for s in world.pool.condemned] == [(Fault.GONE, "it is gone")]


def test_the_memory_of_the_condemned_is_bounded_and_newest_first() -> None:
    world = World()
    names = [world.ready() for _ in range(200)]
    for name in names:
        world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    assert [s.name for s in world.pool.condemned][:2] == [names[-1], names[-2]]
    assert len(world.pool.condemned) < 200


# -- making room ------------------------------------------------------------------------------------------------------


def test_the_longest_idle_sandbox_of_another_key_makes_room() -> None:
    world = World()
    world.ready()
    longest = world.serve(ALICE, "a1", now=1.0)
    world.ready()
    world.serve(Want("default", "carol"), "c1", now=2.0)
    assert [s.name for s in world.pool.to_evict([BOB])] == [longest]


@pytest.mark.parametrize("suiting", ["ready", "booting", "inspecting"])
def test_nothing_is_evicted_while_something_suits_or_will(suiting: str) -> None:
    world = World()
    world.ready()
    world.serve(ALICE, "a1")
    name = world.booting() if suiting == "booting" else world.ready()
    if suiting == "inspecting":
        world.pool.probing(name, 1.0)
    assert world.pool.to_evict([BOB]) == []


def test_nothing_is_evicted_while_a_place_is_free() -> None:
    world = World(warm=2)
    world.ready()
    world.serve(ALICE, "a1")
    assert world.pool.to_evict([BOB]) == []


def test_a_lent_sandbox_is_never_evicted() -> None:
    world = World(warm=1)
    world.ready()
    world.lend(ALICE, "a1")
    assert world.pool.to_evict([BOB]) == []


def test_two_wants_evict_two_different_sandboxes() -> None:
    world = World()
    names = {world.ready(), world.ready()}
    first = world.lend(ALICE, "a1")
    world.serve(ALICE, "a2")
    world.pool.give_back("token-of-a1", used=True, now=0.0)
    world.pool.fit(first.name, 0.0)
    assert {s.name for s in world.pool.to_evict([BOB, Want("default", "carol")])} == names


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_an_empty_pool_is_filled() -> None:
    assert World(warm=3).pool.plan(0.0) == [Create("default")] * 3


def test_a_full_pool_has_nothing_to_do() -> None:
    world = World(warm=1)
    world.ready(now=0.0)
    assert world.pool.plan(1.0) == []


def test_a_lent_sandbox_takes_up_a_place() -> None:
    world = World(warm=1)
    world.ready()
    world.lend(ALICE, "a1")
    assert world.pool.plan(1.0) == []


def test_the_successor_is_made_beside_the_removal() -> None:
    world = World(warm=1)
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    assert world.pool.plan(1.0) == [Destroy(name), Create("default")]
    world.pool.destroying(name, 1.0)
    assert world.pool.plan(1.0) == [Create("default")]


def test_a_stuck_removal_takes_up_a_place_and_is_tried_again_later() -> None:
    world = World(warm=1)
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    world.pool.destroying(name, 1.0)
    world.pool.stuck(name, 2.0)
    assert world.pool.plan(2.0 + STUCK_RETRY - 0.1) == []
    assert world.pool.plan(2.0 + STUCK_RETRY) == [Destroy(name)]


def test_an_idle_sandbox_is_proven_again_and_only_then() -> None:
    world = World(warm=1)
    name = world.ready(now=0.0)
    assert world.pool.plan(PROBE_INTERVAL - 0.1) == []
    assert world.pool.plan(PROBE_INTERVAL) == [Probe(name)]
    world.pool.probing(name, PROBE_INTERVAL)
    world.pool.fit(name, PROBE_INTERVAL + 1)
    assert world.pool.plan(2 * PROBE_INTERVAL) == []


def test_back_off_grows_with_failed_creations_up_to_a_minute() -> None:
    world, now, waits = World(warm=1), 0.0, []
    for _ in range(9):
        world.fail_creation(now)
        wait = next(step / 2 for step in range(1000) if world.pool.plan(now + step / 2))
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_back_off_ends_with_a_creation_that_works() -> None:
    world = World(warm=1)
    for now in range(5):
        world.fail_creation(float(now))
    world.pool.condemn(world.ready(now=100.0), Fault.GONE, "it is gone", 100.0)
    world.fail_creation(200.0)
    assert Create("default") not in world.pool.plan(200.9)
    assert Create("default") in world.pool.plan(201.0)


def test_an_old_sandbox_that_is_still_fit_does_not_end_the_back_off() -> None:
    world = World(warm=2)
    old = world.ready()
    for now in range(4):
        world.fail_creation(float(now))
    world.pool.probing(old, 4.0)
    world.pool.fit(old, 4.0)
    world.fail_creation(100.0)
    assert Create("default") not in world.pool.plan(115.9)
    assert Create("default") in world.pool.plan(116.0)


def test_a_host_that_stays_broken_for_days_does_not_overflow_the_back_off() -> None:
    world = World(warm=1)
    for number in range(3000):
        world.fail_creation(float(number))
    assert Create("default") in world.pool.plan(3000.0 + 60)


def test_losing_a_sandbox_that_was_fit_delays_no_creation() -> None:
    world = World(warm=1)
    world.pool.condemn(world.ready(), Fault.GONE, "it is gone", 1.0)
    assert Create("default") in world.pool.plan(1.0)
