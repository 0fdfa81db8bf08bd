"""The frames between the runner and its own programs in a sandbox, in `wire`'s form. The answers are not trusted."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Any, Final

from runner.errors import ConnectionLostError, ProtocolError
from runner.execution.session import Pipe

MAX_JSON: Final = 64 * 1024
"""Largest JSON payload, in bytes: enough for the longest path that Linux allows, with all that JSON adds."""
_HEAD: Final = struct.Struct(">cI")
_PIECE: Final = 1024 * 1024


def request(document: dict[str, Any]) -> bytes:
    """Return the frame that tells a program what to do."""
    content = json.dumps(document).encode()
    return _HEAD.pack(b"j", len(content)) + content


class Answer:
    """The answer of a program. Every method raises ConnectionLostError and ProtocolError."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the next frame: its type, and the JSON object in it."""
        kind, size = _HEAD.unpack(await self._exactly(_HEAD.size))
        if not 0 < size <= MAX_JSON:
            raise ProtocolError(f"The sandbox announced {size} bytes, which is not allowed.")
        try:
            document = json.loads(await self._exactly(size))
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ProtocolError("The sandbox sent a frame that is not a JSON object.")
        return kind.decode("latin-1"), document

    async def content(self, size: int) -> AsyncIterator[bytes]:
        """Yield the bytes that follow a frame, exactly as many as the frame announced."""
        while size:
            piece = await self._some(min(size, _PIECE))
            size -= len(piece)
            yield piece

    async def _exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            content += await self._some(size - len(content))
        return content

    async def _some(self, size: int) -> bytes:
        piece = await self._pipe.read(size)
        if not piece:
            why = await self._pipe.end()
            raise ConnectionLostError(f"The sandbox stopped in the middle of an answer{f': {why}' if why else ''}.")
        return piece
