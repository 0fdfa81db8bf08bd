"""`runner gitlab`: the commands for people. The hooks never come here, see `runner.entry`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from runner.errors import InstallError
from runner.gitlab import install as installing

app = typer.Typer(
    name="gitlab",
    no_args_is_help=True,
    help="GitLab: hooks of gitlab-runner's custom executor (`config`, `prepare`, `run`, `cleanup`), and their set-up.",
)


@app.callback()
def gitlab() -> None:
    """Keep `install` a command of its own: typer would make one alone the whole."""


@app.command()
def install(
    url: Annotated[
        str, typer.Option(help="Where GitLab is; or GITLAB_URL, or a file by GITLAB_URL_FILE.", show_default=False)
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(envvar="GITLAB_TOKEN_FILE", help="File with the runner's authentication token; or GITLAB_TOKEN."),
    ] = None,
    name: Annotated[str, typer.Option(envvar="RUNNER_NAME", help="The runner's name.")] = "sandbox-runner",
    concurrency: Annotated[
        int, typer.Option(envvar="CONCURRENCY", min=1, help="Jobs at once: one for each warm sandbox.")
    ] = 2,
    socket: Annotated[
        str, typer.Option(envvar="RUNNER_GITLAB_SOCKET", help="Where `runner serve` listens for hooks.")
    ] = installing.DEFAULT_SOCKET,
    warm: Annotated[
        int | None, typer.Option(envvar="SANDBOX_WARM", help="How many sandboxes are kept warm, for --check.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Put the runner into this config.toml.")] = None,
    check: Annotated[Path | None, typer.Option(help="Say what is wrong in this config.toml, and exit with 1.")] = None,
) -> None:
    """Print a complete block for gitlab-runner's config.toml; or write it, or check what is there.

    The token is never printed; it is only written, into a file that its owner alone can read.
    """
    if check is not None:
        _check(check, warm)
        return
    url = url or installing.address(os.environ)
    if not url:
        raise InstallError("--url (or GITLAB_URL) is needed: https://gitlab.example.com.")
    setup = installing.Setup(url, name, limit=concurrency, socket=socket)
    installing.compile_for(setup)
    if write is None:
        typer.echo(installing.whole(setup), nl=False)
        return
    findings = installing.write(write, replace(setup, token=installing.token(os.environ, token_file)))
    typer.echo(f"{write} has the runner {name!r}. gitlab-runner reads it again by itself within seconds.")
    for finding in findings:
        typer.echo(f"{finding.what} {finding.fix}")


def _check(file: Path, warm: int | None) -> None:
    findings = installing.check(installing.read(file), warm)
    for finding in findings:
        typer.echo(f"{finding.what} {finding.fix}")
    if findings:
        raise typer.Exit(1)
    typer.echo("Nothing is wrong with it.")
