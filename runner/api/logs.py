"""The forms in which a log is sent: bytes, compressed bytes, or events."""

from __future__ import annotations

import asyncio
import codecs
import json
import zlib
from collections.abc import AsyncIterator
from typing import Final

PULSE: Final = 15.0
"""Seconds of silence after which an event stream shows that it lives: proxies end one that is silent for a minute."""
_BEAT: Final = b": still here\n\n"
"""A comment, not an event: clients drop it."""
_GZIP: Final = 16 + zlib.MAX_WBITS
"""zlib's value for a gzip header and trailer around the stream."""


def accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding header names gzip, and not with `q=0`."""
    for entry in header.lower().split(","):
        name, _, quality = entry.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return quality.replace(" ", "").rstrip("0").rstrip(".") not in ("q=", "q=0")
    return False


async def gzipped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Compress a log. The client can read each part at once, while more is to come."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)

    def pack(data: bytes) -> bytes:
        return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)

    async for data in content:
        yield await asyncio.to_thread(pack, data)
    yield packer.flush()


class Text:
    """A log as text, from a byte offset on. Pure.

    Bytes that are not UTF-8 are replaced; a character that is cut waits for its rest.
    """

    def __init__(self, offset: int) -> None:
        self._read = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def offset(self) -> int:
        """The offset at which to go on reading after the text so far."""
        return self._read - len(self._decoder.getstate()[0])

    def more(self, data: bytes) -> str:
        """Return the text of the next bytes."""
        self._read += len(data)
        return self._decoder.decode(data)

    def rest(self) -> str:
        """Return the rest at the log's end."""
        return self._decoder.decode(b"", final=True)


class Events:
    """A log as server-sent events. Pure.

    Each `log` event has `{"text": …}`, and as its id the byte offset after that text. A client that reconnects sends
    the last id as `Last-Event-ID`.
    """

    def __init__(self, offset: int) -> None:
        self._text = Text(offset)

    def log(self, data: bytes) -> bytes:
        """Return the event for the next bytes of the log."""
        return self._log(self._text.more(data))

    def end(self, outcome: dict[str, str | int] | None) -> bytes:
        """Return the last events: the rest of the text, and the job's outcome, if it has one."""
        rest = self._log(self._text.rest())
        return rest + _event("end", self._text.offset, {"outcome": outcome}) if outcome else rest

    def _log(self, text: str) -> bytes:
        return _event("log", self._text.offset, {"text": text}) if text else b""


def _event(kind: str, offset: int, data: dict[str, object]) -> bytes:
    return f"id: {offset}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


async def with_pulse(content: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """Pass a stream of events on, with a beat whenever nothing came for so many seconds."""
    coming = asyncio.ensure_future(anext(content, None))
    try:
        while True:
            await asyncio.wait([coming], timeout=seconds)
            if not coming.done():
                yield _BEAT
                continue
            data = coming.result()
            if data is None:
                return
            coming = asyncio.ensure_future(anext(content, None))
            yield data
    finally:
        coming.cancel()
