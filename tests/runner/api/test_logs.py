"""The forms of a log: compressed or as events, it is the same log, cut and resumed anywhere."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api import jobs, logs
from runner.job import Job
from runner.outcome import ScriptFailed
from tests.runner.api.test_app import client, new_service

pytestmark = pytest.mark.anyio
_OUTCOME: dict[str, str | int] = {"outcome": "succeeded"}


def events(stream: bytes) -> list[tuple[int, str, dict[str, Any]]]:
    """Read events as a browser does: the id, the kind and the data of each."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def text(found: list[tuple[int, str, dict[str, Any]]]) -> str:
    return "".join(data["text"] for _, kind, data in found if kind == "log")


def told(content: bytes, cuts: list[int], offset: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
    """The events of a log that comes in pieces."""
    places = [offset, *sorted(cut for cut in cuts if offset <= cut <= len(content)), len(content)]
    stream = logs.Events(offset)
    pieces = [stream.log(content[start:end]) for start, end in itertools.pairwise(places)]
    return events(b"".join(pieces) + stream.end(_OUTCOME))


_LOGS = st.one_of(st.text(max_size=40).map(lambda text: text.encode(errors="replace")), st.binary(max_size=40))


@given(_LOGS, st.lists(st.integers(0, 160), max_size=6))
def test_events_say_the_same_wherever_the_log_is_cut(content: bytes, cuts: list[int]) -> None:
    found = told(content, cuts)
    assert text(found) == content.decode(errors="replace")
    assert found[-1] == (len(content), "end", {"outcome": _OUTCOME})


@given(st.text(max_size=40), st.lists(st.integers(0, 160), max_size=6), st.data())
def test_events_go_on_after_the_last_one_that_was_seen(content: str, cuts: list[int], data: st.DataObject) -> None:
    """The trap: a letter that is cut between two pieces would be lost with the first, or come out as two oddities."""
    encoded = content.encode(errors="replace")
    found = told(encoded, cuts)
    seen = found[: data.draw(st.integers(0, len(found) - 1))]
    rest = told(encoded, cuts, seen[-1][0] if seen else 0)
    assert text(seen) + text(rest) == encoded.decode()


def test_a_stream_whose_job_has_not_ended_has_no_last_event() -> None:
    """The service leaves: who follows asks again."""
    assert logs.Events(0).end(None) == b""


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("gzipped", False),
    ],
)
def test_who_accepts_gzip(header: str, accepted: bool) -> None:
    assert logs.accepts_gzip(header) is accepted


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_what_is_compressed_can_be_read_before_the_end() -> None:
    reader, seen = zlib.decompressobj(31), b""
    async for packed in logs.gzipped(_pieces(b"one\n", b"two\n")):
        seen += reader.decompress(packed)
        assert seen in (b"one\n", b"one\ntwo\n")
    assert reader.eof
    assert b"".join([packed async for packed in logs.gzipped(_pieces())])[:2] == b"\x1f\x8b"


async def test_a_silent_log_beats_and_is_cut_nowhere() -> None:
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await go.wait()
        yield b"two"

    seen = []
    async for data in logs.with_pulse(slow(), 0.02):
        seen.append(data)
        if data.startswith(b":"):
            go.set()
    assert [data for data in seen if not data.startswith(b":")] == [b"one", b"two"]
    assert len(seen) > 2


async def test_each_form_over_http_and_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PULSE", 0.02)
    service = new_service(tmp_path)
    async with client(service, tmp_path) as api:
        record = await service.submit(Job(b"true"))
        path = f"/v1/jobs/{record.id}/log"
        assert await service.records.take(record)
        log = record.begin()
        log.append("one ☃\n".encode())
        following = asyncio.create_task(api.get(path, headers={"Accept": "text/event-stream"}))
        packed = asyncio.create_task(api.get(path, params={"follow": True}, headers={"Accept-Encoding": "gzip"}))
        await asyncio.sleep(0)
        log.append(b"two\n")
        await record.settle(ScriptFailed(3))
        await record.finish()
        whole = "one ☃\ntwo\nrunner: The script failed with exit code 3.\n"
        answer = await following
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer.content)
        assert text(found) == whole
        assert found[-1][1:] == ("end", {"outcome": (await api.get(f"/v1/jobs/{record.id}")).json()["outcome"]})
        assert found[-1][2]["outcome"]["exit_code"] == 3

        answer = await packed
        assert (answer.headers["content-encoding"], answer.text) == ("gzip", whole)
        resumed = {"Accept": "text/event-stream", "Last-Event-ID": "8"}
        assert text(events((await api.get(path, headers=resumed)).content)) == whole[6:]
        plain = await api.get(path, params={"offset": 8}, headers={"Accept-Encoding": "identity"})
        assert ("content-encoding" not in plain.headers, plain.text) == (True, whole[6:])
        async with api.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as raw:
            assert gzip.decompress(b"".join([data async for data in raw.aiter_raw()])).decode() == whole
        odd = await api.get(path, headers={"Accept": "text/event-stream", "Last-Event-ID": "-1"})
        assert (odd.status_code, "last-event-id" in odd.json()["detail"]) == (422, True)


def test_the_bound_of_a_body_leaves_room_for_the_largest_script() -> None:
    assert jobs.MAX_BODY > 2 * 64 * 1024 * 1024
