"""The moves between modes."""

from __future__ import annotations

import pytest

from runner.errors import WrongModeError
from runner.service.mode import MOVES, Mode, check_move


def test_every_mode_has_an_entry_and_only_those_that_take_jobs_can_be_left_for_work() -> None:
    assert set(MOVES) == set(Mode)
    assert {mode for mode in Mode if Mode.WORKING in MOVES[mode] or mode is Mode.WORKING} == {
        mode for mode in Mode if mode.takes
    }


@pytest.mark.parametrize("mode", list(Mode))
def test_the_same_mode_is_no_move_and_whoever_leaves_does_not_come_back(mode: Mode) -> None:
    assert not check_move(mode, mode)
    assert mode is Mode.LEAVING or check_move(mode, Mode.LEAVING)
    if not mode.takes:
        with pytest.raises(WrongModeError, match=f"The runner is {mode} and ends soon"):
            check_move(mode, Mode.DRAINING)
