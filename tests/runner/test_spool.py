"""Folders of dead processes are found and removed, and nobody else's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.spool import remove_leftovers, spool

PROGRAM = """
import sys, time
from pathlib import Path
from runner.spool import spool
with spool(Path(sys.argv[1])) as folder:
    (folder / "log").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    left = Path(process.stdout.readline().strip())
    assert left.stat().st_mode & 0o777 == 0o700
    with spool(tmp_path) as mine:
        assert remove_leftovers(tmp_path) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert remove_leftovers(tmp_path) == 1
        assert (left.exists(), mine.exists()) == (False, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strange", ["folder", "link", "file", "special"])
def test_what_only_looks_like_one_is_left_alone(tmp_path: Path, strange: str) -> None:
    """The trap: the folder for temporary files is everybody's, and a link in it may lead anywhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    place = tmp_path / "tmp"
    place.mkdir()
    odd = place / "runner-odd"
    if strange == "link":
        odd.symlink_to(elsewhere)
    elif strange == "file":
        odd.touch()
    else:
        odd.mkdir()
        if strange == "special":
            (odd / "lock").symlink_to(elsewhere / "lock")
    assert remove_leftovers(place) == 0
    assert odd.exists()
    assert (elsewhere / "lock").exists()
