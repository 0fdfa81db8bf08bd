"""The table of a sandbox's life: complete, connected, and strict."""

import re
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.state import IN_ADVANCE, MOVES, IllegalMove, State, can_be_condemned, check_move, is_alive


def test_every_state_has_an_entry() -> None:
    assert set(MOVES) == set(State)


def test_every_state_is_reached_from_one_of_the_two_beginnings() -> None:
    reached, edge = {State.CREATING, State.PREPARING}, {State.CREATING, State.PREPARING}
    while edge:
        edge = {target for state in edge for target in MOVES[state]} - reached
        reached |= edge
    assert reached == set(State)


def test_only_gone_is_an_end_and_every_state_can_get_there() -> None:
    assert {state for state in State if not MOVES[state]} == {State.GONE}
    ends = {State.GONE}
    while more := {state for state in State if MOVES[state] & ends} - ends:
        ends |= more
    assert ends == set(State)


@pytest.mark.parametrize("state", State)
def test_staying_is_always_allowed(state: State) -> None:
    check_move("sandbox-1", state, state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("target", State)
def test_a_move_is_allowed_exactly_when_the_table_has_it(state: State, target: State) -> None:
    if target in MOVES[state] or target is state:
        check_move("sandbox-1", state, target)
        return
    with pytest.raises(IllegalMove) as caught:
        check_move("sandbox-1", state, target)
    assert all(word in str(caught.value) for word in ("sandbox-1", f" {state} ", f" {target};"))


def test_what_is_on_its_way_out_never_comes_back_to_life() -> None:
    dead = {state for state in State if not is_alive(state)} - IN_ADVANCE
    assert dead == {State.CONDEMNED, State.DESTROYING, State.STUCK, State.GONE}
    assert not any(is_alive(target) for state in dead for target in MOVES[state])


@pytest.mark.parametrize("state", State)
def test_what_is_not_on_its_way_out_can_be_condemned(state: State) -> None:
    assert can_be_condemned(state) is (is_alive(state) or state in IN_ADVANCE)


def test_an_illegal_move_is_an_error_of_ours() -> None:
    assert issubclass(IllegalMove, SandboxError)


def test_the_picture_in_the_docs_is_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)", page, re.MULTILINE))
    assert drawn == {(str(source), str(target)) for source, targets in MOVES.items() for target in targets}
