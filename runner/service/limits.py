"""How many jobs run at once, and which labels they may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How many jobs run at once, and which labels they may ask for."""

    slots: int
    """Jobs at once."""
    per_key: int | None = None
    """Jobs of one trust key at once; by default as many as there are slots."""
    labels: frozenset[str] = frozenset()
    """The labels of this runner. A job that asks for a label of neither the runner nor a profile is refused."""

    @property
    def of_one_key(self) -> int:
        """Jobs of one trust key at once."""
        return self.per_key or self.slots
