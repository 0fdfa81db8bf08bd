"""What reaches a sandbox by its name in ssh's configuration, typed as the page has it, at a home folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import block_of
from tests.e2e.conftest import in_network_of_engine

DEADLINE: Final = 120
EDITED: Final = {
    "vim scp://default.sandbox/src/main.py": "vim -Nu NONE -es -c 'runtime plugin/netrwPlugin.vim'"
    " -c 'let g:netrw_silent=1' -c 'edit scp://default.sandbox/src/main.py' -c '%s/one/two/' -c 'write' -c 'quitall!'",
    "emacs /ssh:default.sandbox:src/main.py": "emacs --batch --quick --eval '(progn"
    ' (find-file "/ssh:default.sandbox:src/main.py") (search-forward "two") (replace-match "three") (save-buffer))\'',
}
"""The editors' commands, and the same without a person at the terminal."""
# ssh finds its configuration by the user's entry in passwd, whatever HOME says: so nothing of it may be written there.
APART: Final = 'mount -t overlay -o "lowerdir=$HOME,upperdir=$PWD/home,workdir=$PWD/work" home "$HOME"\n'


class Person:
    """Somebody with a sandbox called `default`."""

    def __init__(self, folder: Path, runtime: str, image: str) -> None:
        self._folder = folder
        commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"SANDBOX_RUNTIME": runtime, "SANDBOX_IMAGE": image, "XDG_STATE_HOME": str(folder / "state")}
        self._environment = {**os.environ, **settings, "PATH": commands}

    def type(self, text: str) -> str:
        """Type into a shell, and return what it printed."""
        shell = ["unshare", "--mount", "bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            [*in_network_of_engine(), *shell], cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}: {done.stdout}"
        return done.stdout


@pytest.fixture
def person(tmp_path: Path, sandbox_runtime: str, sandbox_image: str) -> Iterator[Person]:
    for name in ("home", "work", "src"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "main.py").write_text("one\n")
    made = Person(tmp_path, sandbox_runtime, sandbox_image)
    made.type("sandbox up")
    yield made
    made.type("sandbox rm default")


def test_files_in_a_sandbox_are_edited_as_written(person: Person) -> None:
    text = block_of("sandbox-command", "sandbox ssh-config").text
    for shown, own in EDITED.items():
        assert shown in text
        text = text.replace(shown, own)
    before, after = "mkdir -p ~/.ssh ~/sandbox\n", "cat ~/sandbox/src/main.py; umount ~/sandbox\n"
    assert person.type(APART + before + text + after).endswith("three\n")
    assert person.type("sandbox shell default cat src/main.py").endswith("three\n")
