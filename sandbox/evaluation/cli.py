"""`sandbox evaluation …`: a private Docker Engine with userns-runc, for hosts without sysbox.

Errors are `SandboxError`s and pass through; `sandbox.entry` turns them into a line and an exit code.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sandbox.evaluation.layout import DEFAULT_RUN, DEFAULT_STATE, Layout

app = typer.Typer(
    name="evaluation",
    help="A private Docker Engine with userns-runc, for evaluation and tests on hosts without sysbox.",
    no_args_is_help=True,
)

State = Annotated[Path, typer.Option("--state", help="Folder of the engine's images, data and settings.")]
Run = Annotated[Path, typer.Option("--run", help="Folder of the engine's socket and pid files.")]


def _say(line: str) -> None:
    typer.echo(f"evaluation: {line}", err=True)


@app.command()
def up(state: State = DEFAULT_STATE, run: Run = DEFAULT_RUN) -> None:
    """Start the private engine, or find it running. Installs what is missing."""
    from sandbox.evaluation import private_engine

    private_engine.up(Layout(state, run), _say)


@app.command()
def down(
    state: State = DEFAULT_STATE,
    run: Run = DEFAULT_RUN,
    purge: Annotated[bool, typer.Option("--purge", help="Remove its images and data too.")] = False,
) -> None:
    """Stop the private engine and take back what was changed on the host."""
    from sandbox.evaluation import private_engine

    private_engine.down(Layout(state, run), _say, purge)


@app.command()
def status(state: State = DEFAULT_STATE, run: Run = DEFAULT_RUN) -> None:
    """Say whether the private engine runs. Exit code 1 when it does not."""
    from sandbox.evaluation import private_engine

    found = private_engine.status(Layout(state, run))
    if not found.up:
        typer.echo(f"down: {found.detail}")
        raise typer.Exit(1)
    typer.echo(f"up: Docker {found.version} at {found.url}, {found.running} containers running; {found.detail}")


@app.command()
def prepare(state: State = DEFAULT_STATE, run: Run = DEFAULT_RUN) -> None:
    """Have an engine and a base image ready on this host, and print the settings that use them, for a shell.

    An engine with sysbox-runc is used as it is; otherwise the private engine is started.
    """
    from sandbox.engine import Engine
    from sandbox.evaluation import base_image, choose, engine_api, private_engine

    layout = Layout(state, run)
    chosen = choose.choose(layout)
    _say(f"runtime {chosen.runtime}: {chosen.because}")
    if chosen.is_private:
        private_engine.up(layout, _say)
    Engine(chosen.url).check_storage()  # before building images for minutes that a keeper would not use
    settings = {
        "SANDBOX_RUNTIME": chosen.runtime,
        "BASE_IMAGE": base_image.ensure(chosen.url, _say),
        "DOCKER_DATA": engine_api.data_root(chosen.url),
    }
    if chosen.url is not None:
        settings |= {
            "DOCKER_HOST": chosen.url,
            "DOCKER_SOCKET": chosen.url.removeprefix("unix://"),
            "DOCKER_NETNS": str(layout.netns_file),
        }
    for name, value in settings.items():
        typer.echo(f"{name}={shlex.quote(value)}")
