"""The artifacts of a job: list or download them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands import progress
from runner.commands.jobs import AsJson, JobId, client, table
from runner.errors import InputError

if TYPE_CHECKING:
    from runner.client import Client

app = typer.Typer()


@app.command()
def artifacts(
    job: JobId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Copy them into this folder, which must be new or empty.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the files that were kept of a job, or copy them into a folder."""
    with client() as service:
        job = service.whole_id(job)
        kept = service.artifacts(job)
        if output and kept["artifacts"]:
            _download(service, job, output, kept, shown=progress.somebody_looks(as_json=as_json))
    if as_json:
        print(json.dumps(kept))
        return
    for sentence in kept["left_out"]:
        typer.echo(f"runner: not kept: {sentence}", err=True)
    if output and not kept["artifacts"]:
        typer.echo("Nothing was kept of the job.")
    elif output:
        typer.echo(f"{len(kept['artifacts'])} artifacts are in {output}.")
    else:
        table(["SIZE", "PATH"], ([str(one["size"]), _name(one)] for one in kept["artifacts"]))


def _name(artifact: dict[str, Any]) -> str:
    """Return a name that is safe to print on a terminal."""
    name = artifact["path"] + (f" -> {artifact['link']}" if artifact["link"] else "")
    return "".join(sign if sign.isprintable() else "?" for sign in name)


def _download(service: Client, job: str, folder: Path, kept: dict[str, Any], *, shown: bool) -> None:
    """Download all artifacts into the folder, or none. Even an untrusted service cannot write elsewhere."""
    from runner.execution.files.inside.unpack import unpack  # noqa: PLC0415 - only here
    from sandbox.archives import UnsafeArchive  # noqa: PLC0415 - as above

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"There is something in {folder} already. Name another folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".runner-", dir=folder.parent) as beside:
            place = Path(beside, "all")
            place.mkdir()
            with Path(beside, "archive").open("w+b") as archive:
                pieces = service.artifact_archive(job)
                archive.writelines(progress.counted(pieces, kept["size"], "downloading", shown=shown))
                archive.seek(0)
                with progress.reading(archive, "unpacking", shown=shown) as source:
                    unpack(source, place, sum(one["size"] for one in kept["artifacts"]), len(kept["artifacts"]))
            if folder.exists():
                folder.rmdir()
            shutil.move(place, folder)
    except UnsafeArchive as error:
        raise InputError(f"The artifacts are not unpacked. {error}") from error
    except OSError as error:
        raise InputError(f"The artifacts cannot be written to {folder}: {error.strerror or error}.") from error
