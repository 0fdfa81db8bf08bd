"""How much the files of one job may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bytes, counts, and deadlines in seconds."""

    archive_bytes: int = 1024 * _MIB
    """Of an archive, sent or fetched: a large repository with its history, and no image of a disk."""
    source_bytes: int = 8192 * _MIB
    source_files: int = 500_000
    """Of what an archive unpacks to: it lies on the sandbox's disk, whose own limit comes first where there is one."""
    source_deadline: float = 900.0
    """Until the source is there. A git host that hangs holds up a sandbox and a slot."""
    artifact_bytes: int = 1024 * _MIB
    artifact_files: int = 10_000
    """Of what is kept of one job, before it is compressed: it lies on the runner's disk."""
    artifact_deadline: float = 600.0
    """Until it is all there. The sandbox and the slot wait for it."""


DEFAULT_LIMITS: Final = FileLimits()
