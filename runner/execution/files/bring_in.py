"""Has the sandbox fill a job's working folder with its source, before the job is sent.

Nothing that is fetched is run, so user code certainly did not run. The fetch happens inside the sandbox: the runner
connects neither to a git host nor to an archive's server, and unpacks nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from runner import durable
from runner.errors import ProtocolError, SourceError, StateError
from runner.execution import program
from runner.execution.files.answer import Answer, request
from runner.execution.files.jobs import JobFiles
from runner.execution.session import Pipe, Session
from runner.source_and_artifacts import Archive, Git, Upload

_INSIDE: Final = "runner.execution.files.inside"
_PROGRAM: Final = program.assemble(*program.MODULES, "sandbox.archives", f"{_INSIDE}.unpack", f"{_INSIDE}.fetch")
_PIECE: Final = 1024 * 1024


async def bring_in(session: Session, files: JobFiles, workspace: str) -> None:
    """Fill the working folder.

    Errors: SourceError when the source cannot be fetched; StateError when the runner has lost the archive;
    ConnectionLostError; ProtocolError.
    """
    seconds = files.limits.source_deadline
    try:
        async with asyncio.timeout(seconds), session.command(_PROGRAM.command) as pipe:
            with _archive(files) as archive:
                await pipe.write(_PROGRAM.source + request(await _wanted(files, workspace, archive)))
                if archive:
                    await _send(pipe, archive)
            await _conclude(pipe, files)
    except TimeoutError:
        raise SourceError(f"It did not arrive within {seconds:g} s. Look at the host that it comes from.") from None
    except OSError as error:
        raise StateError(f"The archive that was sent cannot be read: {error.strerror}.") from error


@contextmanager
def _archive(files: JobFiles) -> Iterator[BinaryIO | None]:
    if not isinstance(files.source, Upload):
        yield None
        return
    try:
        file = durable.open_to_read(files.upload or Path())
    except (OSError, ValueError) as error:
        raise StateError("The archive that was sent with the job is gone. Send it again.") from error
    with file:
        yield file


async def _wanted(files: JobFiles, workspace: str, archive: BinaryIO | None) -> dict[str, Any]:
    limits, source = files.limits, files.source
    wanted: dict[str, Any] = {
        "folder": workspace,
        "deadline": limits.source_deadline,
        "archive_bytes": limits.archive_bytes,
        "bytes": limits.source_bytes,
        "files": limits.source_files,
    }
    match source:
        case Upload():
            assert archive
            own: dict[str, Any] = {"kind": "upload", **await asyncio.to_thread(_facts, archive)}
        case Git() | Archive():
            names = ("token", "key") if isinstance(source, Git) else ("token",)
            given = {name: secret for name in names if (secret := getattr(source, name))}
            own = {**source.model_dump(), **{name: files.secrets[secret] for name, secret in given.items()}}
        case None:
            own = {}
    return {**wanted, **own}


def _facts(archive: BinaryIO) -> dict[str, Any]:
    digest = hashlib.sha256()
    while piece := archive.read(_PIECE):
        digest.update(piece)
    size = archive.tell()
    archive.seek(0)
    return {"size": size, "sha256": digest.hexdigest()}


async def _send(pipe: Pipe, archive: BinaryIO) -> None:
    while piece := await asyncio.to_thread(archive.read, _PIECE):
        await pipe.write(piece)


async def _conclude(pipe: Pipe, files: JobFiles) -> None:
    answer = Answer(pipe)
    match await answer.next():
        case "d", _:
            return
        case "n", document:
            raise SourceError(files.masked(str(document.get("why", ""))[:1500]))
        case _:
            raise ProtocolError("The sandbox sent something out of turn while its source was fetched.")
