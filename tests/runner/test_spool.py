"""Folders of dead processes are found and removed, and no other ones."""

from __future__ import annotations

import os
import shutil
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


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What a dead process left."""
    with spool(tmp_path) as folder:
        copy = tmp_path / "tmp" / folder.name
        shutil.copytree(folder, copy)
    return copy


@pytest.mark.parametrize(
    "strange",
    ["nothing in it", "a link", "a file", "a link as its lock", "a FIFO as its lock", "an empty lock", "another lock"],
)
def test_what_only_looks_like_one_is_left_alone(tmp_path: Path, left: Path, strange: str) -> None:
    """The trap: the folder for temporary files is everybody's, and a link in it may lead anywhere."""
    elsewhere = left.rename(tmp_path / "elsewhere")
    lock = left / "lock"
    if strange == "a link":
        left.symlink_to(elsewhere)
    elif strange == "a file":
        left.touch()
    else:
        left.mkdir()
    match strange:
        case "a link as its lock":
            lock.symlink_to(elsewhere / "lock")
        case "a FIFO as its lock":
            os.mkfifo(lock)
        case "an empty lock":  # as an earlier release left it, or any program
            lock.touch()
        case "another lock":
            lock.write_text("4711\n")
    assert remove_leftovers(left.parent) == 0
    assert left.exists()
    assert (elsewhere / "lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away")
def test_root_removes_what_is_roots_and_no_other_users(left: Path) -> None:
    os.chown(left, 12345, 12345)
    assert remove_leftovers(left.parent) == 0
    os.chown(left, 0, 0)
    assert remove_leftovers(left.parent) == 1
    assert not left.exists()


def test_a_folder_of_another_name_is_another_programs(left: Path) -> None:
    """The trap: GitHub's and GitLab's runners have their folders beside ours."""
    left.rename(left.with_name("runner-1"))
    assert remove_leftovers(left.parent) == 0
