"""`runner ping`: for health checks, which ask again and again and should cost little."""

from __future__ import annotations

from typing import Annotated

import httpx
import typer

from runner import authorities
from runner.client import DEFAULT_URL
from runner.errors import InputError

app = typer.Typer()


@app.command()
def ping(
    url: Annotated[str, typer.Option(envvar="RUNNER_URL", help="Where the API is.")] = DEFAULT_URL,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it answers at all, even while it drains or has no keeper.")
    ] = False,
) -> None:
    """Exit with 0 when the service answers, and a job that is submitted now would be run. For health checks.

    A supervisor that restarts what fails should ask with --live: a restart ends no drain and brings back no keeper.
    """
    try:
        answer = httpx.get(f"{url}/{'live' if live else 'ready'}", timeout=5, verify=authorities.needed(url))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"No runner answers at {url}: {error}.") from error
    print(answer.text)
    if answer.status_code != 200:
        raise typer.Exit(1)
