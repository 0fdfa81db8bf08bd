"""The state folder as one file: back up, restore."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from runner.config.model import Config
from runner.errors import InputError

app = typer.Typer()

File = Annotated[str, typer.Argument(metavar="FILE", help="The backup; - for standard input or output.")]
_DEFAULT: Final = Config().state
State = Annotated[Path, typer.Option(help="The service's state folder.")]


@app.command()
def backup(file: File, state: State = _DEFAULT) -> None:
    """Write the state of a service, which may run, into one new file: jobs, logs, tokens, and the key of its secrets.

    Anybody who has the file can read the secrets of the jobs that had not ended.
    """
    from runner.service import backup as backups  # noqa: PLC0415 - `runner run` does not pay for it

    with _new(file) as target:
        manifest = backups.backup(state, target)
    print(f"Backed up {state}, {manifest.made:%Y-%m-%d %H:%M:%S} UTC, by runner {manifest.runner}.", file=sys.stderr)


@app.command()
def restore(file: File, state: State = _DEFAULT) -> None:
    """Put a backup into an empty state folder. The service starts drained: waiting jobs may have been run since."""
    from runner.service import backup as backups  # noqa: PLC0415 - as above

    with _opened(file) as source:
        restored = backups.restore(state, source)
    print(f"Restored the state of {restored.manifest.made:%Y-%m-%d %H:%M:%S} UTC into {state}.")
    print(f"{restored.running} jobs ran then: those whose sandbox is still there go on, the others are sandbox_lost.")
    print(f"{restored.waiting} jobs waited, and may have been run since: the service starts drained. Look at them")
    print("(runner ls --state queued), cancel what is not to be run again, and let the others start: runner resume")


@contextmanager
def _new(name: str) -> Iterator[BinaryIO]:
    """Create a file for its owner only, and remove it again when the block fails. Errors: InputError."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        file = os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise InputError(f"The backup {name} cannot be written: {error.strerror}. Name another file.") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink()
        raise


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        try:
            source = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
        except OSError as error:
            raise InputError(f"The backup {name} cannot be read: {error.strerror}.") from error
        yield source
