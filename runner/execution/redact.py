"""Masks secrets in a stream of bytes, wherever the stream is cut. Pure.

What is masked are all occurrences of each secret, of each line of one that has several, and of their base64 forms at
any place in a longer base64 text. Whatever overlaps becomes one mask. Only what may be the beginning of an occurrence
is held back. The masked stream depends on nothing but the stream: made again from its first byte on, it is the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Final

from runner.job import MIN_SECRET

MASK: Final = b"[masked]"
#: Characters in a line of base64 as `base64`, and as `openssl` and PEM files have it.
_WRAPS: Final = (76, 64)


class Redactor:
    """Masks one stream, piece by piece."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._patterns = patterns(secrets)
        self._held = b""
        #: How many of the held bytes belong to a mask that was given out already.
        self._covered = 0

    def feed(self, piece: bytes) -> bytes:
        """Return what is certain of the masked stream now."""
        stream = self._held + piece
        return self._give(stream, self._first_doubt(stream))

    def finish(self) -> bytes:
        """Return the rest. The beginning of a secret at the very end is masked too, if it is long enough to tell."""
        stream = self._held
        if len(stream) < MIN_SECRET:
            return self._give(stream, len(stream))
        mask = b"" if self._covered else MASK
        self._held, self._covered = b"", 0
        return mask

    def _give(self, stream: bytes, end: int) -> bytes:
        """Return the masked stream up to `end`, and hold back what follows."""
        given, position, covered = [], 0, 0
        for start, stop in self._masks(stream):
            told = start == 0 and self._covered > 0
            if start >= end and not told:
                break
            if not told:
                given += [stream[position:start], MASK]
            position = stop
            covered = max(0, stop - end)
        given.append(stream[position : max(position, end)])
        self._held, self._covered = stream[end:], covered
        return b"".join(given)

    def _masks(self, stream: bytes) -> list[tuple[int, int]]:
        """The parts of the stream that are masked, as they overlap; first what was given out already."""
        found = sorted(place for pattern in self._patterns for place in _places(stream, pattern))
        masks = [(0, self._covered)] if self._covered else []
        for start, stop in found:
            if masks and start < masks[-1][1]:
                masks[-1] = (masks[-1][0], max(stop, masks[-1][1]))
            else:
                masks.append((start, stop))
        return masks

    def _first_doubt(self, stream: bytes) -> int:
        """Where the first occurrence begins that the stream may not have all of."""
        return min((_unfinished(stream, pattern) for pattern in self._patterns), default=len(stream))


def patterns(secrets: Iterable[str]) -> list[bytes]:
    """Return all byte strings that are masked for these secrets."""
    found: set[bytes] = set()
    for secret in secrets:
        whole = secret.encode("utf-8", "surrogateescape")
        for text in (whole, *whole.splitlines()):
            if len(text.strip()) >= MIN_SECRET:
                found |= {text, *_encoded(text)}
    return sorted(pattern for pattern in found if len(pattern) >= MIN_SECRET)


def _encoded(text: bytes) -> Iterator[bytes]:
    """The characters of base64 that only this text decides, for each place that it can have in three bytes."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for place in range(3):
            bits = 8 * place, 8 * (place + len(text))
            yield encode(b"\0" * place + text)[-(-bits[0] // 6) : bits[1] // 6]
        characters = encode(text)[: 8 * len(text) // 6]
        for wrap in _WRAPS:
            yield from (characters[start : start + wrap] for start in range(0, len(characters), wrap))


def _places(stream: bytes, pattern: bytes) -> Iterator[tuple[int, int]]:
    start = stream.find(pattern)
    while start >= 0:
        yield start, start + len(pattern)
        start = stream.find(pattern, start + 1)


def _unfinished(stream: bytes, pattern: bytes) -> int:
    """Where the longest end of the stream begins that the pattern begins with; the stream's end if there is none."""
    start = stream.find(pattern[:1], max(0, len(stream) - len(pattern) + 1))
    while start >= 0 and not pattern.startswith(stream[start:]):
        start = stream.find(pattern[:1], start + 1)
    return start if start >= 0 else len(stream)
