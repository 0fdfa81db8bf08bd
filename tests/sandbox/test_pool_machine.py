"""The invariants of the pool, under any order of events."""

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandbox.acts import Create, Destroy, Prepare, Probe, Replace, Start, Try
from sandbox.errors import Fault, KeeperRefused
from sandbox.pool import CONTAINER_INTERVAL, UNTRUSTED, Lease, Pool, Sandbox, Want
from sandbox.profile import Profile, Recreate
from sandbox.state import IN_ADVANCE, MOVES, State

PROFILES = {"default": Profile(warm=2), "always": Profile(warm=1, recreate=Recreate.ALWAYS)}
IMAGES = ("sha256:a", "sha256:b", "sha256:c")
KEYS = ("alice", "bob", UNTRUSTED)
WARM = {name: profile.warm for name, profile in PROFILES.items()}


class PoolMachine(RuleBasedStateMachine):
    """Acts as a keeper would: only the plan creates, destroys and probes; everything else may happen at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(PROFILES)
        self.now = 0.0
        self.generation = 0
        self.seen: dict[str, State] = {}
        self.used_by: dict[str, set[str]] = defaultdict(set)
        """By sandbox: the trust keys whose jobs ran in it."""
        self.lent: dict[str, tuple[str, str, str]] = {}
        """By token: sandbox, attempt, key; for leases that nobody ended yet."""
        self.trusted: dict[str, set[str]] = defaultdict(set)
        """By profile: the images that a sandbox was proven fit from, and the one that it began with."""
        self.unfit: set[str] = set()
        """Images that no sandbox can be made from."""
        self.ran_container: dict[str, float] = {}
        """By sandbox: when one last ran in it, or it was new."""

    def names(self, *states: State) -> list[str]:
        return [s.name for s in self.pool if s.state in states]

    def some(self, data: st.DataObject, *states: State) -> str | None:
        names = self.names(*states)
        return data.draw(st.sampled_from(names)) if names else None

    def alive(self, profile: str) -> int:
        elsewhere = {*IN_ADVANCE, State.CONDEMNED, State.DESTROYING, State.STUCK}
        return sum(s.profile == profile and s.state not in elsewhere for s in self.pool)

    def note(self, sandbox: Sandbox | None) -> None:
        if sandbox and sandbox.lease is None:
            self.lent = {token: lease for token, lease in self.lent.items() if lease[0] != sandbox.name}

    # -- events ---------------------------------------------------------------------------------------------------

    @initialize()
    def fill(self) -> None:
        self.follow_the_plan()
        self.everything_comes_up()

    @rule()
    def everything_comes_up(self) -> None:
        for name in self.names(State.PREPARING):
            self.pool.prepared(name, self.now)
        for name in self.names(State.CREATING):
            self.pool.booting(name, self.now)
        for name in self.names(State.BOOTING, State.INSPECTING):
            self.prove(name)

    @rule()
    def follow_the_plan(self) -> None:
        plan = self.pool.plan(self.now)
        named = [action.name for action in plan if not isinstance(action, Create | Prepare | Try)]
        assert len(named) == len(set(named)), "two things at once to one sandbox"
        for profile, warm in WARM.items():
            wedged = sum(s.profile == profile and s.state is State.STUCK for s in self.pool)
            made = sum(isinstance(action, Create | Start | Try) and action.profile == profile for action in plan)
            assert made <= warm + 1
            assert not made or made + self.alive(profile) + wedged <= warm + 1, "a wedged host is flooded"
        for action in plan:
            match action:
                case Create(profile, image) | Try(profile, image):
                    self.generation += 1
                    self.pool.creating(f"s{self.generation}", self.generation, profile, image, self.now)
                case Prepare(profile, image):
                    assert self.alive(profile) >= WARM[profile], "one that is needed comes first"
                    self.generation += 1
                    self.pool.preparing(f"s{self.generation}", self.generation, profile, image, self.now)
                case Start(name, profile):
                    assert name in self.names(State.PREPARED)
                    assert not self.pool.is_outdated(self.pool.starting(name, self.now))
                case Replace(name):
                    self.replace(name)
                case Destroy(name):
                    assert name in self.names(State.CONDEMNED, State.STUCK)
                    self.pool.destroying(name, self.now)
                case Probe(name):
                    assert name in self.names(State.READY)
                    self.pool.probing(name, self.now)

    def replace(self, name: str) -> None:
        sandbox = self.pool.get(name)
        assert sandbox is not None
        assert sandbox.state in (State.READY, State.PREPARED)
        self.pool.condemn(name, Fault.IMAGE_REPLACED, "a new image", self.now)
        if sandbox.state is State.READY:
            assert self.pool.is_outdated(sandbox)
            assert self.alive(sandbox.profile) >= WARM[sandbox.profile], "its successor was not there yet"

    @rule(profile=st.sampled_from(sorted(PROFILES)), image=st.sampled_from(IMAGES))
    def an_image_is_built(self, profile: str, image: str) -> None:
        if profile not in self.pool.rollouts:
            self.trusted[profile].add(image)
        self.pool.named(profile, image)

    @rule(image=st.sampled_from(IMAGES))
    def an_image_breaks(self, image: str) -> None:
        self.unfit.add(image)

    @rule(seconds=st.sampled_from([0.5, 5.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def one_is_prepared(self, data: st.DataObject) -> None:
        if name := self.some(data, State.PREPARING):
            self.pool.prepared(name, self.now)

    @rule(data=st.data())
    def a_container_starts(self, data: st.DataObject) -> None:
        if name := self.some(data, State.CREATING):
            self.pool.booting(name, self.now)

    @rule(data=st.data())
    def one_is_proven(self, data: st.DataObject) -> None:
        if name := self.some(data, State.BOOTING, State.INSPECTING):
            self.prove(name)

    def prove(self, name: str) -> None:
        sandbox = self.pool.get(name)
        assert sandbox is not None
        if sandbox.image in self.unfit and sandbox.state is State.BOOTING:
            self.pool.condemn(name, Fault.SSH_DEAD, "it never came up", self.now)
        else:
            self.trusted[sandbox.profile].add(sandbox.image)
            runs = sandbox.state is State.INSPECTING and sandbox.has_to_run_container(self.now)
            if runs or sandbox.state is State.BOOTING:
                self.ran_container[name] = self.now
            self.pool.fit(name, self.now, ran_container=runs)

    @rule(data=st.data())
    def one_is_found_unfit(self, data: st.DataObject) -> None:
        if name := self.some(data, *State):
            self.note(self.pool.condemn(name, Fault.SSH_DEAD, "a test says so", self.now))

    @rule(
        attempt=st.sampled_from("pqrs"),
        key=st.sampled_from(KEYS),
        profile=st.sampled_from(sorted(PROFILES)),
        patience=st.sampled_from([0.0, 45.0]),
    )
    def somebody_asks(self, attempt: str, key: str, profile: str, patience: float = 0.0) -> None:
        token = f"token-of-{attempt}"
        had = next((lease for lease in self.lent.values() if lease[1] == attempt), None)
        try:
            sandbox = self.pool.lend(Want(profile, key), Lease(attempt, token, patience), self.now)
        except KeeperRefused:
            assert had is not None
            return
        if sandbox is None:
            assert had is None
            return
        assert sandbox.profile == profile
        if had is not None:
            assert (sandbox.name, key) == (had[0], had[2]), "asking again gave another lease"
            return
        assert sandbox.state is State.LEASED
        assert sandbox.lease is not None
        self.lent[sandbox.lease.token] = (sandbox.name, attempt, key)
        assert self.used_by[sandbox.name] <= {key}, "one key got another's leftovers"
        assert not (key == UNTRUSTED and self.used_by[sandbox.name]), "an untrusted job got a used sandbox"

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), used=st.booleans())
    def one_is_returned(self, data: st.DataObject, used: bool) -> None:
        self.give_back(data.draw(st.sampled_from(sorted(self.lent))), used)

    def give_back(self, token: str, used: bool) -> None:
        name, _, key = self.lent[token]
        if used:
            self.used_by[name].add(key)
        self.note(self.pool.give_back(token, used, self.now))
        assert token not in self.lent

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def one_is_renewed(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.lent)))
        renewed = self.pool.renew(token, self.now)
        assert (renewed.name, renewed.state) == (self.lent[token][0], State.LEASED)

    @rule(key=st.sampled_from(KEYS), profile=st.sampled_from(sorted(PROFILES)), used=st.booleans())
    def a_whole_job_runs(self, key: str, profile: str, used: bool) -> None:
        self.somebody_asks("whole", key, profile)
        for token in [token for token, lease in self.lent.items() if lease[1] == "whole"]:
            self.give_back(token, used)

    @rule(data=st.data(), hangs=st.booleans())
    def one_is_lost(self, data: st.DataObject, hangs: bool) -> None:
        if name := self.some(data, State.READY, State.LEASED, State.ORPHANED):
            self.note(self.pool.condemn(name, Fault.GONE, "a test says so", self.now))
            self.pool.destroying(name, self.now)
            self.end_removal(name, hangs)

    @rule()
    def leases_expire(self) -> None:
        for sandbox in self.pool.run_out(self.now):
            self.note(self.pool.condemn(sandbox.name, Fault.LEASE_EXPIRED, "not renewed", self.now))
        assert not self.pool.run_out(self.now)

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=3))
    def room_is_made(self, keys: list[str]) -> None:
        evicted = self.pool.to_evict([Want("default", key) for key in keys])
        assert len(evicted) <= len(keys)
        for sandbox in evicted:
            assert sandbox.state is State.READY
            self.pool.condemn(sandbox.name, Fault.OTHER_TRUST_KEY, "room", self.now)

    @rule(data=st.data(), hangs=st.booleans(), asked=st.booleans())
    def a_removal_ends(self, data: st.DataObject, hangs: bool, asked: bool) -> None:
        if name := self.some(data, State.DESTROYING):
            self.end_removal(name, hangs, asked)

    def end_removal(self, name: str, hangs: bool, asked: bool = True) -> None:
        if hangs:
            self.pool.stuck(name, self.now, asked=asked)
        else:
            self.pool.gone(name, self.now)
            self.seen.pop(name, None)

    # -- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def never_more_than_warm_and_one_on_its_way_in(self) -> None:
        assert all(self.alive(profile) <= warm + 1 for profile, warm in WARM.items())

    @invariant()
    def no_more_than_one_is_made_in_advance(self) -> None:
        in_advance = [s.profile for s in self.pool if s.state in IN_ADVANCE]
        assert len(in_advance) == len(set(in_advance))

    @invariant()
    def no_image_is_given_up_for_one_that_nothing_was_made_from(self) -> None:
        assert all(rollout.image in self.trusted[profile] for profile, rollout in self.pool.rollouts.items())

    @invariant()
    def only_moves_of_the_table(self) -> None:
        for sandbox in self.pool:
            before = self.seen.get(sandbox.name, State.PREPARING)
            assert sandbox.state in _reachable(before), (sandbox.name, before, sandbox.state)
            self.seen[sandbox.name] = sandbox.state

    @invariant()
    def a_token_opens_exactly_its_sandbox(self) -> None:
        tokens = [s.lease.token for s in self.pool if s.lease]
        assert len(tokens) == len(set(tokens))
        assert {t: self.pool.by_token(t).name for t in tokens} == {t: lease[0] for t, lease in self.lent.items()}

    @invariant()
    def a_lease_is_what_a_lent_sandbox_has(self) -> None:
        for sandbox in self.pool:
            assert (sandbox.lease is not None) == (sandbox.state in (State.LEASED, State.ORPHANED))
            if sandbox.lease:
                assert sandbox.trust_key is not None

    @invariant()
    def whoever_was_served_is_remembered(self) -> None:
        for sandbox in self.pool:
            assert self.used_by[sandbox.name] <= {sandbox.trust_key}

    @invariant()
    def what_is_fit_was_seen_to_run_a_container_of_late(self) -> None:
        assert all(
            s.since - self.ran_container[s.name] < CONTAINER_INTERVAL for s in self.pool if s.state is State.READY
        )

    @invariant()
    def the_condemned_have_a_cause(self) -> None:
        assert all(s.fault and s.reason for s in self.pool if s.state in (State.CONDEMNED, State.STUCK))


def _reachable(state: State) -> set[State]:
    """In one rule a sandbox may make several moves (condemned, then destroyed by the plan), never one backwards."""
    reached, edge = {state}, {state}
    while edge:
        edge = {target for state in edge for target in MOVES[state]} - reached
        reached |= edge
    return reached


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=50)
