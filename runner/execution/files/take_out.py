"""Takes a job's artifacts out of its sandbox, after the script's end and before the outcome is told.

The sandbox is hostile: the runner checks each name, size and count that it sends, and writes an archive of its own. Any
failure is told in the job's log, and never changes how the script ended. A runner that is killed meanwhile collects
again in its next life: artifacts are collected at least once, and the last collection is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from runner.errors import ConnectionLostError, ProtocolError, RunnerError
from runner.execution import program
from runner.execution.files.answer import Answer, request
from runner.execution.files.bundle import Bundle, Kept, admitted
from runner.execution.files.jobs import JobFiles
from runner.execution.session import Session
from runner.execution.wire import clean
from runner.outcome import Outcome

_INSIDE: Final = "runner.execution.files.inside"
_PROGRAM: Final = program.assemble(*program.MODULES, "sandbox.archives", f"{_INSIDE}.patterns", f"{_INSIDE}.collect")
_MAX_TOLD: Final = 20
"""Sentences on single files that are accepted from the sandbox."""


async def take_out(
    reach: Callable[[], Awaitable[Session]], files: JobFiles, outcome: Outcome, workspace: str
) -> list[str]:
    """Keep the artifacts wanted after an outcome, and return sentences for the job's log. Raises nothing.

    `reach` returns a session, and a new one after the last was lost. It may raise any RunnerError.
    """
    wanted = files.wanted(outcome)
    if not wanted or files.bundle is None:
        return []
    seconds = files.limits.artifact_deadline
    try:
        async with asyncio.timeout(seconds):
            try:
                kept = await _collect(await reach(), files, files.bundle, wanted, workspace)
            except ConnectionLostError:
                kept = await _collect(await reach(), files, files.bundle, wanted, workspace)
    except TimeoutError:
        return [f"The artifacts are not kept: it took longer than {seconds:g} s."]
    except OSError as error:
        return [f"The artifacts are not kept: they cannot be written down ({error.strerror or error})."]
    except RunnerError as error:
        return [f"The artifacts are not kept: {files.masked(str(error))}"]
    return _told(kept)


def _told(kept: Kept) -> list[str]:
    told = [f"An artifact is not kept: {sentence}." for sentence in kept.left_out]
    if not kept.members:
        told.append("There are no artifacts.")
    return told


async def _collect(session: Session, files: JobFiles, place: Path, wanted: list[str], workspace: str) -> Kept:
    limits = files.limits
    order = {
        "folder": workspace,
        "paths": wanted,
        "bytes": limits.artifact_bytes,
        "files": limits.artifact_files,
        "deadline": limits.artifact_deadline,
    }
    async with session.command(_PROGRAM.command) as pipe, _bundle(place) as bundle:
        await pipe.write(_PROGRAM.source + request(order))
        answer = Answer(pipe)
        left_bytes, left_files = limits.artifact_bytes, limits.artifact_files
        while True:
            kind, document = await answer.next()
            if kind == "d":
                return await asyncio.to_thread(bundle.keep, _left_out(document, files))
            member = await asyncio.to_thread(admitted, document, wanted)
            left_bytes -= member.size
            left_files -= 1
            if kind != "f" or left_bytes < 0 or left_files < 0:
                raise ProtocolError("The sandbox sent more than it was asked for.")
            await asyncio.to_thread(bundle.begin, member)
            async for piece in answer.content(member.size):
                await asyncio.to_thread(bundle.write, piece)
            await asyncio.to_thread(bundle.end)


def _left_out(document: dict[str, Any], files: JobFiles) -> tuple[str, ...]:
    """Return sentences, bounded in number and length, on the files that the sandbox left out."""
    told, count = document.get("told"), document.get("left_out")
    sentences = [files.masked(clean(str(one))) for one in (told if isinstance(told, list) else [])[:_MAX_TOLD]]
    if isinstance(count, int) and (more := count - len(sentences)) > 0:
        sentences.append(f"and {more} more")
    return tuple(sentences)


@asynccontextmanager
async def _bundle(place: Path) -> AsyncIterator[Bundle]:
    bundle = await asyncio.to_thread(Bundle, place)
    try:
        yield bundle
    finally:
        await asyncio.to_thread(bundle.close)
