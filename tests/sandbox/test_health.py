"""Who is to blame: a keeper and an engine simulated second by second, with faults in any order."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import health as health_module
from sandbox.breaker import CALM, IN_A_ROW, MAX_BACK_OFF, Breaker
from sandbox.calls import CallBegan, CallEnded, End, Listed, Step
from sandbox.engine import REMOVE_DEADLINE
from sandbox.errors import Fault
from sandbox.health import (
    HANGS,
    HOST_MOVES,
    MADE_AT_ONCE,
    REMOVAL_HANGS,
    SILENCE,
    SLOW_REFUSAL,
    Blame,
    CreationBegan,
    CreationEnded,
    FreshUnfit,
    HostHealth,
    HostState,
    IllegalHostMove,
)

DETECTED = 60.0
"""Seconds within which a wedged host is to be told."""
RECOVERED = 150.0
"""Seconds after the end of a fault in which everything is to work again: two rounds of back-off and a removal."""
CALLS_A_MINUTE = 20
"""To the runtime whatever happens, and of every kind while the host is wedged."""
DEADLINES = {Step.LIST: 30.0, Step.START: 90.0, Step.REMOVE: REMOVE_DEADLINE, Step.TOP: 10.0}
WARM = 3


class Mode(StrEnum):
    """How the engine does at a moment."""

    WELL = "well"
    DOWN = "down"  # refuses connections
    SILENT = "silent"  # accepts them and does not answer
    WEDGED = "wedged"  # as sysbox's deadlock: removals and `top` hang, starts fail after 22 s, the rest answers
    NO_STARTS = "no starts"  # a broken image or setting: refused at once


HOST_FAULTS = (Mode.DOWN, Mode.SILENT, Mode.WEDGED)


@dataclass
class Asked:
    """One call under way."""

    number: int
    step: Step
    container: str | None
    began: float


@dataclass
class World:
    """A keeper that does what `HostHealth` admits, and an engine in a mode. `bad` containers hang by themselves."""

    health: HostHealth = field(default_factory=lambda: HostHealth(0.0))
    mode: Mode = Mode.WELL
    now: float = 0.0
    there: dict[str, str] = field(default_factory=dict)
    """By container: what the keeper thinks of it: creating, ready, condemned, removing, stuck."""
    running: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    under_way: list[Asked] = field(default_factory=list)
    calls: list[Step] = field(default_factory=list)
    states: list[HostState] = field(default_factory=list)
    stuck_since: dict[str, float] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def live(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass; returns how much of it did until `until` was true."""
        began = self.now
        while self.now - began < seconds and not until():
            self.now += 1.0
            for call in list(self.under_way):
                self._progress(call)
            self._act()
            self.states.append(self.health.look(self.now))
        return self.now - began

    def ready(self) -> list[str]:
        return [container for container, thought in self.there.items() if thought == "ready"]

    def condemn(self, container: str) -> None:
        self.there[container] = "condemned"

    def _ask(self, step: Step, container: str | None = None) -> None:
        call = Asked(next(self.numbers), step, container, self.now)
        self.calls.append(step)
        self.under_way.append(call)
        self.health.observe(CallBegan(call.number, step, container), self.now)

    def _end_of(self, call: Asked) -> End | None:
        age = self.now - call.began
        runtime = call.step is not Step.LIST
        if self.mode is Mode.DOWN:
            return End.UNREACHABLE
        if age >= DEADLINES[call.step]:
            return End.TIMED_OUT
        if self.mode is Mode.SILENT or (call.container in self.bad and call.step is not Step.START):
            return None
        if self.mode is Mode.NO_STARTS and call.step is Step.START:
            return End.REFUSED
        if self.mode is Mode.WEDGED and runtime:
            return End.REFUSED if call.step is Step.START and age >= 22 else None
        return End.ANSWERED

    def _progress(self, call: Asked) -> None:
        end = self._end_of(call)
        if end is None:
            return
        self.under_way.remove(call)
        good = end is End.ANSWERED
        if call.step is Step.LIST and good:
            self.health.observe(Listed(call.number, {c: c in self.running for c in self.there}), self.now)
        self.health.observe(CallEnded(call.number, end), self.now)
        if call.container is not None:
            self._act_on(call.step, call.container, good)

    def _act_on(self, step: Step, container: str, good: bool) -> None:
        match step:
            case Step.START:
                self.there[container] = "ready" if good else "condemned"
                if good:
                    self.running.add(container)
                fault = None if good else Fault.ENGINE_FAILED
                self.health.observe(CreationEnded("default", container, fault, "It did not start."), self.now)
            case Step.REMOVE if good:
                del self.there[container]
                self.running.discard(container)
            case Step.REMOVE:
                self.there[container], self.stuck_since[container] = "stuck", self.now
            case _:
                if not good and container in self.ready():
                    self.condemn(container)

    def _act(self) -> None:
        asking = {call.step for call in self.under_way}
        if Step.LIST not in asking and self.health.listing_due(self.now):
            self._ask(Step.LIST)
        for container, thought in list(self.there.items()):
            overdue = thought == "stuck" and self.now - self.stuck_since[container] >= 30
            if (thought == "condemned" or overdue) and self.health.admit_removal(self.now):
                self.there[container] = "removing"
                self._ask(Step.REMOVE, container)
        counted = sum(thought in ("creating", "ready", "stuck") for thought in self.there.values())
        for _ in range(WARM - counted):
            making = list(self.there.values()).count("creating")
            if self.health.admit_creation("default", making, self.now):
                assert making < MADE_AT_ONCE, "more than its one processor bears"
                container = f"c{next(self.numbers)}"
                self.there[container] = "creating"
                self.health.observe(CreationBegan("default", container), self.now)
                self._ask(Step.START, container)
        others = [container for container in self.ready() if container not in self.health.suspects]
        if others and Step.TOP not in asking and self.health.admit_probe(self.now):
            self._ask(Step.TOP, others[len(self.calls) % len(others)])


@pytest.fixture
def world() -> World:
    return full()


def full() -> World:
    world = World()
    world.live(30)
    assert len(world.ready()) == WARM
    return world


# -- the host ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(HOST_FAULTS), st.integers(0, 40), st.booleans())
def test_a_wedged_host_is_told_within_a_minute_and_then_nothing_is_lent(mode: Mode, idle: int, returned: bool) -> None:
    world = full()
    world.live(idle)
    world.mode = mode
    if returned:
        world.condemn(world.ready()[0])
    assert world.live(120, lambda: world.health.state is HostState.WEDGED) <= DETECTED
    assert not world.health.may_lend
    assert world.health.blame is Blame.HOST
    assert "The host: " in world.health.sentence
    assert "Look at" in world.health.sentence


MODES = st.lists(st.tuples(st.sampled_from(Mode), st.integers(5, 400)), min_size=1, max_size=5)


@settings(max_examples=60)
@given(MODES)
def test_nothing_loops_and_everything_recovers_when_answers_come_back(modes: list[tuple[Mode, int]]) -> None:
    world = full()
    for mode, seconds in modes:
        world.mode = mode
        began, beyond = world.now, len(world.calls)
        world.live(seconds)
        asked = sum(step is not Step.LIST for step in world.calls[beyond:])
        assert asked <= CALLS_A_MINUTE * (1 + (world.now - began) / 60)
    world.mode = Mode.WELL
    fit = lambda: world.health.look(world.now) is HostState.WELL and len(world.ready()) == WARM  # noqa: E731
    assert world.live(RECOVERED, fit) < RECOVERED
    world.live(10)
    assert world.health.sentence == ""


@settings(max_examples=10)
@given(st.sampled_from(HOST_FAULTS))
def test_while_wedged_few_calls_are_made(mode: Mode) -> None:
    world = full()
    world.mode = mode
    world.live(DETECTED)
    before = len(world.calls)
    world.live(600)
    assert (len(world.calls) - before) / 10 <= CALLS_A_MINUTE
    assert HostState.WELL not in world.states[-600:], "an answer to nothing made it well"


@settings(max_examples=40)
@given(st.integers(0, WARM - 1), st.integers(0, 30), st.booleans())
def test_one_bad_sandbox_is_never_the_host(which: int, idle: int, returned: bool) -> None:
    world = full()
    world.live(idle)
    bad = world.ready()[which]
    world.bad.add(bad)
    if returned:
        world.condemn(bad)
    world.live(400)
    assert HostState.WEDGED not in world.states
    assert world.health.state is HostState.WELL
    assert world.health.may_lend
    assert world.health.blame is Blame.SANDBOX
    assert bad in world.health.sentence
    assert len(world.ready()) >= WARM - 1


def test_a_bad_sandbox_that_goes_after_all_is_forgotten(world: World) -> None:
    bad = world.ready()[0]
    world.bad.add(bad)
    world.condemn(bad)
    world.live(300)
    world.bad.clear()
    world.live(120)
    assert world.health.blame is Blame.NOBODY
    assert len(world.ready()) == WARM


def test_one_that_is_removed_by_hand_is_forgotten(world: World) -> None:
    """The trap: its removal is never asked for again, so no answer to one tells that it is over."""
    world.mode = Mode.WEDGED
    for container in world.ready()[:2]:
        world.condemn(container)
    world.live(int(REMOVE_DEADLINE) + 10)
    assert world.health.look(world.now) is HostState.WEDGED
    world.mode = Mode.WELL
    for container in list(world.there):
        if world.there[container] == "stuck":
            del world.there[container]
    world.live(15)
    assert world.health.look(world.now) is HostState.WELL


def test_an_engine_that_is_restarted_in_a_few_seconds_is_no_wedged_host(world: World) -> None:
    world.mode = Mode.DOWN
    world.live(8)
    assert world.health.look(world.now) is HostState.SUSPECT
    assert world.health.may_lend
    world.mode = Mode.WELL
    world.live(10)
    assert world.health.look(world.now) is HostState.WELL
    assert HostState.WEDGED not in world.states


def test_fresh_sandboxes_that_fail_together_are_the_host() -> None:
    health = HostHealth(0)
    health.observe(FreshUnfit("default", "a", Fault.SSH_DEAD, "No login."), 1)
    assert health.look(1) is HostState.SUSPECT
    health.observe(FreshUnfit("default", "b", Fault.SSH_DEAD, "No login."), 2)
    assert health.look(2) is HostState.WEDGED


def test_what_fails_apart_in_time_is_not_together() -> None:
    health = HostHealth(0)
    health.observe(FreshUnfit("default", "a", Fault.SSH_DEAD, "No login."), 1)
    health.observe(FreshUnfit("default", "b", Fault.SSH_DEAD, "No login."), 70)
    assert health.look(70) is HostState.SUSPECT


def test_a_start_refused_late_counts_and_one_refused_at_once_does_not() -> None:
    """The trap: under sysbox's deadlock a start does not hang: it fails after 22 s with `DeadlineExceeded`."""
    for seconds, expected in ((SLOW_REFUSAL, HostState.WEDGED), (SLOW_REFUSAL - 1, HostState.WELL)):
        health = HostHealth(0)
        for number, container in enumerate("ab"):
            health.observe(CallBegan(number, Step.START, container), 1)
        for number in range(2):
            health.observe(CallEnded(number, End.REFUSED), 1 + seconds)
        assert health.state is expected


def test_removing_what_never_ran_proves_nothing() -> None:
    """The trap: under sysbox's deadlock a container that failed to start is removed at once, without the runtime."""
    health = HostHealth(0)
    for number, container in enumerate("ab"):
        health.observe(CallBegan(number, Step.START, container), 0)
        health.observe(CallEnded(number, End.TIMED_OUT), 90)
    health.observe(CallBegan(2, Step.REMOVE, "a"), 91)
    health.observe(CallEnded(2, End.ANSWERED), 91)
    assert health.state is HostState.WEDGED


def test_a_call_counts_while_it_hangs_and_not_only_at_its_end() -> None:
    health = HostHealth(0)
    for number, container in enumerate("ab"):
        health.observe(CallBegan(number, Step.START, container), 0)
    assert health.look(HANGS - 1) is HostState.WELL
    assert health.look(HANGS) is HostState.WEDGED
    for number in range(2):
        health.observe(CallEnded(number, End.ANSWERED), HANGS + 5)
    assert health.look(HANGS + 5) is HostState.WELL


def test_two_large_sandboxes_that_are_removed_at_once_are_no_wedged_host() -> None:
    """The trap: under sysbox a removal first gives every file that the jobs left its owner back."""
    health = HostHealth(0)
    for number, container in enumerate("ab"):
        health.observe(CallBegan(number, Step.REMOVE, container), 0)
    assert health.look(REMOVAL_HANGS - 1) is HostState.WELL
    assert health.look(REMOVAL_HANGS) is HostState.WEDGED
    for number in range(2):
        health.observe(CallEnded(number, End.ANSWERED), REMOVAL_HANGS + 5)
    assert health.look(REMOVAL_HANGS + 5) is HostState.WELL
    assert REMOVAL_HANGS < REMOVE_DEADLINE, "else its deadline blames it earlier"


def test_a_listing_that_another_one_overtook_is_no_silence() -> None:
    health = HostHealth(0)
    health.observe(CallBegan(0, Step.LIST), 0)
    health.observe(CallBegan(1, Step.LIST), 25)
    health.observe(CallEnded(1, End.ANSWERED), 26)
    health.observe(CallEnded(0, End.TIMED_OUT), 30)
    assert health.state is HostState.WELL
    assert health.blame is Blame.NOBODY


def test_silence_is_told_while_the_listing_still_hangs() -> None:
    health = HostHealth(0)
    health.observe(CallBegan(0, Step.LIST), 0)
    assert health.look(SILENCE - 1) is HostState.SUSPECT
    assert health.look(SILENCE) is HostState.WEDGED
    assert "answered nothing for 20 s" in health.sentence


def test_nothing_is_removed_by_an_engine_that_does_not_answer() -> None:
    """The trap: each such removal fails, and was put off until long after the engine is back."""
    health = HostHealth(0)
    health.observe(CallBegan(0, Step.LIST), 0)
    health.observe(CallEnded(0, End.UNREACHABLE), 0)
    assert not health.admit_removal(1)
    health.observe(CallBegan(1, Step.LIST), 2)
    health.observe(CallEnded(1, End.ANSWERED), 2)
    assert health.admit_removal(2)


# -- new sandboxes ----------------------------------------------------------------------------------------------------


def test_every_new_sandbox_failing_is_told_as_that_and_tried_again_at_leisure(world: World) -> None:
    world.mode = Mode.NO_STARTS
    for container in world.ready():
        world.condemn(container)
    world.live(120)
    assert HostState.WEDGED not in world.states
    assert world.health.may_lend
    assert world.health.blame is Blame.NEW_SANDBOXES
    assert "Every new sandbox of profile default fails" in world.health.sentence
    assert "It did not start." in world.health.sentence
    before = len(world.calls)
    world.live(600)
    assert world.calls[before:].count(Step.START) <= 10 * 2


def test_one_profile_that_fails_does_not_keep_the_others() -> None:
    health = HostHealth(0)
    for number in range(IN_A_ROW):
        health.observe(CreationBegan("broken", str(number)), number)
        health.observe(CreationEnded("broken", str(number), Fault.ENGINE_FAILED, "No."), number)
    assert not health.admit_creation("broken", 0, IN_A_ROW)
    assert health.admit_creation("good", 0, IN_A_ROW)


@given(st.integers(1, 8), st.lists(st.sampled_from("abc"), max_size=40))
def test_as_many_are_made_at_once_as_the_host_bears(processors: int, wanted: list[str]) -> None:
    """Of whatever profile: it is the runtime that is not to be flooded, and it knows of none."""
    health = HostHealth(0, processors)
    under_way: list[tuple[str, str]] = []
    for number, profile in enumerate(wanted):
        full = len(under_way) == MADE_AT_ONCE * processors
        assert health.admit_image_trial(len(under_way), number) is not full
        assert health.admit_creation(profile, len(under_way), number) is not full
        if full:
            health.observe(CreationEnded(*under_way.pop(0)), number)
        else:
            under_way.append((profile, str(number)))
            health.observe(CreationBegan(*under_way[-1]), number)


def test_failures_for_different_reasons_are_not_every_new_sandbox() -> None:
    breaker = Breaker()
    for number, fault in enumerate([Fault.SSH_DEAD, Fault.DOCKER_DEAD] * 5):
        breaker.failed(number, fault, "No.", number)
    assert not breaker.is_open


def test_several_that_were_begun_together_make_one_step_of_back_off() -> None:
    """The trap: a full pool's worth of failures at once would wait for the longest time there is."""
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0, Fault.ENGINE_FAILED, "No.", 5.0)
    assert breaker.is_open
    assert breaker.may_begin(5.0 + 1.0)


@given(st.lists(st.floats(0, 10_000), max_size=2000))
def test_back_off_is_bounded(gaps: list[float]) -> None:
    breaker, now = Breaker(), 0.0
    for gap in gaps:
        now += gap
        breaker.failed(now, Fault.ENGINE_FAILED, "No.", now)
        assert breaker.may_begin(now + MAX_BACK_OFF)


def test_sandboxes_that_are_made_and_do_not_last_are_made_more_and_more_slowly() -> None:
    """The trap: each creation succeeds, so a back-off that forgets at each success never grows."""
    health, now, made = HostHealth(0), 0.0, 0
    while now < 600:
        now += 1.0
        if health.admit_creation("default", 0, now):
            made += 1
            health.observe(CreationBegan("default", str(made)), now)
            health.observe(CreationEnded("default", str(made)), now)
            health.observe(FreshUnfit("default", str(made), Fault.SSH_DEAD, "Its sshd died."), now)
            health.observe(CallBegan(made, Step.REMOVE, "other"), now)  # the host is well
    assert made < 30


def test_after_a_calm_time_back_off_begins_anew() -> None:
    breaker = Breaker()
    for moment in range(8):
        breaker.failed(moment, Fault.ENGINE_FAILED, "No.", moment)
    breaker.failed(7 + CALM, Fault.ENGINE_FAILED, "No.", 7 + CALM)
    assert breaker.pause == 1.0


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_move_outside_of_the_table_is_a_defect() -> None:
    health = HostHealth(0)
    with pytest.raises(IllegalHostMove, match="from well to wedged"):
        health._move(HostState.WEDGED, 0)


def test_every_state_has_its_moves_and_a_way_back() -> None:
    assert set(HOST_MOVES) == set(HostState)
    assert all(moves for moves in HOST_MOVES.values())
    assert HostState.WELL in HOST_MOVES[HostState.WEDGED]


def test_what_is_remembered_is_bounded() -> None:
    health = HostHealth(0)
    for number in range(1000):
        health.observe(FreshUnfit("default", str(number), Fault.SSH_DEAD, "No."), 1)
    assert len(health.suspects) <= health_module._REMEMBERED
