"""Files in the form that the engine takes and gives: tar archives, in memory."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from sandbox.template import GivenFile


def paths(archive: bytes) -> list[PurePosixPath]:
    """Return the paths in a tar archive. Raises `ValueError` when it is none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            return [PurePosixPath(member.name) for member in opened.getmembers()]
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def tar(files: Sequence[GivenFile]) -> bytes:
    """Pack files with their modes, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(str(PurePosixPath(file.path).relative_to("/")))
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
