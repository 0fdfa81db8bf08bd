"""A reader who copies blocks of the documentation and pastes them into a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT, Block
from tests.e2e.conftest import in_network_of_engine
from tests.e2e.test_compose import Installation

DEADLINE: Final = 300.0
_DOCKER: Final = """#!/bin/bash
[ "$1" = compose ] || exec {docker} "$@"
exec {compose} --project-directory {root} {files} "${{@:2}}"
"""
"""`docker compose` as this machine has it, on a project of its own, with the images that `make images` has built."""


class Reader:
    """Types into a shell where the commands are installed, in a folder that has the checkout's examples."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        program = folder / "bin" / "docker"
        here = Path(sys.executable).parent
        files = " ".join(f"--file={file}" for file in installation.files)
        program.write_text(
            _DOCKER.format(docker=shutil.which("docker"), compose=here / "docker-compose", root=ROOT, files=files)
        )
        program.chmod(0o755)
        self.environment = {**installation.environment, "PATH": f"{folder / 'bin'}:{here}:{os.environ['PATH']}"}

    def type(self, block: Block, replacing: Mapping[str, str] | None = None, codes: Collection[int] = (0,)) -> str:
        """Type in a block, with what stands for a reader's own replaced, and return what it printed."""
        text = re.sub(r" --build(?=\s)", " --no-build", block.text)
        for shown, own in (replacing or {}).items():
            assert shown in text, f"{block}: {shown}"
            text = text.replace(shown, own)
        done = subprocess.run(
            [*in_network_of_engine(), "bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode in codes, f"{block}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr
