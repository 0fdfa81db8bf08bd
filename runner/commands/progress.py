"""Tells a person what takes long: on stderr, only if that is a terminal, and removed at the end.

Only then rich is loaded, which costs as much as the rest of a command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def somebody_looks(*, as_json: bool) -> bool:
    """Return whether a person looks: a program that wants JSON reads no progress bars."""
    return not as_json and sys.stderr.isatty()


@contextmanager
def waiting(what: str, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Show in the block what the command waits for, and for how long. Yields a function that changes the text."""
    if not shown:
        yield lambda _: None
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - see above

    text = TextColumn("{task.description}", markup=False)
    with _display(SpinnerColumn(), text, TimeElapsedColumn()) as display:
        task = display.add_task(what, total=None)
        yield lambda other: display.update(task, description=other)


@contextmanager
def reading(file: BinaryIO, what: str, *, shown: bool) -> Iterator[BinaryIO]:
    """Yield a file to read in the block, and show how much of it was read."""
    if not shown:
        yield file
        return
    with _bytes() as display:
        size = os.fstat(file.fileno()).st_size
        yield display.wrap_file(file, size, description=what)


def counted(pieces: Iterable[bytes], size: int, what: str, *, shown: bool) -> Iterator[bytes]:
    """Pass pieces on, and show how many of `size` bytes came."""
    if not shown:
        yield from pieces
        return
    with _bytes() as display:
        task = display.add_task(what, total=size)
        for piece in pieces:
            yield piece
            display.advance(task, len(piece))


def _bytes() -> Progress:
    from rich.progress import (  # noqa: PLC0415 - see above
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return _display(TextColumn("{task.description}"), *columns)


def _display(*columns: ProgressColumn) -> Progress:
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import Progress  # noqa: PLC0415 - see above

    return Progress(*columns, console=Console(stderr=True), transient=True)
