"""Frames: every cut gives the same result, anything odd is refused, and the launcher speaks the same language."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.execution import folder, launcher, wire
from runner.execution.lease import LeaseSource
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import Note, Settings, StepNote
from runner.execution.pursuit import Pursuit
from runner.steps import StepProgress, StepState

HELLO: dict[str, object] = {"boot_id": "b"}
ENDED = {"kind": "exited", "code": 3, "logged": 10, "dropped": 0, "log_error": ""}


def frame(kind: bytes, payload: bytes | dict[str, object]) -> bytes:
    """Encode a frame as a launcher would."""
    data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    return struct.pack(">cI", kind, len(data)) + data


def decode(pieces: list[bytes]) -> list[wire.Frame | bytes]:
    """Decode pieces, with the log bytes that follow each other joined."""
    decoder = wire.Decoder()
    found: list[wire.Frame | bytes] = []
    for piece in pieces:
        for got in decoder.feed(piece):
            if not isinstance(got, wire.LogData):
                found.append(got)
            elif found and isinstance(found[-1], bytes):
                found[-1] += bytes(got.data)
            else:
                found.append(bytes(got.data))
    return found


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_frames_survive_any_cut(logs: list[bytes], data: st.DataObject) -> None:
    stream = frame(b"h", HELLO) + b"".join(frame(b"l", log) for log in logs) + frame(b"e", ENDED)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = decode([stream])
    assert decode(pieces) == whole
    assert whole[0] == wire.Hello("b")
    assert whole[1:-1] == ([b"".join(logs)] if logs else [])
    assert whole[-1] == wire.Ended(wire.EndKind.EXITED, 3, 0, "", 10, 0, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["boot_id", "why", "steps", *ENDED]) | st.text(), JSON)
"""Documents with the names that are looked for, and whatever else under them."""
PAYLOADS = st.binary(min_size=1) | (DOCUMENTS | JSON).map(lambda document: json.dumps(document).encode())
FRAMES = st.builds(frame, st.sampled_from([b"h", b"r", b"l", b"s", b"e", b"x"]), PAYLOADS)


@given(FRAMES, st.data())
def test_whatever_is_in_a_frame_is_refused_or_parsed(stream: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(stream)))
    try:
        [whole] = decode([stream])
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decode([stream[:cut], stream[cut:]])
    else:
        assert decode([stream[:cut], stream[cut:]]) == [whole]


@pytest.mark.parametrize(
    "stream",
    [
        b"SSH-2.0-OpenSSH_9.2",
        frame(b"?", b"x"),
        struct.pack(">cI", b"l", 0),
        struct.pack(">cI", b"l", wire.MAX_LOG + 1),
        struct.pack(">cI", b"h", wire.MAX_JSON + 1),
        struct.pack(">cI", b"e", 0xFFFFFFFF),
        frame(b"h", b"not json"),
        frame(b"h", b"[1]"),
        frame(b"h", b"[" * 10_000),
        frame(b"h", {**HELLO, "boot_id": 7}),
        frame(b"e", {**ENDED, "dropped": -1}),
        frame(b"e", {**ENDED, "dropped": True}),
        frame(b"e", b'{"kind": "exited", "dropped": 1e999}'),
        frame(b"e", {**ENDED, "kind": "fine"}),
        frame(b"e", {**ENDED, "code": 256}),
        frame(b"e", {**ENDED, "kind": "signaled", "code": 0}),
        frame(b"e", {**ENDED, "kind": "signaled", "code": 65}),
        frame(b"e", {**ENDED, "dropped": 1 << 70}),
        frame(b"x", {"why": ["a"]}),
    ],
)
def test_what_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode([stream])


def test_text_is_made_safe() -> None:
    (lost,) = decode([frame(b"x", {"why": "a\x1b[2J\nb\u202e" + "c" * 5000})])
    assert isinstance(lost, wire.Lost)
    assert lost.why.startswith("a\N{REPLACEMENT CHARACTER}[2J b\N{REPLACEMENT CHARACTER}ccc")
    assert len(lost.why) == wire.MAX_TEXT


def test_the_launcher_reads_what_we_write(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = wire.Launch("a1", ("x", "☃"), {"A": "\udcff\n"}, 1.5, 2.0, 99, "/w", "/r")
    reader, writer = os.pipe()
    os.write(writer, wire.encode_launch(launch, 4) + b"true" + wire.encode_signal(15))
    monkeypatch.setattr(launcher, "STDIN", reader)
    kind, size = launcher.read_head()
    attempt = folder.Attempt(json.loads(b"".join(launcher.read_pieces(size))))
    assert (kind, attempt.path, attempt.args, attempt.environment) == (b"L", "/r/a1", ["x", "☃"], {"A": "\udcff\n"})
    assert (attempt.timeout, attempt.grace, attempt.log_limit, attempt.workspace) == (1.5, 2.0, 99, "/w")
    assert launcher.read_head() == (b"S", 4)
    assert b"".join(launcher.read_pieces(4)) == b"true"
    assert launcher.read_head() == (b"k", 1)
    assert list(launcher.read_pieces(1)) == [b"\x0f"]
    os.write(writer, wire.encode_follow(wire.Follow("a1", "/r", 7, 99)))
    kind, size = launcher.read_head()
    assert kind == b"F"
    expected = {"attempt": "a1", "root": "/r", "offset": 7, "log_limit": 99}
    assert json.loads(b"".join(launcher.read_pieces(size))) == expected
    os.close(reader)
    os.close(writer)


def test_we_read_what_the_launcher_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(launcher, "STDOUT", writer)
    launcher.send_json(b"h", dict(HELLO))
    launcher.send(b"l", b"some output")
    launcher.send_json(b"e", dict(ENDED))
    found = decode([os.read(reader, 65536)])
    assert [type(one) for one in found] == [wire.Hello, bytes, wire.Ended]
    os.close(reader)
    os.close(writer)


ROW = ["failed", 3, 1.5, False]


def test_how_far_the_steps_are() -> None:
    (got,) = decode([frame(b"s", {"steps": [["running", 0, 0, False], ROW]})])
    assert got == wire.Progress(
        (StepProgress(state=StepState.RUNNING), StepProgress("", StepState.FAILED, 3, 1.5, allowed=False))
    )


@pytest.mark.parametrize(
    "steps",
    [
        None,
        {},
        [ROW] * 51,
        ["x"],
        [ROW[:3]],
        [["flying", *ROW[1:]]],
        [["failed", 256, 0, False]],
        [["failed", -1, 0, False]],
        [["failed", 1, -1, False]],
        [["failed", 1, 1e300, False]],
        [["failed", 1, float("nan"), False]],
        [["failed", 1, 0, 1]],
        [[["failed"], 1, 0, True]],
    ],
)
def test_odd_steps_are_refused(steps: object) -> None:
    with pytest.raises(ProtocolError, match="step"):
        decode([frame(b"s", {"steps": steps})])


_ROWS = st.tuples(st.sampled_from(sorted(StepState)), st.integers(0, 255), st.floats(0, 9), st.booleans())


@given(st.lists(st.lists(_ROWS, max_size=4), max_size=12))
def test_a_sandbox_that_fakes_its_steps_makes_few_words(
    tellings: list[list[tuple[StepState, int, float, bool]]],
) -> None:
    """The trap: a note is a line in the service's log, and a job can send as many frames as it likes."""
    notes: list[Note] = []

    async def tell() -> None:
        log = cast(Log, SimpleNamespace(received=0))
        pursuit = Pursuit(cast(LeaseSource, None), cast(Marker, None), log, Settings(), notes.append, None)
        for rows in tellings:
            pursuit._tell(wire.Progress(tuple(StepProgress("", *row) for row in rows)))

    asyncio.run(tell())
    told = [(note.number, note.progress.state) for note in notes if isinstance(note, StepNote)]
    assert len(told) == len(notes) == len(set(told))
    for number in range(4):
        states = [state for found, state in told if found == number]
        assert StepState.WAITING not in states
        assert len(states) <= 2
        assert StepState.RUNNING not in states[1:]
