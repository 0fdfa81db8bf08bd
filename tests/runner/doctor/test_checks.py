"""Each check by tables of facts and results; and the page describes every check."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config.load import load
from runner.doctor import checks
from runner.doctor.facts import Answer, Canary, Clock, Facts
from runner.keeper_leases import KeeperState
from runner.service.watermark import Room
from runner.store.condition import Condition
from sandbox.health import HostState
from sandbox.report import Found, Status, Unknown, bad, good
from sandbox.settings.loaded import Loaded

PAGE = Path(__file__).parents[3] / "docs" / "runner-doctor.md"
GIB = 1024**3
NOW = 1_800_000_000.0
UNKNOWN = Unknown("Nobody knows.")
CONFIGURATION = load(None, {}, {("state",): "/srv/state"})
ROOMIER = load(None, {}, {("disk", "low"): "8GiB"})
GOOD = Facts(
    configuration=CONFIGURATION,
    room=Room(50 * GIB, 100 * GIB),
    store=Condition(version=3, known=3, complaint="", latest=NOW - 5),
    clock=Clock(NOW, synchronised=True),
    host=(Found("engine", good("It answers."), "docs/doctor.md#engine"),),
    keeper=KeeperState(HostState.WELL, "", {"default": 1}, {"default": 2}),
    api=Answer(ready=True, detail=""),
    canary=Canary(succeeded=True, message="", seconds=1.0),
)
P, W, F, N = Status.PASS, Status.WARN, Status.FAIL, Status.NOT_CHECKED


def judged(name: str, change: dict[str, Any]) -> tuple[Status, str]:
    [found] = [found for found in checks.run(replace(GOOD, **change)) if found.check == name]
    assert found.page == f"docs/runner-doctor.md#{name}"
    assert bool(found.result.fix) == (found.result.status in (W, F))
    return found.result.status, found.result.seen


def test_a_good_runner_passes_and_the_hosts_checks_follow() -> None:
    results = list(checks.run(GOOD))
    assert {found.result.status for found in results} == {P}
    assert [found.check for found in results] == [*(check.name for check in checks.CHECKS), "engine"]


@pytest.mark.parametrize(
    ("name", "change", "status", "said"),
    [
        ("configuration", {}, P, "1 settings are given"),
        ("configuration", {"configuration": Unknown("f:3: jobs.slots: no.")}, F, "f:3: jobs.slots"),
        ("configuration", {"configuration": Loaded(CONFIGURATION.config, {}, ("X is no setting.",))}, W, "X is no"),
        ("state-disk", {}, P, "The disk of /srv/state has"),
        ("state-disk", {"room": Room(GIB, 100 * GIB)}, F, "No job is started"),
        ("state-disk", {"room": Room(GIB // 100, 100 * GIB)}, F, "No job is taken"),
        ("state-disk", {"room": Room(9 * GIB, 100 * GIB)}, P, "has 9,216 of"),
        ("state-disk", {"room": Room(7 * GIB, 100 * GIB), "configuration": ROOMIER}, F, "No job is started"),
        ("state-disk", {"room": UNKNOWN}, F, "Nobody knows."),
        ("state-disk", {"configuration": UNKNOWN}, N, "has to be right first"),
        ("store", {"store": None}, N, "There is no database yet"),
        ("store", {"store": UNKNOWN}, F, "Nobody knows."),
        ("store", {"store": Condition(3, 3, "row 7 missing from index", 0.0)}, F, "damaged: row 7 missing"),
        ("store", {"store": Condition(4, 3, "", 0.0)}, F, "version 4, and this runner knows 3"),
        ("store", {"store": Condition(2, 3, "", 0.0)}, P, "the next start brings it up to date"),
        ("clock", {"clock": Clock(NOW, synchronised=False)}, W, "Nothing keeps the clock right"),
        ("clock", {"clock": Clock(NOW - 100, synchronised=True)}, F, "The clock is 95 s behind the last event"),
        ("clock", {"clock": Clock(NOW - 30, synchronised=True)}, P, "kept right"),
        ("clock", {"clock": Clock(0.0, synchronised=True)}, F, "years behind"),
        ("clock", {"clock": UNKNOWN}, N, "Nobody knows."),
        ("keeper", {"keeper": UNKNOWN}, F, "Nobody knows."),
        ("keeper", {"keeper": None}, N, "known by their addresses"),
        ("keeper", {"keeper": KeeperState(HostState.WEDGED, "It hangs.", {}, {})}, F, "It hangs."),
        ("keeper", {"keeper": KeeperState(HostState.SUSPECT, "", {}, {})}, W, "takes its host for suspect"),
        ("keeper", {"keeper": KeeperState(HostState.WELL, "Every new one fails.", {}, {})}, W, "Every new one"),
        ("pool", {"keeper": UNKNOWN}, N, "no keeper that answers"),
        ("pool", {"keeper": KeeperState(HostState.WELL, "", {}, {})}, F, "There is no sandbox."),
        ("pool", {"keeper": KeeperState(HostState.WELL, "", {}, {"a": 2})}, W, "0 of 2 in profile a"),
        ("api", {"api": UNKNOWN}, F, "Nobody knows."),
        ("api", {"api": Answer(ready=False, detail="It is stopping.")}, F, "It is stopping."),
        ("canary-job", {"canary": UNKNOWN}, N, "Nobody knows."),
        (
            "canary-job",
            {"canary": Canary(succeeded=False, message="It was lost.", seconds=9.0)},
            F,
            "After 9 s: It was",
        ),
        ("host", {"host": UNKNOWN}, N, "Where the keeper runs, `sandbox doctor`"),
    ],
)
def test_what_is_made_of_the_facts(name: str, change: dict[str, Any], status: Status, said: str) -> None:
    found, seen = judged(name, change)
    assert found is status
    assert said in seen


def test_without_a_configuration_one_thing_fails_and_says_so() -> None:
    facts = Facts(UNKNOWN, UNKNOWN, UNKNOWN, GOOD.clock, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    assert [found.check for found in checks.run(facts) if found.result.status is F] == ["configuration"]


def test_what_the_host_fails_with_is_a_failure_here() -> None:
    found = Found("walls", bad("No nft.", "Install it."), "docs/doctor.md#walls")
    assert found in list(checks.run(replace(GOOD, host=(found,))))


def test_each_check_has_its_entry_on_the_page_in_order_and_the_page_has_no_other() -> None:
    entries = re.findall(r"^### (\S+)$", PAGE.read_text(), re.MULTILINE)
    assert entries == [check.name for check in checks.CHECKS]
