"""What `runner` makes of an end that no command meets by itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner import entry
from tests import programs

_INTERRUPTED = "import runner.entry as it, signal; it._run = lambda: signal.raise_signal(signal.SIGINT); it.main()"


def test_ctrl_c_ends_a_command_without_a_word_also_while_it_is_still_loaded() -> None:
    ended = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGINT, "")


def test_a_disk_without_room_for_the_output_is_told_in_a_line() -> None:
    with Path("/dev/full").open("wb") as full:
        program = programs.start(programs.runner, "config", "show", stdout=full, stderr=subprocess.PIPE)
        _, said = program.communicate("", timeout=60)
    assert (program.returncode, said) == (74, "runner: The output cannot be written: No space left on device.\n")


def test_whoever_reads_a_part_of_the_output_hears_of_nothing() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as unread:
        program = programs.start(programs.runner, "config", "show", stdout=unread, stderr=subprocess.PIPE)
        assert (program.communicate("", timeout=60)[1], program.returncode) == ("", 1)


def test_a_defect_is_not_taken_for_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(errno.EBADF, "a defect")

    monkeypatch.setattr(entry, "_run", broken)
    with pytest.raises(OSError, match="a defect"):
        entry._tell_errors()
