"""A keeper's process whose start waits until somebody writes a line to it. Its argument is its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from sandbox.config import KeeperConfig
from sandbox.keeper import process
from sandbox.settings.loaded import Loaded


class SlowKeeper:
    """Tells what is done to it."""

    verbs = None

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        print("start", flush=True)
        sys.stdin.readline()
        print("started", flush=True)

    def run(self, give_up: Callable[[], None]) -> None:
        pass

    def stop(self, patience: float) -> None:
        print("stop", flush=True)

    def detach(self) -> None:
        print("detach", flush=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = KeeperConfig(run_folder=folder / "run", home=folder / "home")
    with patch.object(process, "Keeper", SlowKeeper):
        process.run(lambda: Loaded(config))
