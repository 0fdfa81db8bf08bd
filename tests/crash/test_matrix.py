"""The crash-point matrix: brings a real runner, keeper and engine exactly to a point, and then strikes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.crash.checks import SCRIPT, check, check_nothing_is_left, flushed, outcome_of, written
from tests.crash.clock import DAY
from tests.crash.lab import Lab
from tests.crash.matrix import MATRIX, Fault, Point
from tests.crash.wire_cutter import Cut
from tests.waiting import until

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "promises.md"

# -- how a job comes to each point ---------------------------------------------------------------------------------


def _stopped_at(point: Point) -> Callable[[Lab], None]:
    def reach(lab: Lab) -> None:
        lab.runner.stop_at(point)
        lab.job = lab.runner.submit(SCRIPT)
        lab.runner.wait_until_stopped()

    return reach


def _submitted_at(point: Point) -> Callable[[Lab], None]:
    """Before its client was told."""

    def reach(lab: Lab) -> None:
        lab.runner.stop_at(point)
        lab.submit(SCRIPT)
        lab.runner.wait_until_stopped()

    return reach


def _start(lab: Lab) -> None:
    _stopped_at(Point.START)(lab)
    until("the script runs", lambda: lab.starts.count)


def _exit(lab: Lab) -> None:
    _stopped_at(Point.RUNNING)(lab)
    lab.starts.go()
    until("the launcher has written the end down", lambda: lab.record()["kind"] == "exited")


def _result(lab: Lab) -> None:
    lab.starts.go()
    _stopped_at(Point.RESULT)(lab)


def _delivered(lab: Lab) -> None:
    lab.starts.go()
    lab.job = lab.runner.submit(SCRIPT)
    lab.runner.outcome(lab.job)
    lab.keeper.settle()
    lab.runner.stop()


REACH: Final[Mapping[Point, Callable[[Lab], None]]] = {
    Point.ACCEPT: _submitted_at(Point.ACCEPT),
    Point.QUEUED: _submitted_at(Point.QUEUED),
    Point.CLAIMED: _submitted_at(Point.CLAIMED),
    Point.LEASE: _stopped_at(Point.LEASE),
    Point.MARKER: _stopped_at(Point.MARKER),
    Point.START: _start,
    Point.RUNNING: _stopped_at(Point.RUNNING),
    Point.EXIT: _exit,
    Point.RESULT: _result,
    Point.DELIVERED: _delivered,
}


# -- what happens, with the runner going on where it lives; and what an operator or a supervisor does about it ------


def _kill_runner(lab: Lab) -> None:
    lab.runner.kill()


def _kill_keeper(lab: Lab) -> None:
    lab.keeper.kill()
    lab.runner.cont()


def _kill_both(lab: Lab) -> None:
    lab.runner.kill()
    lab.keeper.kill()


def _remove_sandbox(lab: Lab) -> None:
    lab.container.remove(force=True)
    lab.runner.cont()


def _reset(lab: Lab) -> None:
    lab.wire.cut(Cut.RESET, new=False)
    lab.runner.cont()


def _swallow(lab: Lab) -> None:
    lab.wire.cut(Cut.DROP, new=True)
    lab.runner.cont()


def _fill_disk(lab: Lab) -> None:
    lab.fill_disk()
    lab.fill_disk("logs")
    lab.runner.cont()


def _fill_store(lab: Lab) -> None:
    lab.fill_disk()
    lab.runner.cont()


def _lock_store(lab: Lab) -> None:
    lab.lock_store()
    lab.runner.cont()


def _jump_ahead(lab: Lab) -> None:
    lab.set_clocks(DAY)
    lab.runner.cont()


STRIKE: Final[Mapping[Fault, Callable[[Lab], None]]] = {
    Fault.RUNNER: _kill_runner,
    Fault.KEEPER: _kill_keeper,
    Fault.BOTH: _kill_both,
    Fault.REMOVED: _remove_sandbox,
    Fault.RESET: _reset,
    Fault.HOLE: _swallow,
    Fault.FULL: _fill_disk,
    Fault.CLOCK: _jump_ahead,
    Fault.LOCKED: _lock_store,
    Fault.STORE: _fill_store,
}


def _restart_both(lab: Lab) -> None:
    lab.keeper.restart()
    lab.runner.start()


def _see_it_gone(lab: Lab) -> None:
    """Nothing is to be done, but the keeper must have noticed before anybody asks whether all is well."""

    def noticed() -> bool:
        return lab.container.name in {gone.name for gone in lab.keeper.client.listing().condemned}

    until("the keeper noticed", noticed)


def _open_again(lab: Lab) -> None:
    """The connection that there was stays dead; new ones come through from the moment when the runner wants one."""
    noticed = ("a new connection is tried", "another sandbox is tried")
    until("the runner noticed", lambda: any(map(lab.runner.says, noticed)) or lab.finished())
    lab.wire.cut(Cut.DROP, new=False)


UNWRITTEN: Final = "The outcome cannot be written down"
UNSTARTED: Final = ("The lease cannot be noted", "The start cannot be written down")
"""What the runner says of what it cannot write down for a job, and of jobs that wait meanwhile."""
WAITING: Final = ("No job can be claimed", "The disk of the runner's state folder has")


def _see_it_told(lab: Lab) -> None:
    """The runner says what is wrong; what it says of other jobs does not count for one that was claimed."""

    def told() -> bool:
        if any(map(lab.runner.says, (UNWRITTEN, *UNSTARTED))) or lab.finished():
            return True
        waits = not lab.job or lab.runner.show(lab.job)["state"] == "queued"
        return waits and any(map(lab.runner.says, WAITING))

    until("the runner says what is wrong", told)


def _make_room(lab: Lab) -> None:
    _see_it_told(lab)
    lab.make_room()
    if lab.finished() and not lab.runner.says(UNWRITTEN):  # the last lines may be missing: a restart mends that
        lab.runner.kill()
        lab.runner.start()


def _unlock(lab: Lab) -> None:
    _see_it_told(lab)
    lab.unlock_store()


HEAL: Final[Mapping[Fault, Callable[[Lab], None]]] = {
    Fault.RUNNER: lambda lab: lab.runner.start(),
    Fault.KEEPER: lambda lab: lab.keeper.restart(),
    Fault.BOTH: _restart_both,
    Fault.REMOVED: _see_it_gone,
    Fault.RESET: lambda _: None,
    Fault.HOLE: _open_again,
    Fault.FULL: _make_room,
    Fault.CLOCK: lambda lab: lab.set_clocks(-DAY),
    Fault.LOCKED: _unlock,
    Fault.STORE: _make_room,
}


# -- what is promised ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "fault"), MATRIX, ids=lambda part: part.name.lower())
def test_the_promise_holds(lab: Lab, point: Point, fault: Fault) -> None:
    REACH[point](lab)
    before, kept = written(lab), flushed(lab)
    STRIKE[fault](lab)
    lab.starts.go()
    HEAL[fault](lab)
    outcome = outcome_of(lab)
    before = before or written(lab)
    lab.keeper.settle()
    check(lab, MATRIX[point, fault], outcome, kept)
    check_nothing_is_left(lab)
    lab.runner.signal(signal.SIGTERM)
    assert lab.runner.wait() == 0
    assert written(lab) == before


def test_the_documentation_has_this_matrix() -> None:
    rows = [line.strip("|").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    told = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows if len(cells) == len(Fault) + 1}
    assert told.pop("") == list(Fault)
    assert told == {point: [MATRIX[point, fault].word for fault in Fault] for point in Point}
