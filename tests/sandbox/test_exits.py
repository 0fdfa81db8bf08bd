"""Both commands' reactions to an end that their own code does not handle."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import exits
from tests import programs

INTERRUPTED = "import {name}.entry as it, signal; it._run = lambda: signal.raise_signal(signal.SIGINT); it.main()"


@pytest.mark.parametrize("name", ["runner", "sandbox"])
def test_ctrl_c_ends_a_command_without_a_word_also_while_it_is_still_loaded(name: str) -> None:
    words = [sys.executable, "-c", INTERRUPTED.format(name=name)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGINT, "")


@pytest.mark.parametrize(("name", "main"), [("runner", programs.runner), ("sandbox", programs.sandbox)])
def test_a_disk_without_room_for_the_output_is_told_in_a_line(name: str, main: Callable[[], None]) -> None:
    with Path("/dev/full").open("wb") as full:
        program = programs.start(main, "config", "show", stdout=full, stderr=subprocess.PIPE)
        _, said = program.communicate("", timeout=60)
    assert (program.returncode, said) == (74, f"{name}: The output cannot be written: No space left on device.\n")


@pytest.mark.parametrize("main", [programs.runner, programs.sandbox])
def test_whoever_reads_a_part_of_the_output_hears_of_nothing(main: Callable[[], None]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as unread:
        program = programs.start(main, "config", "show", stdout=unread, stderr=subprocess.PIPE)
        assert (program.communicate("", timeout=60)[1], program.returncode) == ("", 1)


def test_a_defect_is_not_taken_for_a_full_disk() -> None:
    with pytest.raises(OSError, match="a defect"), exits.told("runner"):
        raise OSError(errno.EBADF, "a defect")
