"""The soak's own logic: a schedule that can be made again, and a verdict that finds the faults it is for."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.plan import PAUSE, Fault, output, schedule, script
from tests.soak.verdict import Seen, complaints, report

CLOSING = b"runner: The script succeeded.\n"
WHOLE = output("a", 3)
GOOD = Seen("a", "finished", "succeeded", WHOLE + CLOSING, WHOLE)


@given(st.integers(), st.floats(0, 3600))
def test_a_schedule_is_the_same_for_a_seed_and_keeps_its_pauses(seed: int, seconds: float) -> None:
    strikes = list(schedule(seed, seconds))
    assert strikes == list(schedule(seed, seconds))
    times = [0.0, *(strike.at for strike in strikes)]
    assert all(PAUSE[0] <= after - before <= PAUSE[1] + 1e-6 for before, after in pairwise(times))
    assert seconds - PAUSE[1] - 1e-6 <= times[-1] <= seconds or not strikes


@given(st.integers())
def test_every_fault_happens_before_one_happens_again_and_within_a_minute(seed: int) -> None:
    assert {strike.fault for strike in schedule(seed, 60)} == set(Fault)
    first = [strike.fault for strike in schedule(seed, 3600)][: len(Fault)]
    assert set(first) == set(Fault)


def test_the_script_writes_what_is_expected() -> None:
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script("a", 3)], capture_output=True, check=True)
    assert done.stdout == WHOLE


@pytest.mark.parametrize(
    "job",
    [
        GOOD,
        replace(GOOD, outcome="sandbox_lost", log=WHOLE[:50] + b"\nrunner: The sandbox was lost: x\n"),
        replace(GOOD, outcome="sandbox_lost", log=b"runner: The sandbox was lost: x\n"),
    ],
)
def test_what_is_promised_is_no_complaint(job: Seen) -> None:
    assert complaints([job], [Fault.REMOVE_SANDBOX]) == []


def test_a_fault_excuses_no_more_than_it_may_cost() -> None:
    lost = replace(GOOD, outcome="sandbox_lost", log=b"runner: The sandbox was lost: x\n")
    assert complaints([GOOD, lost], [Fault.KILL_KEEPER]) == [
        "1 jobs lost their sandbox, and what struck may have cost 0"
    ]
    assert complaints([lost, lost, GOOD], [Fault.WRECK_SANDBOX, Fault.REMOVE_SANDBOX]) == []


def test_no_jobs_prove_nothing() -> None:
    assert complaints([]) == ["there were no jobs"]


@pytest.mark.parametrize(
    ("job", "what"),
    [
        (replace(GOOD, state="queued", outcome=None), "a: it is lost: queued"),
        (replace(GOOD, log=b"begin a\n" + WHOLE + CLOSING), "a: it started 2 times"),
        (replace(GOOD, log=WHOLE), "a: its log has no last line"),
        (replace(GOOD, log=WHOLE[:-5] + CLOSING), "a: it succeeded, and its log is another one"),
        (replace(GOOD, outcome="script_failed"), "a: it ended as script_failed"),
        (replace(GOOD, outcome="setup_failed"), "a: it ended as setup_failed"),
        (replace(GOOD, outcome="sandbox_lost", log=WHOLE[9:60] + b"\nrunner: x\n"), "a: its log has a hole"),
    ],
)
def test_what_is_broken_is_told(job: Seen, what: str) -> None:
    assert what in complaints([job])


@given(st.integers(1, len(WHOLE) - 1), st.binary(min_size=1, max_size=1))
def test_no_byte_of_a_log_can_be_another_one(place: int, byte: bytes) -> None:
    log = WHOLE[:place] + byte + WHOLE[place + 1 :]
    assert bool(complaints([replace(GOOD, log=log + CLOSING)])) == (log != WHOLE)


def test_the_report_counts() -> None:
    told = report([GOOD, replace(GOOD, outcome="sandbox_lost")], [Fault.CUT_SSH, Fault.CUT_SSH], 60)
    assert told == "2 jobs in 60 s: 1 succeeded, 1 sandbox_lost\nwhat happened: 2 x SSH reset"
