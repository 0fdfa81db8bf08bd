"""`sandbox keeper` unchanged, except that a test sets its clock in the folder that is the first argument."""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.entry import main as sandbox
from tests.crash import clock
from tests.crash.stopped_runner import CLOCK


def main() -> None:
    """Be `sandbox`, with that clock."""
    clock.follow(Path(sys.argv.pop(1)) / CLOCK)
    sandbox()
