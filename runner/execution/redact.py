"""Masks secrets in a stream of bytes, wherever the stream is cut. Pure.

The redactor masks all occurrences of each secret, of each line of a secret with several lines, and of their base64
forms at any place in a longer base64 text. A form longer than `LONGEST` bytes is masked by its parts of that length. A
line break that wraps base64 text is skipped. Overlapping occurrences become one mask. Only the possible beginning of an
occurrence is held back. The masked stream depends only on the stream: masking it again from its first byte on gives the
same bytes.

An attacker may choose costly secrets and a costly stream, and one event loop serves all jobs: the time per byte and the
memory per piece have bounds that no choice of secrets moves.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from runner.job import MIN_SECRET

MASK: Final = b"[masked]"
LONGEST: Final = 512
"""Longest pattern, in bytes. At most this much is compared at each byte of the stream, and held back."""
_WRAPS: Final = (76, 64)
"""Characters in a line of base64: by `base64`, and by `openssl` and in PEM files."""
_BREAK: Final = re.compile(rb"\n(?:(?<=[A-Za-z0-9+/_-]{%d}\n)|(?<=[A-Za-z0-9+/_-]{%d}\r\n))" % ((min(_WRAPS),) * 2))
"""The end of a line with as many characters of base64 as a wrapped line has: the text goes on in the next line. The
end of a shorter line wraps no text, and need not be held back."""
_CONTEXT: Final = min(_WRAPS)
"""Bytes before the held ones that decide whether the held bytes end a full line."""
_SLICE: Final = 64 * 1024
"""Bytes to search at once. This bounds the memory of a search."""
_FEW: Final = 40
"""Up to this many different beginnings of patterns are searched one by one; for more, words are looked up."""
_WORD: Final = 4
"""Bytes in a word, a native unsigned int."""

_Span = tuple[int, int]
"""The first byte, and the byte after the last."""


class Redactor:
    """Masks one stream, piece by piece."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._finder = _Finder(patterns(secrets))
        self._held = b""
        self._covered = 0
        """How many of the held bytes belong to a mask that was returned already."""
        self._before = b""
        """The `_CONTEXT` bytes before the held ones, which decide whether a break follows."""

    def feed(self, piece: bytes) -> bytes:
        """Return the part of the masked stream that is certain by now."""
        return b"".join(self._next(piece[start : start + _SLICE]) for start in range(0, len(piece), _SLICE))

    def finish(self) -> bytes:
        """Return the rest. A secret's beginning at the end is masked too, unless it is shorter than `MIN_SECRET`."""
        stream = self._held
        if len(stream) < MIN_SECRET:
            return self._give(stream, self._masks([]), len(stream))
        mask = b"" if self._covered else MASK
        self._held, self._covered = b"", 0
        return mask

    def _next(self, piece: bytes) -> bytes:
        stream = self._held + piece
        found, doubt = self._finder.search(stream)
        breaks = self._breaks(stream)
        if breaks:
            more, other = self._search_unwrapped(stream, breaks)
            found, doubt = sorted([*found, *more]), min(doubt, other)
        return self._give(stream, self._masks(found), doubt)

    def _breaks(self, stream: bytes) -> list[_Span]:
        """Return the line breaks that only wrap base64 text. A CR at the end counts as if its LF followed."""
        known = len(self._before)
        text = self._before + stream + (b"\n" if stream.endswith(b"\r") else b"")
        places = (found.start() for found in _BREAK.finditer(text, known))
        return [
            (max(known, place - text.startswith(b"\r", place - 1)) - known, min(place + 1 - known, len(stream)))
            for place in places
        ]

    def _search_unwrapped(self, stream: bytes, breaks: list[_Span]) -> tuple[list[_Span], int]:
        """Search the stream without the breaks, and return the results as places in the stream."""
        lines, joins, left_out = [], [0], [0]
        position = 0
        for start, stop in breaks:
            lines.append(stream[position:start])
            joins.append(joins[-1] + start - position)
            left_out.append(left_out[-1] + stop - start)
            position = stop
        found, doubt = self._finder.search(b"".join([*lines, stream[position:]]))

        def original(place: int) -> int:
            return place + left_out[bisect_right(joins, place) - 1]

        return [(original(start), original(stop - 1) + 1) for start, stop in found], original(doubt)

    def _masks(self, found: Iterable[_Span]) -> list[_Span]:
        """Return the masked parts of the stream, beginning with the mask that was returned already."""
        masks = [(0, self._covered)] if self._covered else []
        for start, stop in found:
            _add(masks, start, stop)
        return masks

    def _give(self, stream: bytes, masks: Iterable[_Span], end: int) -> bytes:
        """Return the masked stream up to `end`, and hold back the rest."""
        given, position, covered = [], 0, 0
        for start, stop in masks:
            told = start == 0 and self._covered > 0
            if start >= end and not told:
                break
            if not told:
                given += [stream[position:start], MASK]
            position = stop
            covered = max(0, stop - end)
        given.append(stream[position : max(position, end)])
        self._before = (self._before + stream[max(0, end - _CONTEXT) : end])[-_CONTEXT:]
        self._held, self._covered = stream[end:], covered
        return b"".join(given)


class _Finder:
    """Finds patterns in texts.

    A fast first step leaves a few places of an ordinary text. Each place then costs one binary search among the
    patterns. In a text made to be slow, each byte is such a place.
    """

    def __init__(self, patterns: Sequence[bytes]) -> None:
        """Take sorted, distinct patterns of `MIN_SECRET` to `LONGEST` bytes."""
        self._patterns = patterns
        self._prefixes = _prefixes(patterns)
        self._longest = max(map(len, patterns), default=0)
        self._heads: dict[bytes, _Span] = {}
        """The patterns that begin with these bytes: the number of the first, and the number after the last."""
        for number, pattern in enumerate(patterns):
            head = pattern[:MIN_SECRET]
            self._heads[head] = self._heads.get(head, (number, 0))[0], number + 1
        self._step = _WORD if all(len(pattern) >= 2 * _WORD - 1 for pattern in patterns) else _WORD // 2
        """Of the words at each `_step`-th byte of a text, one is among the first words of any pattern that occurs."""
        beginnings = {pattern[: _WORD + self._step - 1] for pattern in patterns}
        self._words = frozenset(
            _words(b"".join(text[start : start + _WORD] for text in beginnings for start in range(self._step)))
        )

    def search(self, text: bytes) -> tuple[list[_Span], int]:
        """Return the parts of the text that patterns cover, and the start of the first that may go on after it."""
        found: list[_Span] = []
        doubt = len(text)
        places = self._places(text)
        start = places.find(1)
        while start >= 0:
            # The longest pattern that begins here covers all the others.
            size, unfinished = self._look(text[start : start + self._longest])
            if size:
                _add(found, start, start + size)
            if unfinished:
                doubt = min(doubt, start)
            start = places.find(1, start + 1)
        return found, doubt

    def _places(self, text: bytes) -> bytearray:
        """Return one byte per byte of the text: 1 where a pattern begins or may begin, and at few other places."""
        places = bytearray(len(text))
        if len(self._heads) <= _FEW:
            self._mark_heads(places, text)
        else:
            self._mark_words(places, text)
        tail = max(0, len(text) - MIN_SECRET)
        places[tail:] = b"\1" * (len(text) - tail)
        return places

    def _mark_heads(self, places: bytearray, text: bytes) -> None:
        """Search for the common beginning of each head's patterns (longer is faster); at the end for the head alone."""
        for head, (first, after) in self._heads.items():
            pattern = self._patterns[first]
            whole = pattern[: _common(pattern, self._patterns[after - 1])]
            for wanted, start in (whole, 0), (head, max(0, len(text) - self._longest)):
                place = text.find(wanted, start)
                while place >= 0:
                    places[place] = 1
                    place = text.find(wanted, place + 1)

    def _mark_words(self, places: bytearray, text: bytes) -> None:
        """Look up words of the text; the number of patterns does not matter."""
        known = self._words
        for offset in range(0, _WORD, self._step):
            for number in [number for number, word in enumerate(_words(text[offset:])) if word in known]:
                place = offset + number * _WORD
                first = max(0, place - self._step + 1)
                places[first : place + 1] = b"\1" * (place + 1 - first)

    def _look(self, text: bytes) -> tuple[int, bool]:
        """Return the size of the longest pattern that begins the text, and whether the text begins a longer one."""
        low, high = 0, len(self._patterns)
        if len(text) >= MIN_SECRET:
            low, high = self._heads.get(text[:MIN_SECRET], (0, 0))
        after = bisect_right(self._patterns, text, low, high)
        unfinished = after < high and self._patterns[after].startswith(text)
        # All patterns that the text begins with are prefixes of the last one that is not after it.
        return self._fitting(text, after - 1) if after > low else 0, unfinished

    def _fitting(self, text: bytes, number: int) -> int:
        """Return the size of the longest pattern that begins both this pattern and the text; 0 if there is none."""
        pattern = self._patterns[number]
        if text.startswith(pattern):
            return len(pattern)
        sizes = self._prefixes[number]
        return (sizes & ((2 << _common(text, pattern)) - 1)).bit_length() - 1 if sizes > 1 else 0


def patterns(secrets: Iterable[str]) -> list[bytes]:
    """Return all byte strings to mask for these secrets, sorted."""
    found: set[bytes] = set()
    for secret in secrets:
        whole = secret.encode("utf-8", "surrogateescape")
        for text in (whole, *whole.splitlines()):
            if len(text.strip()) >= MIN_SECRET:
                found.update(part for form in (text, *_encoded(text)) for part in _parts(form))
    return sorted(pattern for pattern in found if len(pattern) >= MIN_SECRET)


def _encoded(text: bytes) -> Iterator[bytes]:
    """Yield the base64 characters that this text alone decides, for each place that it can have in three bytes.

    Yield also each line of the text's own encoding, since an indented file, for one, does not count as wrapped text.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for place in range(3):
            bits = 8 * place, 8 * (place + len(text))
            yield encode(b"\0" * place + text)[-(-bits[0] // 6) : bits[1] // 6]
        characters = encode(text)[: 8 * len(text) // 6]
        for wrap in _WRAPS:
            yield from (characters[start : start + wrap] for start in range(0, len(characters), wrap))


def _parts(form: bytes) -> Iterator[bytes]:
    """Cut a long form into overlapping parts, whose masks become one where the whole form occurs."""
    last = max(0, len(form) - LONGEST)
    for start in (*range(0, last, LONGEST - 1), last):
        yield form[start : start + LONGEST]


def _prefixes(patterns: Sequence[bytes]) -> list[int]:
    """Return for each sorted pattern, as bits of a number, 0 and the sizes of its prefixes that are patterns."""
    result: list[int] = []
    open_ones: list[int] = []
    for number, pattern in enumerate(patterns):
        while open_ones and not pattern.startswith(patterns[open_ones[-1]]):
            open_ones.pop()
        result.append(result[open_ones[-1]] | 1 << len(patterns[open_ones[-1]]) if open_ones else 1)
        open_ones.append(number)
    return result


def _words(text: bytes) -> memoryview[int]:
    """Return all whole words of a text."""
    return memoryview(text)[: len(text) // _WORD * _WORD].cast("I")


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes two texts have in common before they differ or one of them ends."""
    size = min(len(one), len(other))
    different = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return size - (different.bit_length() + 7) // 8


def _add(spans: list[_Span], start: int, stop: int) -> None:
    """Add a span that begins at or after the start of the last one. Overlapping spans become one."""
    if spans and start < spans[-1][1]:
        spans[-1] = spans[-1][0], max(stop, spans[-1][1])
    else:
        spans.append((start, stop))
