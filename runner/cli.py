"""The `runner` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from runner import authorities
from runner.commands import artifacts, config, jobs, operation, run, serve, state, tokens
from runner.config.model import Api
from runner.doctor.cli import doctor
from runner.errors import BadJobError, ConfigError, InputError, RunnerError
from runner.gitlab.cli import app as gitlab

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run scripts in sandboxes: each may become root and break everything, and never reaches the host.",
)

app.add_typer(run.app)
app.add_typer(serve.app)
app.add_typer(jobs.app)
app.add_typer(artifacts.app)
app.add_typer(operation.app)
app.add_typer(state.app)
app.add_typer(tokens.app, name="token")
app.add_typer(config.app, name="config")
app.add_typer(gitlab, name="gitlab")
app.command()(doctor)

_EXIT_CODES: Final = ((BadJobError, 64), (InputError, 66), (ConfigError, 78))
"""By kind, as in sysexits.h: 64 usage, 66 no input, 78 configuration; for the rest 69, something needed is
not there."""


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
    try:
        app()
    except RunnerError as error:
        print(f"runner: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 69))


@app.command()
def ping(
    url: Annotated[str, typer.Option(envvar="RUNNER_URL", help="Where the API is.")] = f"http://{Api().listen}",
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it answers at all, even while it drains or has no keeper.")
    ] = False,
) -> None:
    """Exit with 0 when the service answers, and a job that is submitted now would be run. For health checks.

    A supervisor that restarts what fails should ask with --live: a restart ends no drain and brings back no keeper.
    """
    import httpx  # noqa: PLC0415 - `runner run` does not pay for it

    try:
        answer = httpx.get(f"{url}/{'live' if live else 'ready'}", timeout=5, verify=authorities.needed(url))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"No runner answers at {url}: {error}.") from error
    print(answer.text)
    if answer.status_code != 200:
        raise typer.Exit(1)
