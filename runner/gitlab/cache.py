"""Caches between the runner's store and a job's sandbox, and the program that packs and unpacks them there.

A cache belongs to a trust key: a project's protected and unprotected refs never share a cache, and untrusted jobs have
none. An error here costs a cache, never a job; the job's log tells of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeVar

from runner.errors import CacheError, TransferError
from runner.execution import transfer
from runner.execution.session import Session
from runner.gitlab.store import CacheStore
from runner.job import UNTRUSTED

_OBJECT_STORE: Final = re.compile(rb"--(?:gocloud-)?url\$?\w+://")
"""Matches a stage's script without its quoting, if the cache is in the object store of gitlab-runner's
`[runners.cache]`. The file at `--file` is then only temporary."""
MAX_TOLD: Final = 10
"""The most sentences about one stage."""

_T = TypeVar("_T")


class Cache:
    """The caches of one job."""

    def __init__(self, store: CacheStore, owner: str, folder: str) -> None:
        """`owner`: the job's trust key. `folder`: gitlab-runner's cache folder in the sandbox."""
        self._store = store
        self._owner = owner
        self._folder = folder

    async def bring_in(self, session: Session, script: bytes) -> list[str]:
        """Bring in the caches that a script names. Returns sentences for the job's log. Errors: ConnectionLostError."""
        told: list[str] = []
        if self._owner == UNTRUSTED:
            return ["This job is not trusted with a cache: none is used."]
        if has_object_store(script):
            return []
        for entry in await asyncio.to_thread(self._store.entries, self._owner):
            if not names(script, entry.path):
                continue
            try:
                async with _on_thread(self._store.read(self._owner, entry)) as file:
                    path = f"{self._folder}/{entry.path}"
                    await transfer.bring_in(session, file, path, entry.size, changed=entry.changed)
                told.append(f"Brought in the cache {entry.path} ({entry.size} bytes).")
            except (TransferError, OSError, ValueError) as error:
                told.append(f"The cache {entry.path} could not be brought in: {error}")
        return told[:MAX_TOLD]

    async def take_out(self, session: Session, script: bytes) -> list[str]:
        """Keep the new caches that a stage's script names. The job may put other files into the folder.

        Returns sentences for the job's log. Errors: ConnectionLostError.
        """
        if self._owner == UNTRUSTED or has_object_store(script):
            return []
        told: list[str] = []
        try:
            kept = await asyncio.to_thread(self._store.entries, self._owner)
            found = await transfer.listing(session, self._folder)
        except (TransferError, OSError) as error:
            return [f"The caches could not be kept: {error}"]
        for entry in found:
            if entry in kept or not names(script, entry.path):
                continue
            try:
                async with _on_thread(self._store.write(self._owner, entry)) as file:
                    await transfer.take_out(session, f"{self._folder}/{entry.path}", entry.size, file)
                told.append(f"Kept the cache {entry.path} ({entry.size} bytes).")
            except (TransferError, CacheError, OSError) as error:
                told.append(f"The cache {entry.path} could not be kept: {error}")
        return told[:MAX_TOLD]


def names(script: bytes, path: str) -> bool:
    """Return whether a stage's script names a cache.

    The script's text is given to `eval`, so the name is quoted once more than a person would quote it. The comparison
    ignores quoting, and takes `\\xNN` for bytes that are not ASCII.
    """
    return _bare(path.encode()) in _bare(script)


def has_object_store(script: bytes) -> bool:
    """Return whether a stage's script has its caches in an object store, and so needs none of ours."""
    return _OBJECT_STORE.search(_bare(script)) is not None


def _bare(text: bytes) -> bytes:
    spelled = re.sub(rb"[\x80-\xff]", lambda byte: b"x%02x" % byte[0][0], text)
    return spelled.translate(None, b"\\'\" ")


async def bring_in_helper(session: Session, source: Path, path: str) -> list[str]:
    """Bring in the program that the scripts call as `gitlab-runner`. Errors: ConnectionLostError."""
    try:
        async with _on_thread(contextlib.closing(await asyncio.to_thread(source.open, "rb"))) as file:
            size = os.fstat(file.fileno()).st_size
            await transfer.bring_in(session, file, path, size, executable=True)
    except (TransferError, OSError) as error:
        return [f"The program gitlab-runner could not be brought in: {error}"]
    return []


@contextlib.asynccontextmanager
async def _on_thread(blocking: AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """Enter and leave, on a thread, a context that blocks on the disk."""
    stack = contextlib.ExitStack()
    value = await asyncio.to_thread(stack.enter_context, blocking)
    try:
        yield value
    except BaseException as error:
        await asyncio.to_thread(stack.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(stack.close)
