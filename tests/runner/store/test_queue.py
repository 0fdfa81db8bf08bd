"""The order of jobs, against a model that is simple enough to be believed: a ring of trust keys for each priority."""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.job import Job
from runner.outcome import Succeeded
from runner.store.jobs import Jobs, Result
from runner.store.states import JobState
from tests.runner.service.state import State

KEYS = st.sampled_from("abc")
PRIORITIES = st.sampled_from([-1, 0, 5])


def job(trust_key: str, priority: int = 0) -> Job:
    return Job(b"true", trust_key=trust_key, priority=priority)


def claim(jobs: Jobs, per_key: int = 100) -> str | None:
    entry = jobs.claim(per_key)
    return entry.id if entry else None


class Queue(RuleBasedStateMachine):
    """Jobs come, are claimed, are taken out of turn, end, and are put back by a restart."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.jobs: Jobs = State(Path(self.folder.name)).jobs
        self.rings: dict[int, deque[str]] = {}
        self.lanes: dict[tuple[int, str], list[int]] = {}
        self.ids: list[str] = []
        self.facts: list[tuple[int, str]] = []
        self.active: list[int] = []

    def enter(self, number: int) -> None:
        priority, key = self.facts[number]
        lane = self.lanes.setdefault((priority, key), [])
        if not lane:
            self.rings.setdefault(priority, deque()).append(key)
        lane.append(number)
        lane.sort()

    def leave(self, number: int, *, served: bool) -> None:
        priority, key = self.facts[number]
        lane, ring = self.lanes[priority, key], self.rings[priority]
        lane.remove(number)
        if not lane:
            ring.remove(key)
        elif served:
            ring.remove(key)
            ring.append(key)
        self.active.append(number)

    def next(self, per_key: int) -> int | None:
        running = Counter(self.facts[number][1] for number in self.active)
        for priority in sorted(self.rings, reverse=True):
            for key in self.rings[priority]:
                if running[key] < per_key:
                    return self.lanes[priority, key][0]
        return None

    @rule(key=KEYS, priority=PRIORITIES)
    def submit(self, key: str, priority: int) -> None:
        self.ids.append(self.jobs.add(job(key, priority))[0])
        self.facts.append((priority, key))
        self.enter(len(self.ids) - 1)

    @rule(per_key=st.integers(1, 3))
    def claim(self, per_key: int) -> None:
        expected = self.next(per_key)
        assert claim(self.jobs, per_key) == (None if expected is None else self.ids[expected])
        if expected is not None:
            self.leave(expected, served=True)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(range(len(self.ids))))
        waits = number in self.lanes.get(self.facts[number], [])
        assert self.jobs.take(self.ids[number]) is waits
        if waits:
            self.leave(number, served=False)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.active))
        self.jobs.settle(self.ids[number], Result(Succeeded(), 0, b""))
        self.active.remove(number)

    @rule()
    def restart(self) -> None:
        self.jobs.put_back()
        for number in sorted(self.active):
            self.enter(number)
        self.active.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = sorted(number for lane in self.lanes.values() for number in lane)
        assert self.jobs.find(JobState.QUEUED) == [self.ids[number] for number in waiting]

    def teardown(self) -> None:
        self.folder.cleanup()


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=25)


def test_a_key_with_many_jobs_delays_another_by_at_most_one(tmp_path: Path) -> None:
    jobs = State(tmp_path).jobs
    for _ in range(20):
        jobs.add(job("many"))
    claim(jobs)
    single, _ = jobs.add(job("single"))
    assert single in [claim(jobs) for _ in range(2)]


def test_ever_new_keys_pass_nobody(tmp_path: Path) -> None:
    """The trap: if who was served least were next, a client with a fresh key for each job would starve all others."""
    jobs = State(tmp_path).jobs
    honest = [jobs.add(job("honest"))[0] for _ in range(3)]
    claimed = []
    for number in range(6):
        jobs.add(job(f"fresh-{number}"))
        claimed.append(claim(jobs))
    assert set(honest) < set(claimed)
