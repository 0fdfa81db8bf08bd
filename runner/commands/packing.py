"""A folder as the archive that a job starts with."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from runner.commands import progress
from runner.errors import InputError
from sandbox import archives


@contextmanager
def packed(path: Path, *, shown: bool) -> Iterator[BinaryIO]:
    """Yield a folder's archive, or the archive that the path names. Errors: InputError.

    `shown`: tell a person while it is packed.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as archive:
                yield archive
            return
        with tempfile.TemporaryFile() as file:
            with (
                progress.waiting("packing the folder", shown=shown),
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as members,
            ):
                members.add(path, arcname=".", filter=archives.nobodys)
            file.seek(0)
            yield cast(BinaryIO, file)
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be sent: {error.strerror}.") from error
