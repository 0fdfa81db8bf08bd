"""The warm pool: the choice of a sandbox for each client, and of the next action."""

from itertools import count, pairwise

import pytest

from sandbox.acts import Act, Create, Destroy, Prepare, Probe
from sandbox.errors import Fault, KeeperRefused
from sandbox.pool import CONTAINER_INTERVAL, LEASE_TERM, STUCK_RETRY, UNTRUSTED, Lease, Pool, Sandbox, Want
from sandbox.profile import Profile, Recreate
from sandbox.state import State

IMAGE = Profile().image
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
        self.pool.creating(f"s{number}", number, "default", IMAGE, now)
        self.pool.booting(f"s{number}", now)
        return f"s{number}"

    def lend(self, want: Want, attempt: str, now: float = 0.0, patience: float = 0.0) -> Sandbox:
        lent = self.pool.lend(want, Lease(attempt, f"token-of-{attempt}", patience), now)
        assert lent is not None
        return lent

    def serve(self, want: Want, attempt: str, now: float = 0.0) -> str:
        """Lend, use, return and inspect: what a whole job does to a sandbox."""
        name = self.lend(want, attempt, now).name
        self.pool.give_back(f"token-of-{attempt}", used=True, now=now)
        self.pool.fit(name, now)
        return name

    def plan(self, now: float) -> list[Act]:
        """What is to be done now, but for what is made in advance."""
        return [action for action in self.pool.plan(now) if not isinstance(action, Prepare)]

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


def test_of_its_own_a_key_gets_the_one_that_served_it_last() -> None:
    """The trap: an older one was proven again meanwhile, and its caches are as old as before."""
    world = World()
    older, newer = world.ready(), world.ready()
    for attempt in ("a1", "a2"):
        world.lend(ALICE, attempt)
    world.pool.give_back("token-of-a1", used=True, now=1.0)
    world.pool.give_back("token-of-a2", used=True, now=2.0)
    world.pool.fit(newer, 3.0)
    world.pool.fit(older, 60.0)
    assert world.lend(ALICE, "a3", now=61.0).name == newer


def test_without_its_own_a_key_gets_the_longest_ready_fresh_one() -> None:
    world = World()
    world.ready(now=5.0)
    older = world.ready(now=1.0)
    assert world.lend(ALICE, "a1", now=9.0).name == older


def test_a_sandbox_that_served_one_key_is_not_lent_to_another() -> None:
    world = World()
    world.ready()
    world.serve(ALICE, "a1")
    assert world.pool.lend(BOB, Lease("b1", "token-of-b1", 0.0), 0.0) is None


def test_another_profile_gets_nothing() -> None:
    world = World()
    world.ready()
    assert world.pool.lend(Want("big", "alice"), Lease("a1", "token-of-a1", 0.0), 0.0) is None


def test_what_is_not_proven_is_not_lent() -> None:
    world = World()
    world.booting()
    assert world.pool.lend(ALICE, Lease("a1", "token-of-a1", 0.0), 0.0) is None


def test_the_same_attempt_with_its_token_gets_the_same_lease() -> None:
    world = World()
    world.ready()
    world.ready()
    first = world.lend(ALICE, "a1")
    assert world.lend(ALICE, "a1", now=1.0) == first


@pytest.mark.parametrize(("attempt", "token"), [("a1", "another-token"), ("a2", "token-of-a1")])
def test_an_attempt_and_its_token_belong_together(attempt: str, token: str) -> None:
    world = World()
    world.ready()
    world.ready()
    world.lend(ALICE, "a1")
    with pytest.raises(KeeperRefused, match="already"):
        world.pool.lend(ALICE, Lease(attempt, token, 0.0), 1.0)


@pytest.mark.parametrize("want", [BOB, Want("big", "alice")])
def test_an_attempt_cannot_get_its_sandbox_under_another_key_or_profile(want: Want) -> None:
    world = World()
    world.ready()
    world.lend(ALICE, "a1")
    with pytest.raises(KeeperRefused, match="already"):
        world.lend(want, "a1", now=1.0)


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
    world.pool.condemn(name, Fault.LEASE_EXPIRED, "It was not renewed.", 1.0)
    with pytest.raises(KeeperRefused, match="over: It was not renewed"):
        world.pool.give_back("token-of-a1", used=True, now=1.0)


def test_a_lease_that_is_not_renewed_is_over() -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1", now=0.0)
    assert world.pool.run_out(LEASE_TERM) == []
    assert [s.name for s in world.pool.run_out(LEASE_TERM + 0.1)] == [name]


def test_renewing_gives_a_whole_term_from_now() -> None:
    world = World()
    world.ready()
    world.lend(ALICE, "a1", now=0.0)
    world.pool.renew("token-of-a1", LEASE_TERM - 1)
    assert world.pool.run_out(2 * LEASE_TERM - 1.1) == []
    assert world.pool.run_out(2 * LEASE_TERM - 0.9) != []


def orphan(world: World) -> str:
    """A sandbox whose attempt fell silent, with a minute of patience."""
    name = world.ready()
    world.lend(ALICE, "a1", patience=60.0)
    world.pool.renew("token-of-a1", 0.0)
    assert world.pool.run_out(LEASE_TERM + 0.1) == []
    assert world.state(name) is State.ORPHANED
    return name


def test_an_orphan_is_neither_lent_nor_replaced() -> None:
    world = World(warm=1)
    orphan(world)
    assert world.pool.lend(BOB, Lease("b1", "token-of-b1", 0.0), LEASE_TERM + 1) is None
    assert world.plan(LEASE_TERM + 1) == []
    assert world.pool.to_evict([BOB]) == []


def test_an_orphan_is_resumed_by_its_token() -> None:
    world = World()
    name = orphan(world)
    assert world.pool.renew("token-of-a1", LEASE_TERM + 50).name == name
    assert world.state(name) is State.LEASED
    assert world.pool.run_out(2 * LEASE_TERM + 49) == []


def test_an_orphan_may_be_returned() -> None:
    world = World()
    name = orphan(world)
    world.pool.give_back("token-of-a1", used=True, now=LEASE_TERM + 1)
    assert world.state(name) is State.INSPECTING


def test_patience_ends() -> None:
    world = World()
    name = orphan(world)
    assert world.pool.run_out(LEASE_TERM + 59.9) == []
    assert [s.name for s in world.pool.run_out(LEASE_TERM + 60.1)] == [name]


def test_an_attempt_that_never_used_its_sandbox_has_no_patience() -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1", patience=60.0)
    assert [s.name for s in world.pool.run_out(LEASE_TERM + 0.1)] == [name]


def test_a_lent_sandbox_of_an_earlier_life_has_a_whole_term() -> None:
    before, after = World(), World()
    before.ready()
    lent = before.lend(ALICE, "a1", now=1000.0)
    after.pool.adopt(lent, now=5.0)
    assert after.pool.run_out(5.0 + LEASE_TERM) == []
    assert [s.name for s in after.pool.run_out(5.1 + LEASE_TERM)] == [lent.name]


def test_an_idle_sandbox_of_an_earlier_life_is_looked_at_before_it_is_lent() -> None:
    before, after = World(), World()
    sandbox = before.pool.get(before.ready())
    assert sandbox is not None
    after.pool.adopt(sandbox, now=5.0)
    assert after.state(sandbox.name) is State.INSPECTING


def test_every_change_of_a_sandbox_is_told() -> None:
    told: list[tuple[str, State]] = []
    pool = Pool({"default": Profile(warm=1)}, lambda sandbox: told.append((sandbox.name, sandbox.state)))
    pool.creating("s1", 1, "default", IMAGE, 0.0)
    pool.booting("s1", 0.0)
    pool.fit("s1", 0.0)
    pool.condemn("s1", Fault.GONE, "it is gone", 0.0)
    assert [state for _, state in told] == [State.CREATING, State.BOOTING, State.READY, State.CONDEMNED]


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
    assert world.pool.lend(BOB, Lease("b1", "token-of-b1", 0.0), 2.0) is None


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


def test_what_is_held_for_a_person_is_none_to_wait_for() -> None:
    """The trap: while one of its own was held, a key waited for that, beside idle ones of others."""
    world = World()
    held = world.ready()
    world.serve(BOB, "b1")
    world.pool.hold(held, 600.0, 0.0)
    idle = world.ready()
    world.serve(ALICE, "a1")
    assert [s.name for s in world.pool.to_evict([BOB])] == [idle]


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
    assert World(warm=3).pool.plan(0.0) == [Create("default", IMAGE)] * 3


def test_the_profile_that_lacks_most_comes_first() -> None:
    """The trap: as many are made at once as the host bears, and a large profile that is always at it has them all."""
    pool = Pool({"large": Profile(warm=10), "small": Profile(warm=1)})
    for number in range(4):
        pool.creating(f"s{number}", number, "large", IMAGE, 0.0)
    assert pool.plan(0.0) == [Create("small", IMAGE), *[Create("large", IMAGE)] * 6]


def test_a_full_pool_has_nothing_to_do() -> None:
    world = World(warm=1)
    world.ready(now=0.0)
    assert world.plan(1.0) == []


def test_a_lent_sandbox_takes_up_a_place() -> None:
    world = World(warm=1)
    world.ready()
    world.lend(ALICE, "a1")
    assert world.plan(1.0) == []


def test_the_successor_is_made_beside_the_removal() -> None:
    world = World(warm=1)
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    assert world.plan(1.0) == [Destroy(name), Create("default", IMAGE)]
    world.pool.destroying(name, 1.0)
    assert world.plan(1.0) == [Create("default", IMAGE)]


def test_what_an_earlier_life_left_is_to_go_and_takes_up_a_place_when_it_does_not() -> None:
    world = World(warm=1)
    world.pool.leave("s9", 9, "default", 0.0)
    assert Destroy("s9") in world.pool.plan(0.0)
    world.pool.destroying("s9", 0.0)
    world.pool.stuck("s9", 1.0)
    assert world.pool.plan(2.0) == []
    assert world.pool.counts.total() == 0


def test_a_stuck_removal_takes_up_a_place_and_is_tried_again_later() -> None:
    world = World(warm=1)
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    world.pool.destroying(name, 1.0)
    world.pool.stuck(name, 2.0)
    assert world.plan(2.0 + STUCK_RETRY - 0.1) == []
    assert world.plan(2.0 + STUCK_RETRY) == [Destroy(name)]


def test_a_removal_that_never_reached_the_engine_is_due_at_once() -> None:
    """The trap: after a restart of the engine its place was empty for half a minute."""
    world = World(warm=1)
    name = world.ready()
    world.pool.condemn(name, Fault.GONE, "it is gone", 1.0)
    world.pool.destroying(name, 1.0)
    world.pool.stuck(name, 2.0, asked=False)
    assert world.plan(2.0) == [Destroy(name)]


def test_an_idle_sandbox_is_proven_again_and_only_then() -> None:
    world = World(warm=1)
    name = world.ready(now=0.0)
    assert world.plan(CONTAINER_INTERVAL - 0.1) == []
    assert world.plan(CONTAINER_INTERVAL) == [Probe(name)]
    world.pool.probing(name, CONTAINER_INTERVAL)
    world.pool.fit(name, CONTAINER_INTERVAL + 1, ran_container=True)
    assert world.plan(2 * CONTAINER_INTERVAL) == []


def test_idle_sandboxes_are_proven_one_after_the_other() -> None:
    """The trap: those that were made at once are due at once, and whoever comes then would wait for all of them."""
    world = World(warm=2)
    first, second = world.ready(now=0.0), world.ready(now=1.0)
    assert world.plan(CONTAINER_INTERVAL + 5) == [Probe(first)]
    world.pool.probing(first, CONTAINER_INTERVAL + 5)
    assert world.plan(CONTAINER_INTERVAL + 5) == []
    world.pool.fit(first, CONTAINER_INTERVAL + 6, ran_container=True)
    assert world.plan(CONTAINER_INTERVAL + 6) == [Probe(second)]


def test_a_busy_sandbox_runs_a_container_too() -> None:
    """The trap: each look after a job counted as a proof, and in an hour of 64 jobs none was seen to run one."""
    job, pause, look = 45.0, 12.0, 0.5
    world = World(warm=1)
    name = world.ready(now=0.0)
    ran, now = [0.0], 0.0

    def proven(now: float) -> None:
        sandbox = world.pool.get(name)
        assert sandbox is not None
        if runs := sandbox.has_to_run_container(now):
            ran.append(now)
        world.pool.fit(name, now, ran_container=runs)

    for number in range(64):
        now += pause
        if Probe(name) in world.plan(now):
            world.pool.probing(name, now)
            proven(now + look)
        world.lend(ALICE, f"a{number}", now + look)
        world.pool.give_back(f"token-of-a{number}", used=True, now=now + job)
        proven(now + job + look)
        now += job + look
    assert max(later - earlier for earlier, later in pairwise(ran)) <= CONTAINER_INTERVAL + job + pause
    assert len(ran) > now / (CONTAINER_INTERVAL + job + pause)


def test_a_burst_of_jobs_runs_no_container() -> None:
    """What costs as much as all the rest of a look is done once a minute, and not after each job."""
    world = World(warm=1)
    name = world.ready(now=0.0)
    for second in range(1, int(CONTAINER_INTERVAL)):
        world.lend(ALICE, f"a{second}", float(second))
        returned = world.pool.give_back(f"token-of-a{second}", used=True, now=second + 0.1)
        assert not returned.has_to_run_container(second + 0.1)
        world.pool.fit(name, second + 0.2)
    assert world.plan(CONTAINER_INTERVAL) == [Probe(name)]


def test_what_an_earlier_life_left_has_to_run_a_container() -> None:
    world = World(warm=1)
    idle = Sandbox("s1", 1, "default", State.READY, 0.0, IMAGE)
    assert world.pool.adopt(idle, 1.0).has_to_run_container(1.0)
    assert not world.pool.fit("s1", 2.0, ran_container=True).has_to_run_container(2.0)


def test_losing_a_sandbox_that_was_fit_delays_no_creation() -> None:
    world = World(warm=1)
    world.pool.condemn(world.ready(), Fault.GONE, "it is gone", 1.0)
    assert Create("default", IMAGE) in world.plan(1.0)


def test_what_is_thrown_away_is_counted_once_by_its_first_cause() -> None:
    world = World(warm=3)
    for fault in (Fault.USED, Fault.USED, Fault.DAMAGED):
        name = world.ready()
        world.pool.condemn(name, fault, "a test says so", 1.0)
        world.pool.condemn(name, Fault.GONE, "and it is gone", 1.0)
    held = world.ready()
    world.lend(ALICE, "a1")
    world.pool.hold(held, 60.0, now=1.0)
    world.pool.condemn(held, Fault.SSH_DEAD, "its sshd is dead", 1.0)
    world.pool.condemn(held, Fault.HOLD_OVER, "long enough", 2.0)
    assert world.pool.counts == {Fault.USED: 2, Fault.DAMAGED: 1, Fault.SSH_DEAD: 1}


# -- holding ----------------------------------------------------------------------------------------------------------


def test_a_held_sandbox_is_left_alone_until_its_time_is_over() -> None:
    world = World(warm=1)
    name = world.ready()
    world.pool.hold(name, 60.0, now=0.0)
    assert world.pool.lend(ALICE, Lease("a1", "token-of-a1", 0.0), 1.0) is None
    assert world.plan(CONTAINER_INTERVAL + 1) == []
    assert world.pool.to_evict([ALICE]) == []
    assert world.pool.held_too_long(59.0) == []
    assert [s.name for s in world.pool.held_too_long(61.0)] == [name]


def test_holding_again_gives_more_time() -> None:
    world = World()
    name = world.ready()
    world.pool.hold(name, 60.0, now=0.0)
    world.pool.hold(name, 60.0, now=50.0)
    assert world.pool.held_too_long(100.0) == []


@pytest.mark.parametrize("ends", ["returned", "broken"])
def test_a_lent_sandbox_is_held_from_the_end_of_its_lease_on(ends: str) -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.hold(name, 60.0, now=1.0)
    assert world.state(name) is State.LEASED
    if ends == "returned":
        world.pool.give_back("token-of-a1", used=True, now=10.0)
    else:
        world.pool.condemn(name, Fault.SSH_DEAD, "its sshd is dead", 10.0)
    assert world.state(name) is State.HELD
    assert world.pool.held_too_long(69.0) == []


def test_a_held_sandbox_that_is_thrown_away_keeps_its_first_cause() -> None:
    world = World()
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.hold(name, 60.0, now=0.0)
    world.pool.condemn(name, Fault.SSH_DEAD, "its sshd is dead", 1.0)
    gone = world.pool.condemn(name, Fault.HOLD_OVER, "it was held for as long as was said", 100.0)
    assert (gone.state, gone.fault, gone.reason) == (State.CONDEMNED, Fault.SSH_DEAD, "its sshd is dead")


def holding_world(warm: int) -> World:
    world = World()
    world.pool = Pool({"default": Profile(warm=warm, hold=600.0)})
    return world


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault.SSH_DEAD, State.HELD),
        (Fault.GONE, State.CONDEMNED),
        (Fault.STOPPED, State.CONDEMNED),
        (Fault.RECREATE_POLICY, State.CONDEMNED),
        (Fault.IMAGE_REPLACED, State.CONDEMNED),
    ],
)
def test_a_profile_may_hold_what_a_job_broke(fault: Fault, state: State) -> None:
    world = holding_world(warm=2)
    name = world.ready()
    world.lend(ALICE, "a1")
    world.pool.condemn(name, fault, "a test says so", 1.0)
    assert world.state(name) is state


def test_a_profile_never_holds_its_last_place() -> None:
    world = holding_world(warm=2)
    first, second = world.ready(), world.ready()
    for attempt in ("a1", "a2"):
        world.lend(ALICE, attempt)
    for name in (first, second):
        world.pool.condemn(name, Fault.SSH_DEAD, "its sshd is dead", 1.0)
    assert [world.state(name) for name in (first, second)] == [State.HELD, State.CONDEMNED]


def test_a_sandbox_that_no_job_was_in_is_not_held_by_its_profile() -> None:
    world = holding_world(warm=2)
    name = world.ready()
    world.pool.condemn(name, Fault.SSH_DEAD, "its sshd is dead", 1.0)
    assert world.state(name) is State.CONDEMNED
