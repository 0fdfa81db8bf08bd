"""Patterns of paths: which files below a folder match.

`*`, `?` and `[…]` stand for parts of a name, `**` for any number of folders; a pattern that matches a folder matches
everything in it. During a walk, a set of places in the pattern says which names may still follow, so a folder without
possible matches is never opened.
"""

from __future__ import annotations

import re
from fnmatch import translate

DEEPEST = 100  # folders above a file, whatever the pattern


class Pattern:
    """One pattern, relative to a folder."""

    def __init__(self, text: str) -> None:
        parts = [part for part in text.split("/") if part not in ("", ".")]
        self._parts = [None if part == "**" else re.compile(translate(part)) for part in parts]
        self.start = self._beyond({0})
        """The places before the first name."""

    def step(self, places: frozenset[int], name: str) -> frozenset[int]:
        """Return the places after one more name; none if nothing below that name can match."""
        found = {len(self._parts)} & places
        for place in places - found:
            part = self._parts[place]
            if part is None:
                found |= {place}
            elif part.match(name):
                found |= {place + 1}
        return self._beyond(found)

    def meant(self, places: frozenset[int]) -> bool:
        """Return whether the path so far matches, with everything in it."""
        return len(self._parts) in places

    def admits(self, path: str) -> bool:
        """Return whether a path matches."""
        places = self.start
        for name in path.split("/"):
            places = self.step(places, name)
        return self.meant(places)

    def _beyond(self, places: set[int]) -> frozenset[int]:
        """Add the places after each `**`, which may also stand for no folder at all."""
        for place, part in enumerate(self._parts):
            if part is None and place in places:
                places.add(place + 1)
        return frozenset(places)


class Patterns:
    """Several patterns at once."""

    def __init__(self, texts: list[str]) -> None:
        self._patterns = [Pattern(text) for text in texts]
        self.start = tuple(pattern.start for pattern in self._patterns)
        self.unmet = dict(enumerate(texts))
        """The patterns that have matched nothing so far."""

    def step(self, places: tuple[frozenset[int], ...], name: str) -> tuple[frozenset[int], ...]:
        """Return the places after one more name."""
        return tuple(pattern.step(place, name) for pattern, place in zip(self._patterns, places, strict=True))

    def first(self, places: tuple[frozenset[int], ...]) -> int | None:
        """Return the number of the first pattern that matches the path so far; None if none does."""
        met = [number for number, place in enumerate(places) if self._patterns[number].meant(place)]
        for number in met:
            self.unmet.pop(number, None)
        return met[0] if met else None
