"""Tokens of the API's clients. The store has only their digests: nobody can read a token back."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from runner.store.database import Database


class Scope(StrEnum):
    """What a client may do."""

    READ = "read"
    """List and show jobs, and read their logs."""
    SUBMIT = "submit"
    """Submit jobs and cancel them."""
    ADMIN = "admin"
    """Create, list and revoke tokens; drain, resume and stop the service."""
    METRICS = "metrics"
    """Read `/metrics`, and nothing else: for Prometheus."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """The facts about a token."""

    id: str
    name: str
    """The owner, named in the log beside the token's actions."""
    scopes: frozenset[Scope]
    created: float
    expires: float | None
    """Seconds since the epoch; a token without `expires` lives until it is revoked."""

    @property
    def who(self) -> str:
        """The owner and the token's id, for the log: a name may have several tokens."""
        return f"{self.name} (token {self.id})"

    @property
    def expired(self) -> bool:
        """Whether the token has expired."""
        return self.expires is not None and self.expires <= time.time()


class Tokens:
    """The table of tokens. Every method raises StateError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, scopes: Collection[Scope], seconds: float | None) -> tuple[TokenFacts, str]:
        """Make a token for so many seconds, or until it is revoked. Only this call returns the token itself."""
        # 256 random bits need no slow hash: nobody guesses them.
        secret, now = secrets.token_urlsafe(32), time.time()
        expires = None if seconds is None else now + seconds
        facts = TokenFacts(secrets.token_hex(4), name, frozenset(scopes), now, expires)
        with self._database.transaction("The token cannot be kept") as connection:
            connection.execute(
                "INSERT INTO token (id, digest, name, scopes, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (facts.id, _digest(secret), name, " ".join(sorted(scopes)), now, expires),
            )
        return facts, f"{facts.id}.{secret}"

    def all(self) -> list[TokenFacts]:
        """Return all tokens, including expired ones, oldest first."""
        return [_facts(row) for row in self._database.read("SELECT * FROM token ORDER BY created")]

    def find(self, token: str) -> TokenFacts | None:
        """Return the facts about a token, even an expired one. Takes the same time for every wrong secret."""
        token_id, _, secret = token.partition(".")
        rows = self._database.read("SELECT * FROM token WHERE id = ?", token_id)
        if not rows or not hmac.compare_digest(rows[0]["digest"], _digest(secret)):
            return None
        return _facts(rows[0])

    def revoke(self, token_id: str) -> bool:
        """Revoke a token; False when there is none with that id."""
        with self._database.transaction("The token cannot be revoked") as connection:
            return connection.execute("DELETE FROM token WHERE id = ?", (token_id,)).rowcount > 0


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _facts(row: sqlite3.Row) -> TokenFacts:
    scopes = frozenset(Scope(scope) for scope in row["scopes"].split())
    return TokenFacts(row["id"], row["name"], scopes, row["created"], row["expires"])
