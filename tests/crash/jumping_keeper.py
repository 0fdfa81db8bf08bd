"""`sandbox keeper` as it is, with a clock that a test sets in the folder that is the first argument."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash import clock
from tests.crash.stopped_runner import CLOCK

if __name__ == "__main__":
    clock.follow(Path(sys.argv.pop(1)) / CLOCK)

    from sandbox.cli import main

    main()
