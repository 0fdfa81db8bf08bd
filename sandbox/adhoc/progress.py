"""Tells a person what is going on, on stderr: `creating… booting… ready in 1.2 s`."""

import sys
from types import TracebackType
from typing import Self

from sandbox.adhoc.record import Record


class Progress:
    """One line that grows. Leaving its block early ends the line."""

    def __init__(self, subject: str, silent: bool = False) -> None:
        self._subject = subject
        self._silent = silent
        self._begun = False

    def __call__(self, phrase: str) -> None:
        if self._silent:
            return
        ready = phrase.startswith("ready")
        start = " " if self._begun else f"{self._subject}: "
        print(f"{start}{phrase}{'' if ready else '…'}", end="\n" if ready else "", file=sys.stderr, flush=True)
        self._begun = not ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._begun:
            print(file=sys.stderr)


def warn(record: Record) -> None:
    """What its maker should know of a new sandbox."""
    if record.unwalled:
        print(
            f"sandbox: no walls stand around {record.name}, so it reaches this host and your network: {record.unwalled}"
            " Root and the keeper put them up (docs/network.md).",
            file=sys.stderr,
        )
    if record.profile.runtime != "sysbox-runc":
        print(
            f"sandbox: the runtime {record.profile.runtime} was asked for; it is not the wall that sysbox-runc is.",
            file=sys.stderr,
        )
