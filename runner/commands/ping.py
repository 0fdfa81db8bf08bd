"""`runner ping` with all its options; without --url, `runner.entry` usually answers it before this is loaded."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from runner import ping as asks
from runner import places

app = typer.Typer()


@app.command()
def ping(
    url: Annotated[
        str | None, typer.Option(envvar=places.URL_VARIABLE, help="Where the API is. Else found as by other commands.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it answers at all, even while it drains or has no keeper.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, with the reasons by name.")] = False,
) -> None:
    """Exit with 0 when the service answers, and a job that is submitted now would be run. For health checks.

    A supervisor that restarts failed services should use --live: a restart ends no drain and brings back no keeper.
    """
    raise typer.Exit(asks.main(url or _found(), live=live, as_json=as_json))


def _found() -> str:
    from runner.client import ask_compose, find  # noqa: PLC0415 - a health check does not pay for it

    return find(os.environ, ask_compose).url if places.compose_is_here() else places.DEFAULT_URL
