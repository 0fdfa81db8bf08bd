"""The records of the sandboxes on this host's disk, shared by every runner of this host.

A sandbox is identified by its host key: the same key under another name or port is the same sandbox. A recreated
sandbox has a new host key, and so is a new one.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import BinaryIO, Final

from runner import durable
from runner.addresses.record import Record
from runner.errors import InputError, LeaseError

_MAX_FILE: Final = 16 * 1024 * 1024


class Register:
    """A folder with a record and a lock for each sandbox. Its methods block while they use the disk."""

    def __init__(self, folder: Path) -> None:
        """Errors: InputError when the folder cannot be made."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {folder} for what is known of the addresses cannot be made: {error.strerror}. "
                "Give another --address-state; all runners of this host need the same one."
            ) from None
        self._folder = folder

    def entry(self, host_key: str) -> Entry:
        """Return the entry of one sandbox."""
        fingerprint = hashlib.sha256(base64.b64decode(host_key.split()[1])).hexdigest()
        return Entry(self._folder / fingerprint)


class Entry:
    """One sandbox's record, and the lock that a process of this host holds while it uses it. Errors: LeaseError."""

    def __init__(self, stem: Path) -> None:
        self.path = stem.with_suffix(".json")
        self._lock_path = stem.with_suffix(".lock")
        self._lock: BinaryIO | None = None

    @property
    def is_ours(self) -> bool:
        """Return whether this object holds the lock. The end of the process releases it."""
        return self._lock is not None

    def lock(self) -> bool:
        """Take the lock; return False while another process, or another part of this one, holds it."""
        if self._lock is not None:
            return False
        try:
            self._lock = durable.lock(self._lock_path)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        return self._lock is not None

    def unlock(self) -> None:
        """Release the lock. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read(self) -> Record:
        """Return the record; a new one where none was written."""
        try:
            return Record.from_bytes(durable.read(self.path, _MAX_FILE))
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def write(self, record: Record) -> None:
        """Write the record to disk, readable by its owner only."""
        try:
            durable.write(self.path, record.to_bytes())
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> LeaseError:
        return LeaseError(f"What is known of the sandbox cannot be read or written at {self.path}: {error}.")
