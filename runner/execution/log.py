"""The log of one attempt: an append-only file on the runner, addressed by byte offset.

Output is written to the file before anyone sees it. Readers read the file, each at its own pace, so a slow terminal
delays nobody and takes no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from runner import durable
from runner.errors import LogError
from runner.execution.redact import Redactor

DEFAULT_LIMIT: Final = 2 * 1024**3
"""Bytes of output that a log keeps by default."""
CHUNK: Final = 120 * 1024
"""Bytes to read at once. For more than 128 KiB the kernel would map and clear the memory for each read, as for
`session.READ`: HTTP sent a log at 0.8 of the rate."""
FLUSH: Final = 32 * 1024**2
"""Bytes after which a log is synced to disk in the background. The outcome must wait until the whole log is on disk;
thanks to this it waits only for the log's last part."""
_VECTOR: Final = 512
"""Pieces written at once; Linux takes up to 1024 (IOV_MAX)."""
_flushes: Final = ThreadPoolExecutor(2, "log-flush")
"""Threads for syncs alone: a slow disk must not block other work that needs a thread."""


class Log:
    """Writes one log. All methods must be called on the event loop's thread; `LiveCopy` reads on another one.

    After `limit` bytes, and after the first failed write, output is dropped and counted, so the log has no hole. The
    runner's own closing lines do not count towards the limit.
    """

    def __init__(
        self,
        path: Path,
        limit: int = DEFAULT_LIMIT,
        redactor: Redactor | None = None,
        *,
        start: int = 0,
        flags: int = os.O_CREAT | os.O_EXCL,
    ) -> None:
        """Create the file, readable for its owner only. Errors: LogError, also when the file exists already.

        `start` is where the attempt's own part begins: the bytes before it are of another attempt, and do not count
        towards `limit`.
        """
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        except OSError as error:
            done = "made" if flags & os.O_EXCL else "opened again"
            raise LogError(f"The log {path} cannot be {done}: {error.strerror}. Choose another place.") from error
        self.path = path
        self.limit = limit
        self.size = self.output = os.fstat(self._file).st_size
        """Bytes in the file, and how many of them are the script's output; the runner's own lines follow the output."""
        own = max(0, self.output - start)
        """Bytes of output received. A masked stream has other offsets: it is masked again from its first byte on, and
        the part that the file holds already is skipped."""
        self.received = 0 if redactor else own
        self._redactor = redactor
        self._skipping = own if redactor else 0
        self._end = start + limit
        self.dropped = 0
        """Bytes of output that this log dropped."""
        self.failure = ""
        """Why writing failed; empty when no write failed."""
        self.closed = False
        self._output_is_over = False
        self._remarks: list[str] = []
        self._flushed = self.size
        self._flush: asyncio.Future[None] | None = None
        self._news = threading.Condition()
        self._waiting: set[asyncio.Event] = set()

    @classmethod
    def reopen(
        cls, path: Path, limit: int = DEFAULT_LIMIT, redactor: Redactor | None = None, *, start: int = 0
    ) -> Self:
        """Continue the file of an earlier life, or create it. From `start` on, the file holds only output.

        Errors: LogError.
        """
        return cls(path, limit, redactor, start=start, flags=os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)

    def append(self, *pieces: bytes | memoryview) -> None:
        """Append output of the script, with one system call where possible.

        Ignores output after `end_output` or `shut`: a script that goes on may send until its session is closed.
        """
        if self._output_is_over:
            return
        self.received += sum(map(len, pieces))
        if self._redactor:
            pieces = (self._unseen(self._redactor.feed(b"".join(pieces))),)
        self._append(pieces)

    def end_output(self) -> None:
        """Take no more output, and write the bytes that were held back as the possible beginning of a secret."""
        self._output_is_over = True
        if self._redactor:
            rest, self._redactor = self._redactor.finish(), None
            self._append((self._unseen(rest),))

    def _unseen(self, data: bytes) -> bytes:
        """Return the part of the masked stream that an earlier life has not written."""
        skipped = min(self._skipping, len(data))
        self._skipping -= skipped
        return data[skipped:]

    def _append(self, pieces: Sequence[bytes | memoryview]) -> None:
        size = sum(map(len, pieces))
        written = self._write(_head(pieces, max(0, self._end - self.size)))
        self.output += written
        self.dropped += size - written
        if self.size - self._flushed >= FLUSH and not self._flush:
            self._flushed = self.size
            self._flush = asyncio.get_running_loop().run_in_executor(_flushes, durable.sync, self.path)
            self._flush.add_done_callback(self._note_flush)
        self._tell()

    def _note_flush(self, flush: asyncio.Future[None]) -> None:
        self._flush = None
        if not flush.cancelled() and (error := flush.exception()):
            self.failure = self.failure or str(error)

    async def flushed(self) -> None:
        """Wait for a background sync, if there is one. `failure` tells what went wrong."""
        if self._flush:
            await asyncio.wait([self._flush])

    def remark(self, sentence: str) -> None:
        """Keep a sentence for the end of the log."""
        self._remarks.append(sentence)

    def closing(self, reason: str) -> bytes:
        """Return the lines that `close` writes: the remarks and the reason, each as a line `runner: …`."""
        start = "" if self._at_line_start() else "\n"
        return (start + "".join(f"runner: {line}\n" for line in [*self._remarks, reason])).encode()

    def close(self, reason: str) -> None:
        """End the log with its closing lines. Idempotent."""
        if not self.closed:
            self._write([self.closing(reason)])
        self.shut()

    def shut(self) -> None:
        """End the log without closing lines, so that it holds only output, also for `reopen`. Idempotent."""
        if self.closed:
            return
        self.closed = self._output_is_over = True
        os.close(self._file)
        self._tell()

    async def follow(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the log from a byte offset on, as it grows, until it is closed."""
        news = asyncio.Event()
        self._waiting.add(news)
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while True:
                news.clear()
                closed = self.closed
                while data := os.pread(file, CHUNK, offset):
                    offset += len(data)
                    yield data
                if closed:
                    return
                await news.wait()
        finally:
            self._waiting.discard(news)
            os.close(file)

    def wait_for_output(self, offset: int) -> int:
        """Block a reader's thread until there is output beyond `offset`; return the number of bytes, 0 at the end."""
        with self._news:
            self._news.wait_for(lambda: self.output > offset or self.closed)
            return self.output - offset

    def _write(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Write as many bytes as possible, and return their number."""
        done = 0
        try:
            while pieces and not self.failure:
                written = os.writev(self._file, pieces[:_VECTOR])
                done += written
                pieces = _tail(pieces, written)
        except OSError as error:
            self.failure = error.strerror or str(error)
        self.size += done
        return done

    def _at_line_start(self) -> bool:
        if self.size == 0:
            return True
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), 1, self.size - 1) == b"\n"

    def _tell(self) -> None:
        for news in self._waiting:
            news.set()
        with self._news:
            self._news.notify_all()


def _head(pieces: Sequence[bytes | memoryview], limit: int) -> Sequence[bytes | memoryview]:
    """Return the first `limit` bytes of the pieces."""
    if sum(map(len, pieces)) <= limit:
        return pieces
    kept = []
    for piece in pieces:
        kept.append(piece[:limit])
        limit -= len(kept[-1])
    return kept


def _tail(pieces: Sequence[bytes | memoryview], start: int) -> Sequence[bytes | memoryview]:
    """Return the pieces without their first `start` bytes, and without empty pieces."""
    left = []
    for piece in pieces:
        rest = piece[min(start, len(piece)) :]
        start -= len(piece) - len(rest)
        if rest:
            left.append(rest)
    return left


class LiveCopy:
    """Copies the script's output to a file descriptor while the log grows, in a thread of its own.

    The descriptor may block (a pipe into a pager, a stopped terminal): only this thread waits then.
    """

    def __init__(self, log: Log, descriptor: int) -> None:
        """Start copying. Needs a running event loop."""
        self._log = log
        self._descriptor = descriptor
        self.broken = False
        """Set when nobody reads the descriptor any more."""
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        threading.Thread(target=self._copy, name="live-log", daemon=True).start()

    async def finish(self, deadline: float) -> bool:
        """Wait until the closed log's output is copied. Return False if that takes longer than `deadline` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), deadline)
        return self._done.is_set()

    def _copy(self) -> None:
        offset = 0
        try:
            with self._log.path.open("rb", buffering=0) as file:
                while count := self._log.wait_for_output(offset):
                    data = memoryview(os.pread(file.fileno(), min(count, CHUNK), offset))
                    offset += len(data)
                    while data:
                        data = data[os.write(self._descriptor, data) :]
        except OSError:
            self.broken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._done.set)
