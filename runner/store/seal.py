"""Encryption of secrets at rest, with a key in a file beside the database."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runner import durable
from runner.errors import StateError

_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
"""Bytes; recommended by NIST SP 800-38D for random nonces with GCM."""


class Seal:
    """Encrypts and authenticates (AES-256-GCM). The first start makes the key, readable for its owner only."""

    def __init__(self, path: Path) -> None:
        """Raises StateError when the key can be neither read nor made."""
        try:
            if not path.exists():
                durable.write(path, os.urandom(_KEY_SIZE))
            key = durable.read(path, _KEY_SIZE)
        except (OSError, ValueError) as error:
            raise StateError(f"The key {path} is not usable: {error}.") from error
        if len(key) != _KEY_SIZE:
            raise StateError(
                f"The key {path} is not one of ours. Restore it, or remove it: waiting jobs are lost then."
            )
        self._cipher, self._key = AESGCM(key), key

    def close(self, content: bytes, owner: str) -> bytes:
        """Return the content sealed; only the same owner's name opens it."""
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, content, owner.encode())

    def digest(self, content: bytes) -> bytes:
        """Return a digest to compare contents by. Without the key, it tells nothing about the content."""
        return hmac.digest(self._key, content, "sha256")

    def open(self, sealed: bytes, owner: str) -> bytes:
        """Return the sealed content. Raises ValueError if it was changed, or sealed by another key or for another."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], owner.encode())
        except (InvalidTag, ValueError):
            raise ValueError("it was sealed with another key, or was changed") from None
