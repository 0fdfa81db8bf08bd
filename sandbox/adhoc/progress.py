"""Shows the progress on stderr: `creating… booting… ready in 1.2 s`."""

import sys
import time
from types import TracebackType
from typing import Self

from sandbox.adhoc.record import Record
from sandbox.profile import SYSBOX


class Progress:
    """One line that grows. Leaving its block ends the line."""

    def __init__(self, subject: str, silent: bool = False) -> None:
        self._subject = subject
        self._silent = silent
        self._since = 0.0
        self._begun = False

    def __call__(self, phrase: str) -> None:
        self._print(f"{phrase}…")

    def ready(self) -> None:
        """Print the seconds since the block was entered."""
        self._print(f"ready in {time.monotonic() - self._since:.1f} s")

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._begun:
            print(file=sys.stderr)

    def _print(self, words: str) -> None:
        if not self._silent:
            print(" " if self._begun else f"{self._subject}: ", words, sep="", end="", file=sys.stderr, flush=True)
            self._begun = True


def warn(record: Record) -> None:
    """Warn the maker of a new sandbox about its missing walls or its runtime."""
    if record.unwalled:
        print(
            f"sandbox: no walls stand around {record.name}, so it reaches this host and your network: {record.unwalled}"
            " Root and the keeper put them up (docs/network.md).",
            file=sys.stderr,
        )
    if record.profile.runtime != SYSBOX:
        print(
            f"sandbox: the runtime {record.profile.runtime} was asked for; it is not the wall that sysbox-runc is.",
            file=sys.stderr,
        )
