"""The limits for the files of one job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bytes, counts, and deadlines in seconds."""

    archive_bytes: int = 1024 * _MIB
    """Size of an archive, sent or fetched: room for a large repository with its history, but not for a disk image."""
    source_bytes: int = 8192 * _MIB
    source_files: int = 500_000
    """Limits of the unpacked archive. It lies on the sandbox's disk, whose own limit, if any, applies first."""
    source_deadline: float = 900.0
    """For fetching the source. A git host that hangs blocks a sandbox and a slot."""
    artifact_bytes: int = 1024 * _MIB
    artifact_files: int = 10_000
    """Limits of one job's artifacts, before compression. They lie on the runner's disk."""
    artifact_deadline: float = 600.0
    """For collecting the artifacts. The sandbox and the slot wait meanwhile."""


DEFAULT_LIMITS: Final = FileLimits()
