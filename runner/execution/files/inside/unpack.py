"""Unpacks an archive of a job's files, compressed or not. Refuses a link that leads outside of the folder."""

from __future__ import annotations

import bz2
import gzip
import lzma

from sandbox.archives import UnsafeArchive, shown
from sandbox.archives import unpack as unpack_tar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, BinaryIO

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def unpack(archive: BinaryIO, folder: Path, most_bytes: int, most_files: int) -> None:
    """Unpack as `sandbox.archives.unpack` does, but raise UnsafeArchive also for a link that it would leave out."""
    for link in unpack_tar(decompressed(archive), folder, most_bytes, most_files):
        raise UnsafeArchive(f"It has the link {shown(link)}, which leads outside of its folder, or is below a link.")


def decompressed(archive: BinaryIO) -> BinaryIO:
    """Return the decompressed archive. Its first bytes tell the format; its name is ignored."""
    begin = archive.read(6)
    archive.seek(0)
    for magic, opened in OPENERS.items():
        if begin.startswith(magic):
            stream: BinaryIO = opened(archive, "rb")
            return stream
    return archive
