"""No secret comes through, wherever the stream is cut and the runner restarted; all other text stays as it is."""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.execution.log import Log
from runner.execution.redact import LONGEST, MASK, Redactor, patterns
from runner.job import MIN_SECRET

SECRETS = st.lists(st.text("ab\n", min_size=6, max_size=20), min_size=1, max_size=3)
"""Few letters, so that secrets overlap themselves and each other."""
TEXT = st.text("ab\nc", max_size=60).map(str.encode)
MANY = ["\n".join(f"{number:02} is a line" for number in range(12))]
"""So many that they are not looked for one by one."""
FULL_LINE = st.builds(
    lambda size, end: b"x" * size + end, st.integers(62, 66), st.sampled_from([b"\n", b"\r\n", b"\r"])
)
"""The characters of a line that may be wrapped base64, and its end."""
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
ACCEPTED = st.text(min_size=MIN_SECRET, max_size=30).filter(lambda secret: len(secret.strip()) >= MIN_SECRET)
"""A secret that a job may have: white space around it does not make a short one longer."""
CUTS = st.lists(st.integers(0, 400), max_size=8).map(sorted)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str], bytes, list[int]]:
    """Secrets, a stream with them and their beginnings in it, and where it is cut."""
    secrets = draw(SECRETS) + draw(st.sampled_from([[], MANY]))
    known = patterns(secrets) or [b"ab"]
    part = st.one_of(
        TEXT,
        FULL_LINE,
        st.sampled_from(known),
        st.builds(lambda pattern, size: pattern[:size], st.sampled_from(known), st.integers(0, 20)),
    )
    stream = b"".join(draw(st.lists(part, max_size=8)))
    return secrets, stream, sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))


def unwrapped(stream: bytes) -> list[int]:
    """The places of a stream without the line breaks of wrapped base64."""
    left_out: set[int] = set()
    for end in range(len(stream)):
        stop = end - (stream[end - 1 : end] == b"\r")
        if stream[end : end + 1] == b"\n" and stop >= 64 and not stream[stop - 64 : stop].strip(BASE64):
            left_out |= {*range(stop, end + 1)}
    return [place for place in range(len(stream)) if place not in left_out]


def simple(secrets: list[str], stream: bytes) -> bytes:
    """The same by marking each byte, for a whole stream; without what is special at its end."""
    marked = set()
    for places in ([*range(len(stream))], unwrapped(stream)):
        text = bytes(stream[place] for place in places)
        for pattern in patterns(secrets):
            start = text.find(pattern)
            while start >= 0:
                first, last = places[start], places[start + len(pattern) - 1]
                marked |= {(place, place + 1) for place in range(first, last)}
                marked.add((first, first))
                start = text.find(pattern, start + 1)
    joined = {left for left, right in marked if right == left + 1}
    covered = {place for pair in marked for place in pair}
    result, inside = b"", False
    for place in range(len(stream)):
        if place not in covered:
            result, inside = result + stream[place : place + 1], False
        else:
            result += b"" if inside and place - 1 in joined else MASK
            inside = True
    return result


def masked(secrets: list[str], stream: bytes, cuts: list[int]) -> bytes:
    redactor = Redactor(secrets)
    pieces = [redactor.feed(stream[start:stop]) for start, stop in pairwise([0, *cuts, len(stream)])]
    return b"".join([*pieces, redactor.finish()])


@settings(max_examples=300)
@given(streams())
def test_the_masked_stream_is_the_same_however_it_is_cut(case: tuple[list[str], bytes, list[int]]) -> None:
    secrets, stream, cuts = case
    # The byte at the end is in no secret and no base64: nothing is held back there.
    assert masked(secrets, stream + b".", cuts) == simple(secrets, stream + b".")
    assert masked(secrets, stream, cuts) == masked(secrets, stream, [])
    for pattern in patterns(secrets):
        assert pattern not in masked(secrets, stream, cuts)


@settings(max_examples=50)
@given(streams())
def test_a_log_is_the_same_over_restarts_anywhere(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[str], bytes, list[int]]
) -> None:
    secrets, stream, cuts = case
    path = tmp_path_factory.mktemp("log", numbered=True) / "log"
    for end in cuts:
        log = Log.reopen(path, redactor=Redactor(secrets))
        assert log.received == 0
        for start, stop in pairwise([0, *(cut for cut in cuts if cut < end), end]):
            log.append(stream[start:stop])
    log = Log.reopen(path, redactor=Redactor(secrets))
    log.append(stream)
    log.end_output()
    assert path.read_bytes() == masked(secrets, stream, [])
    assert log.output == len(path.read_bytes())


@given(st.binary(max_size=40), ACCEPTED, st.binary(max_size=40))
def test_no_base64_of_anything_around_a_secret_shows_it(before: bytes, secret: str, after: bytes) -> None:
    """The trap: base64 spells a text in three ways, by its place in three bytes."""
    text = secret.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert MASK in masked([secret], encode(before + text + after), [])


@given(
    before=st.binary(max_size=130),
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=6, max_size=150),
    after=st.binary(max_size=130),
    width=st.sampled_from([64, 76]),
    end=st.sampled_from([b"\n", b"\r\n"]),
    cuts=CUTS,
)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_no_wrapped_base64_of_anything_around_a_secret_shows_it(
    encode: Callable[[bytes], bytes], before: bytes, secret: str, after: bytes, width: int, end: bytes, cuts: list[int]
) -> None:
    text = before + secret.encode() + after
    code = encode(text)
    stream = b"".join(code[start : start + width] + end for start in range(0, len(code), width)) + b" "
    shown = masked([secret], stream, [min(cut, len(stream)) for cut in cuts])
    assert shown == simple([secret], stream)
    certain = code[-(-8 * len(before) // 6) : 8 * (len(before) + len(secret.encode())) // 6]
    assert certain not in shown.replace(end, b"")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("width", [64, 76])
def test_a_token_is_masked_at_any_place_of_wrapped_base64(width: int, end: bytes) -> None:
    token = "glpat-0123456789abcdefghijKLMNOPQRST"
    for offset in range(80):
        code = base64.b64encode(b"." * offset + token.encode() + b"@host.example" * 9)
        stream = b"".join(code[start : start + width] + end for start in range(0, len(code), width))
        certain = -(-8 * offset // 6), 8 * (offset + len(token)) // 6 - 1
        first, last = (place + place // width * len(end) for place in certain)
        assert masked([token], stream, [*range(len(stream))]) == stream[:first] + MASK + stream[last + 1 :]


def test_the_end_of_an_ordinary_line_is_not_held_back() -> None:
    """Its last character may begin the base64 of a secret, but nothing that is wrapped is so short."""
    redactor = Redactor(["hunter2-hunter2"])
    assert redactor.feed(b"The job is now at step a\n") == b"The job is now at step a\n"


def test_wrapped_base64_of_a_long_secret_is_masked_line_by_line() -> None:
    secret = "x1" * 100
    for wrapped in (base64.encodebytes(secret.encode()), b"\n".join([base64.b64encode(secret.encode())[:64]])):
        assert all(line.startswith(MASK) for line in masked([secret], wrapped, []).splitlines())


def test_each_line_of_a_secret_is_one_and_short_ones_are_words() -> None:
    assert masked(["-----BEGIN\nshort\nlonger line\r\n"], b"a short longer line -----BEGIN", []) == (
        b"a short " + MASK + b" " + MASK
    )
    assert Redactor(["short"[: MIN_SECRET - 1]]).feed(b"short") == b"short"


def test_only_what_may_be_a_secret_is_held_back() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    assert redactor.feed(b"a prompt: ") == b"a prompt: "
    assert redactor.feed(b"$ hunt") == b"$ "
    assert redactor.feed(b"ing\n") == b"hunting\n"


def test_the_beginning_of_a_secret_at_the_very_end_is_masked_once_it_is_long_enough() -> None:
    assert masked(["hunter2-hunter2"], b"hunter2-hu", []) == MASK
    assert masked(["hunter2-hunter2"], b"hunt", []) == b"hunt"


def test_an_endless_overlap_takes_no_memory() -> None:
    redactor = Redactor(["aaaaaaaa"])
    given = b"".join(redactor.feed(b"a" * 1000) for _ in range(100))
    assert given == MASK
    assert len(redactor._held) < 8


@settings(max_examples=50)
@given(TEXT, st.lists(st.integers(0, 2000), max_size=5).map(sorted), TEXT)
def test_a_long_secret_becomes_one_mask(before: bytes, cuts: list[int], after: bytes) -> None:
    secret = "".join(f"{number} of many, " for number in range(150))
    assert len(secret) > 3 * LONGEST
    assert masked([secret], before + secret.encode() + after, cuts) == before + MASK + after


def test_a_part_of_a_long_secret_is_masked_if_it_is_long_too() -> None:
    secret = "".join(f"{number} of many, " for number in range(150))
    assert MASK in masked([secret], secret[:LONGEST].encode() + b"\n", [])


@pytest.mark.parametrize(
    ("secret", "stream"),
    [
        ("\n".join("a" * size for size in range(6, 46)), b"a"),
        ("\n".join("a" * size for size in range(6, 506)), b"a"),
        ("\n".join("a" * size for size in range(6, 506)), b"a" * 300 + b"c"),
        ("\n".join("a" * size for size in range(6, 506)), b"a" * 64 + b"\n"),
        ("\n".join("a" * size + "b" + "a" * (500 - size) for size in range(500)), b"a" * 250 + b"b"),
        ("a" * 100_000 + "b", b"a"),
    ],
    ids=["one in the other", "many", "many that fail", "many, wrapped", "many with a difference", "long"],
)
def test_no_secrets_make_a_stream_cost_much(secret: str, stream: bytes) -> None:
    """The loop that all jobs share masks: what a job chooses must not take its memory or stop it."""
    redactor = Redactor([secret])
    piece = (stream * 256 * 1024)[: 256 * 1024]
    start = time.process_time()
    redactor.feed(piece)
    # Some 0.5 s; without a bound it is minutes.
    assert time.process_time() - start < 10
    tracemalloc.start()
    try:
        redactor.feed(piece[: 64 * 1024])
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()
