"""How long an ad-hoc sandbox lives. Pure."""

import re
from dataclasses import dataclass

MAX_LIFE = 7 * 24 * 3600.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,3})?[smhd])+")
_PART = re.compile(r"([0-9.]+)([smhd])")


@dataclass(frozen=True, slots=True)
class Life:
    """The limits after which a sandbox is removed, whatever it contains."""

    ttl: float
    """Seconds after the sandbox's creation, however busy it is."""
    idle: float | None
    """Seconds after the end of the last connection; None for no such limit."""


NAMED = Life(ttl=8 * 3600.0, idle=3600.0)
"""The life of a sandbox with a name, which its user comes back to."""
PASSING = Life(ttl=8 * 3600.0, idle=120.0)
"""The life of a sandbox that belongs to a process, which stays connected for as long as it lives."""


def over(now: float, ends: float, idle: float | None, last_used: float) -> str | None:
    """Return why a sandbox's life is over; None while it is not. All times are Unix time."""
    if now >= ends:
        return "its time to live is over"
    if idle is not None and now >= last_used + idle:
        return f"nobody was connected to it for {written(idle)}"
    return None


def seconds(text: str) -> float:
    """Parse `90s`, `30m`, `1h30m` or `2d`. Raises `ValueError` with the expected form."""
    if not _WRITTEN.fullmatch(text):
        raise ValueError(f"{text!r} is no length of time; write it as 90s, 30m, 1h30m or 2d")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 1 <= total <= MAX_LIFE:
        raise ValueError(f"{text} is not from 1 s to {written(MAX_LIFE)}")
    return total


def written(length: float) -> str:
    """Format a length of time as people write it: `1h30m`."""
    left, parts = round(length), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
