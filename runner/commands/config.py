"""`runner config`: shows and checks the settings of `runner serve` without starting it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.config.load import load, look_at_files
from sandbox.settings.loaded import document, table

app = typer.Typer(
    name="config", no_args_is_help=True, help="The settings of `runner serve`: what is wrong, and what counts."
)

_FILE_HELP = "The file (TOML). Default: /etc/runner/runner.toml, if it is there."


@app.command()
def check(file: Annotated[Path | None, typer.Argument(help=_FILE_HELP)] = None) -> None:
    """Say what is wrong with the file and the environment, by line, with the nearest right name; then exit with 78."""
    loaded = load(file)
    look_at_files(loaded)
    for remark in loaded.remarks:
        print(remark)
    print("Nothing is wrong with the configuration.")


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(help=_FILE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Show every setting with its value, its origin, and whether a HUP changes it. Secrets are hidden."""
    values = list(load(file).values())
    print(json.dumps({"settings": document(values)}, indent=1) if as_json else "\n".join(table(values)))
