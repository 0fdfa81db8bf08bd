"""The first token of the API: given, or made at the first start; the state folder keeps it for its owner only."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from runner import durable
from runner.errors import StateError


class Token:
    """A bearer token in a file. Raises StateError when the file can be neither read nor made."""

    def __init__(self, path: Path, given: SecretStr | None = None) -> None:
        """`given` replaces the content of the file, for people who look there."""
        try:
            if given:
                durable.write(path, f"{given.get_secret_value()}\n".encode())
            elif not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(f"{secrets.token_urlsafe(32)}\n")
            self._value = path.read_text().strip()
        except OSError as error:
            raise StateError(f"The API token {path} is not usable: {error}.") from error
        if len(self._value) < 16:
            raise StateError(f"The API token in {path} is too short. Remove the file and a new one is made.")

    def admits(self, header: str | None) -> bool:
        """Return whether an Authorization header carries the token. Takes the same time for every wrong one."""
        return hmac.compare_digest((header or "").encode(), f"Bearer {self._value}".encode())
