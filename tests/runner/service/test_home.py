"""The state folder belongs to one service at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import StateError
from runner.service.home import Home


def test_a_second_service_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """The trap: two lives at once, as in a careless upgrade, would both run what waits."""
    first = Home(tmp_path / "state")
    with pytest.raises(StateError, match="Another runner uses"):
        Home(tmp_path / "state")
    first.release()
    Home(tmp_path / "state").release()


def test_a_killed_service_holds_nothing(tmp_path: Path) -> None:
    text = (
        "import os, sys, pathlib, runner.service.home as h; h.Home(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", text, str(tmp_path)], check=False).returncode == -9
    Home(tmp_path).release()


@pytest.mark.parametrize("name", ["file/state", "file"])
def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="is not usable"):
        Home(tmp_path / name)


def test_a_folder_of_the_version_that_kept_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    with pytest.raises(StateError, match="kept each job in a folder"):
        Home(tmp_path)
