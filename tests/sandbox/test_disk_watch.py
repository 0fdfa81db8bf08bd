"""The watcher's decisions: each of its rules, and that no writer takes the host below its reserve."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sandbox.disk.watch import (
    ALARM,
    CACHE,
    FASTEST_FILES,
    FREEZE_TIME,
    LONGEST_LOOK,
    MEASURE_TIME,
    PERIOD,
    RELIEF,
    RELIEF_TIME,
    REST,
    SHORTEST_LOOK,
    Act,
    Amount,
    Condemn,
    DiskWatch,
    Evict,
    Freeze,
    Measure,
    Room,
    Thaw,
    Usage,
    Watched,
    reserve_of,
)
from sandbox.errors import Fault
from sandbox.profile import Profile

GIB = 1024**3
FASTEST = 2 * GIB
RESERVE = 4 * GIB
LIMIT = 20 * GIB
LENT, IDLE = Watched(lent=True, limit=LIMIT), Watched(lent=False, limit=LIMIT)


def room(seconds: float = 60.0, files: float = 10_000_000, place: str = "/data", device: int = 1) -> Room:
    """A file system with so many seconds left."""
    size = Amount(1000 * GIB, 20_000_000)
    return Room(place, size, Amount(RESERVE + int(seconds * FASTEST), int(files)), device)


def used(gib: float, files: int = 100, complete: bool = True) -> Usage:
    return Usage(Amount(int(gib * GIB), files), complete)


def of_kind(actions: list[Act], kind: type) -> list[str]:
    return [action.name for action in actions if isinstance(action, kind)]


class Watching:
    """A watcher with a clock; measurements are answered at once with what `usage` says of that sandbox."""

    def __init__(self, **usage: Usage | None) -> None:
        self.watch = DiskWatch(FASTEST, RESERVE)
        self.now = 1000.0
        self.usage = usage
        self.sandboxes = dict.fromkeys(usage, LENT)
        self.took = 0.0

    def look(self, *rooms: Room, after: float = 1.0) -> list[Act]:
        self.now += after
        actions = self.watch.look(self.now, rooms or [room()], self.sandboxes)
        for action in actions.copy():
            if isinstance(action, Measure):
                actions += self.watch.measured(action, self.now + self.took, self.usage[action.name])
        self.gone(*of_kind(actions, Condemn), *of_kind(actions, Evict))
        return actions

    def gone(self, *names: str) -> None:
        for name in names:
            del self.sandboxes[name]

    def settle(self, *rooms: Room) -> None:
        """Until everything is measured."""
        while any(self.watch.usage(name) is None for name in self.sandboxes if self.usage[name]):
            self.look(*rooms)


# -- the reserve -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "reserve"), [(10, 2), (100, 5), (10_000, 20)])
def test_the_reserve_is_a_twentieth_within_bounds(size: int, reserve: int) -> None:
    whole = Room("/", Amount(size * GIB, 5000), Amount(GIB, 1))
    assert reserve_of(whole) == Amount(reserve * GIB, 100)
    assert reserve_of(whole, configured=7).bytes == 7


def test_looks_come_more_often_as_room_gets_short_and_always_before_it_is_gone() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    for seconds, wait in ((60.0, LONGEST_LOOK), (1.7, 0.7), (ALARM, SHORTEST_LOOK), (0.0, SHORTEST_LOOK)):
        watch.look(0, [room(seconds)], {})
        assert watch.next_look == pytest.approx(wait, abs=0.001)


def test_nothing_is_lent_before_the_first_look_nor_while_the_disk_is_short() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    assert (watch.refusal or "").startswith("The host's disk has not been looked at yet. Nothing is lent until")
    watch.look(0, [room(60)], {})
    assert (watch.refusal or "") == ""
    watch.look(1, [room(60), room(RELIEF - 0.1, place="/other")], {})
    refusal = watch.refusal or ""
    assert "8.2 GiB are left at /other, of which 4.0 GiB are kept for the host" in refusal


def test_another_reserve_holds_at_once() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    watch.look(0, [room(60)], {})
    assert (watch.refusal or "") == ""
    watch.follow(FASTEST, 1000 * GIB)
    assert "1000.0 GiB are kept for the host" in (watch.refusal or "")


def test_a_file_system_without_a_fixed_number_of_inodes_is_never_short_of_them() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    watch.look(0, [Room("/", Amount(1000 * GIB, 0), Amount(500 * GIB, 0))], {})
    assert watch.refusal is None


# -- an alarm ----------------------------------------------------------------------------------------------------------


def test_in_an_alarm_everything_lent_is_frozen_then_measured_then_the_one_that_grew_is_condemned() -> None:
    host = Watching(calm=used(9), wild=used(1))
    host.settle()
    host.usage["wild"] = used(7)
    [*before, condemned] = host.look(room(ALARM - 0.1)) + host.look(room(ALARM - 0.1), after=0.1)
    assert of_kind(before, Freeze) == ["calm", "wild"]
    assert set(of_kind(before, Measure)) == {"calm", "wild"}
    assert isinstance(condemned, Condemn)
    assert (condemned.name, condemned.fault) == ("wild", Fault.HOST_DISK)
    assert (
        "It took 6.0 GiB there since it was last measured, 7.0 GiB in all, more than any other." in condemned.sentence
    )
    assert "6.0 GiB are left at /data, of which 4.0 GiB are kept for the host" in condemned.sentence


def test_the_others_go_on_when_its_space_is_back_and_not_before() -> None:
    host = Watching(calm=used(9), wild=used(1))
    host.settle()
    host.usage["wild"] = used(7)
    host.look(room(0.5))
    host.look(room(0.5), after=0.1)
    for seconds in (0.5, 1.5, RELIEF - 0.01):
        assert of_kind(host.look(room(seconds), after=0.1), Thaw) == []
        assert host.watch.is_frozen("calm")
        assert host.watch.refusal
    assert host.look(room(RELIEF + 0.01), after=0.1)[0] == Thaw("calm")
    assert not host.watch.is_frozen("calm")
    assert host.watch.refusal is None


def test_when_its_space_does_not_come_back_the_next_one_goes_until_none_is_left() -> None:
    host = Watching(one=used(3), two=used(2), three=used(1))
    condemned = []
    began = host.now
    while host.sandboxes:
        condemned += of_kind(host.look(room(0.5), after=0.5), Condemn)
    assert condemned == ["one", "two", "three"]
    assert 2 * RELIEF_TIME <= host.now - began < 2 * RELIEF_TIME + 5


def test_space_that_is_coming_back_is_waited_for() -> None:
    host = Watching(wild=used(30 / 2), calm=used(1))
    condemned, seconds = [], 0.1
    while host.now < 1000 + 3 * RELIEF_TIME:
        condemned += of_kind(host.look(room(seconds), after=0.5), Condemn)
        seconds += 0.03
    assert condemned == ["wild"]


def test_a_frozen_one_that_cannot_be_measured_is_blamed_unless_another_ones_growth_explains_it() -> None:
    host = Watching(hides=used(1), grows=used(1))
    host.settle()
    host.usage["hides"] = None
    host.look(room(0.5))
    assert of_kind(host.look(room(0.5), after=0.1), Condemn) == ["hides"]

    host = Watching(hides=used(1), grows=used(1))
    host.settle(room(10))
    host.usage |= {"hides": used(1, complete=False), "grows": used(19)}
    host.look(room(0.5))
    assert of_kind(host.look(room(0.5), after=0.1), Condemn) == ["grows"]


def test_one_that_never_answers_is_not_waited_for_by_the_others() -> None:
    host = Watching(silent=None, calm=used(1))
    host.look(room(0.5))
    [condemned] = [a for a in host.look(room(0.5), after=0.1) if isinstance(a, Condemn)]
    assert condemned.name == "silent"
    assert condemned.sentence.endswith("It could not be measured in time.")


def test_an_alarm_for_inodes_blames_who_made_files() -> None:
    host = Watching(big=used(1, 10), many=used(0, 10))
    plenty = room(60, 5_000_000)
    host.settle(plenty)
    host.usage |= {"big": used(15, 20), "many": used(0.5, 4_000_000)}
    short = room(30, 400_000 + FASTEST_FILES * 0.5)
    host.look(short)
    [condemned] = [a for a in host.look(short, after=0.1) if isinstance(a, Condemn)]
    assert condemned.name == "many"
    assert "525000 files are left at /data, of which 400000 files are kept" in condemned.sentence
    assert "3999990 files there since" in condemned.sentence


def test_a_sandbox_that_is_lent_during_an_alarm_is_frozen_too() -> None:
    host = Watching(one=used(1))
    host.look(room(0.5))
    host.sandboxes["late"], host.usage["late"] = LENT, used(1)
    assert "late" in of_kind(host.look(room(0.5), after=0.1), Freeze)


def test_what_could_not_be_frozen_or_thawed_is_tried_again() -> None:
    host = Watching(one=used(1))
    assert of_kind(host.look(room(0.5)), Freeze) == ["one"]
    host.watch.failed(Freeze("one"))
    assert of_kind(host.look(room(0.5), after=0.1), Freeze) == ["one"]
    host.look(room(0.5), after=0.1)
    host = Watching(one=used(1))
    host.look(room(0.5))
    assert of_kind(host.look(room(60)), Thaw) == ["one"]
    assert of_kind(host.look(room(60)), Thaw) == []
    host.watch.failed(Thaw("one"))
    assert of_kind(host.look(room(60)), Thaw) == ["one"]


def test_a_measurement_from_before_the_alarm_is_not_taken_for_one_of_a_frozen_sandbox() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    [old] = watch.look(0, [room()], {"one": LENT})
    assert isinstance(old, Measure)
    actions = watch.look(1, [room(0.5)], {"one": LENT})
    [new] = [action for action in actions if isinstance(action, Measure)]
    assert watch.measured(old, 1.5, used(1)) == []
    assert watch.look(2, [room(0.5)], {"one": LENT}) == [], "it waits for the new one"
    assert watch.measured(new, 2.5, used(5)) == []
    assert of_kind(watch.look(3, [room(0.5)], {"one": LENT}), Condemn) == ["one"]


# -- idle sandboxes ----------------------------------------------------------------------------------------------------


def test_while_the_disk_is_short_idle_caches_go_largest_first_and_jobs_go_on() -> None:
    host = Watching(job=used(15), large=used(5), small=used(1), fresh=used(CACHE / GIB / 2))
    host.sandboxes |= dict.fromkeys(("large", "small", "fresh"), IDLE)
    host.settle()
    actions = [action for _ in range(60) for action in host.look(room(RELIEF - 0.5))]
    evicted = [action for action in actions if isinstance(action, Evict)]
    assert [action.name for action in evicted] == ["large", "small"]
    assert evicted[0].sentence.endswith("Its caches took 5.0 GiB.")
    assert of_kind(actions, Freeze) == of_kind(actions, Condemn) == []


def test_in_an_alarm_idle_caches_go_only_when_no_job_waits_frozen() -> None:
    host = Watching(job=used(1), idle=used(5))
    host.sandboxes["idle"] = IDLE
    host.settle()
    host.look(room(0.5))
    assert of_kind(host.look(room(0.5), after=0.1), Condemn) == ["job"]
    assert of_kind(host.look(room(0.5), after=RELIEF_TIME + 0.1), Evict) == ["idle"]


# -- a sandbox's own limit ---------------------------------------------------------------------------------------------


def test_a_profile_always_has_a_limit() -> None:
    assert Profile().disk == 20 * GIB
    assert Profile.model_validate({"disk": "2GiB"}).disk == 2 * GIB
    for wrong in ("1MiB", "none", -1, None):
        with pytest.raises(ValidationError, match="disk"):
            Profile.model_validate({"disk": wrong})


def test_one_over_its_own_limit_is_condemned() -> None:
    host = Watching(big=used(20.5), ok=used(19.9))
    actions = [*host.look(), *host.look(), *host.look()]
    [condemned] = [action for action in actions if isinstance(action, Condemn)]
    assert (condemned.name, condemned.fault) == ("big", Fault.DISK_LIMIT)
    assert condemned.sentence == (
        "It takes 20.5 GiB on the host's disk, its Docker images included; its profile allows 20.0 GiB (`disk`)."
    )


def test_one_that_could_not_be_counted_to_the_end_is_condemned_for_what_was_counted_only() -> None:
    host = Watching(less=used(19, complete=False))
    assert of_kind(host.look(), Condemn) == []
    host = Watching(more=used(21, complete=False))
    [condemned] = [action for action in host.look() if isinstance(action, Condemn)]
    assert "at least 21.0 GiB" in condemned.sentence


def test_nobody_is_measured_again_while_nothing_is_written_but_now_and_then() -> None:
    host = Watching(one=used(1), idle=used(1))
    host.sandboxes["idle"] = IDLE
    host.settle()
    measured = [name for _ in range(100) for name in of_kind(host.look(), Measure)]
    assert set(measured) == {"one"}
    assert 2 <= len(measured) <= 100 / PERIOD


def test_what_the_host_loses_brings_the_next_measurement_forward() -> None:
    host = Watching(one=used(10), two=used(1))
    host.settle()
    for _ in range(3):
        host.look()
    assert of_kind(host.look(room(60 - 4.9 / 2)), Measure) == [], "less than half of what one may still take"
    assert of_kind(host.look(room(60 - 5.1 / 2)), Measure) == ["one"]
    assert of_kind(host.look(room(60 - 9.6 / 2)), Measure) == ["two"], "all of it may be one's or two's"


def test_measuring_takes_turns_and_rests() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    sandboxes = {"one": LENT, "two": LENT}
    [first] = watch.look(0, [room()], sandboxes)
    assert isinstance(first, Measure)
    assert watch.look(1, [room()], sandboxes) == []
    watch.measured(first, 5.0, None)
    [second] = watch.look(5, [room()], sandboxes)
    assert isinstance(second, Measure)
    assert {first.name, second.name} == {"one", "two"}
    watch.measured(second, 5.1, used(1))
    assert watch.look(5 + 5 * REST - 1, [room()], sandboxes) == []
    assert of_kind(watch.look(5 + 5 * REST + 1, [room()], sandboxes), Measure) == [first.name]


def test_one_is_measured_when_it_is_lent_and_when_it_comes_back() -> None:
    host = Watching(one=used(1))
    host.sandboxes["one"] = IDLE
    host.settle()
    for state in (LENT, IDLE):
        assert of_kind(host.look(after=5), Measure) == []
        host.sandboxes["one"] = state
        assert of_kind(host.look(after=5), Measure) == ["one"]


def test_what_is_gone_is_forgotten_and_its_late_answer_too() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    [asked] = watch.look(0, [room()], {"one": LENT})
    assert isinstance(asked, Measure)
    watch.look(1, [room()], {})
    assert watch.measured(asked, 2, used(50)) == []
    assert watch.usage("one") is None
    assert not watch.is_frozen("one")


def test_an_idle_one_that_was_lent_before_it_could_be_evicted_is_watched_on() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    [asked] = watch.look(0, [room()], {"one": IDLE})
    assert isinstance(asked, Measure)
    watch.measured(asked, 1, used(5))
    assert of_kind(watch.look(2, [room(RELIEF - 0.1)], {"one": IDLE}), Evict) == ["one"]
    assert of_kind(watch.look(3, [room(0.5)], {"one": LENT}), Freeze) == ["one"]


def test_a_condemned_one_that_is_still_listed_is_not_condemned_again() -> None:
    watch = DiskWatch(FASTEST, RESERVE)
    [asked] = watch.look(0, [room()], {"one": LENT})
    assert isinstance(asked, Measure)
    assert of_kind(watch.measured(asked, 1, used(50)), Condemn) == ["one"]
    for now in range(2, 100):
        assert watch.look(now, [room(0.5)], {"one": LENT}) == []
        assert watch.is_frozen("one"), "nobody may thaw it"


# -- no writer takes the host below its reserve ------------------------------------------------------------------------

STEP = 0.05


@dataclass
class Writer:
    """A sandbox that writes."""

    rate: float
    """As a part of the fastest."""
    taken: float = 0.0
    stops_at: float = math.inf
    gone_at: float = math.inf
    """When its space is back."""

    def write(self, now: float, share: float) -> float:
        wrote = self.rate * share * FASTEST * STEP if now < self.stops_at else 0.0
        self.taken += wrote
        return wrote


@dataclass
class Simulation:
    """A host where every duration and rate is drawn."""

    data: st.DataObject
    free: float
    watch: DiskWatch = field(default_factory=lambda: DiskWatch(FASTEST, RESERVE))
    writers: dict[str, Writer] = field(default_factory=dict)
    removed: list[Writer] = field(default_factory=list)
    due: list[tuple[float, Measure]] = field(default_factory=list)
    now: float = 0.0
    next_look: float = 0.0
    least: float = math.inf

    def draw(self, low: float, high: float) -> float:
        return self.data.draw(st.floats(low, high))

    def lend(self, name: str) -> None:
        if self.watch.refusal is None:
            self.writers[name] = Writer(self.draw(0, 1))

    def pass_time(self, seconds: float, writing: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self._answer()
            if self.now >= self.next_look:
                size = Amount(10**15, 10**9)
                rooms = [Room("/data", size, Amount(int(self.free), 10**9))]
                self._act(self.watch.look(self.now, rooms, dict.fromkeys(self.writers, LENT)))
                self.next_look = self.now + self.watch.next_look
            everybody = [*self.writers.values(), *self.removed]
            share = 1 / max(1.0, sum(writer.rate for writer in everybody)) if writing else 0.0
            self.free -= sum(writer.write(self.now, share) for writer in everybody)
            for writer in [writer for writer in self.removed if self.now >= writer.gone_at]:
                self.free += writer.taken
                self.removed.remove(writer)
            self.least = min(self.least, self.free)
            self.now += STEP

    def _answer(self) -> None:
        for moment, measure in [pair for pair in self.due if pair[0] <= self.now]:
            self.due.remove((moment, measure))
            writer = self.writers.get(measure.name)
            seen = Usage(Amount(int(writer.taken), 10), self.data.draw(st.booleans())) if writer else None
            self._act(self.watch.measured(measure, self.now, self.data.draw(st.sampled_from([seen, seen, None]))))

    def _act(self, actions: list[Act]) -> None:
        for action in actions:
            match action:
                case Measure():
                    self.due.append((self.now + self.draw(0.0, MEASURE_TIME + 2), action))
                case Freeze(name):
                    # A step less, since a look is at most a step late here, and a write happens at the start of one.
                    self._stop(self.writers[name])
                case Thaw(name):
                    self.writers[name].stops_at = math.inf
                case Condemn(name):
                    writer = self.writers.pop(name)
                    self._stop(writer)
                    writer.gone_at = self.now + self.draw(0.0, 60.0)
                    self.removed.append(writer)

    def _stop(self, writer: Writer) -> None:
        writer.stops_at = min(writer.stops_at, self.now + self.draw(0.0, FREEZE_TIME - 2 * STEP))


@settings(max_examples=150)
@given(st.data())
def test_writers_of_any_rate_up_to_the_fastest_never_touch_the_reserve_and_nobody_stays_frozen(
    data: st.DataObject,
) -> None:
    host = Simulation(data, RESERVE + data.draw(st.floats(0.0, 40.0)) * FASTEST)
    host.pass_time(STEP)
    for number in range(data.draw(st.integers(1, 6))):
        host.lend(f"sandbox-{number}")
        host.pass_time(host.draw(0.1, 15.0))
        for writer in host.writers.values():
            writer.rate = host.draw(0, 1)
    assert host.least >= RESERVE, f"{(RESERVE - host.least) / GIB:.3f} GiB of the reserve were taken"
    host.pass_time(7 * (RELIEF_TIME + MEASURE_TIME) + 60, writing=False)
    assert not [name for name in host.writers if host.watch.is_frozen(name)]
