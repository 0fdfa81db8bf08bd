"""Limits how often a client may ask, with a token bucket for each. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_MOST: Final = 1000
"""Clients to remember at once; those whose buckets are full again are forgotten first."""


@dataclass
class Buckets:
    """One bucket for each client: `burst` requests at once, and `rate` more in each second."""

    rate: float
    burst: int
    _full: dict[str, float] = field(default_factory=dict)
    """When each client's bucket is full again (generic cell rate algorithm: this one number is the whole state)."""

    def take(self, client: str, now: float) -> float:
        """Take one request out of a client's bucket and return 0; or return the seconds until one is free.

        `now` is in seconds on a clock that only goes forward.
        """
        full = max(self._full.get(client, now), now)
        wait = full - now - (self.burst - 1) / self.rate
        if wait > 0:
            return wait
        self._full[client] = full + 1 / self.rate
        if len(self._full) > _MOST:
            self._full = {name: full for name, full in self._full.items() if full > now}
        return 0.0
