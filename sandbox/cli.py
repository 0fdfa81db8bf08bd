"""The `sandbox` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sandbox import lean
from sandbox.adhoc.anywhere import app as anywhere
from sandbox.adhoc.cli import app as own
from sandbox.doctor.cli import doctor
from sandbox.errors import (
    ConfigError,
    ConnectionLost,
    EngineError,
    KeeperError,
    NameInUse,
    NoSuchSandbox,
    SandboxError,
    SandboxFault,
    SandboxUnreachable,
    TransferFailed,
)
from sandbox.evaluation.cli import app as evaluation
from sandbox.evaluation.errors import EvaluationError
from sandbox.images.cli import app as images
from sandbox.keeper import places
from sandbox.keeper.home import DEFAULT_HOME
from sandbox.logs import Format

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Sandboxes: unprivileged containers with their own Docker Engine, one for you or many for CI jobs.",
)

app.add_typer(own)
app.add_typer(anywhere)
app.add_typer(evaluation, name="evaluation")
app.add_typer(images, name="images")
app.command()(doctor)
settings = typer.Typer(no_args_is_help=True, help="The keeper's settings: what is wrong, and what counts.")
app.add_typer(settings, name="config")

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
_DEFAULT_SOCKET = Path(places.DEFAULT_SOCKET)
_RUN_FOLDER = Path(places.DEFAULT_RUN_FOLDER)
_EXIT_CODES = (
    (ConfigError, 78),
    (ConnectionLost, 75),
    (TransferFailed, 74),
    ((EngineError, KeeperError, EvaluationError, SandboxFault, SandboxUnreachable), 69),
    ((NoSuchSandbox, NameInUse), 66),
)
"""By kind, as in sysexits.h: 78 configuration, 75 lost under way, 74 files, 69 something needed is not there, 66 no
such name, or one that is taken; 1 for the rest."""


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
    lean.do_without()
    try:
        app()
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1))


@app.command()
def keeper(
    configuration: Annotated[Path | None, typer.Option("--config", help="Configuration file (TOML).")] = None,
    run_folder: Annotated[
        Path, typer.Option(readable=False, help="Folder of its own, for the socket keeper/socket.")
    ] = _RUN_FOLDER,
    group: Annotated[str | None, typer.Option(help="Group, by name or number, that may use the socket.")] = None,
    home: Annotated[Path, typer.Option(readable=False, help="State folder.")] = Path(DEFAULT_HOME),
    patience: Annotated[float, typer.Option(help="Seconds to wait for running jobs when stopped.")] = 300.0,
    log_format: Annotated[
        Format, typer.Option(envvar="SANDBOX_LOG_FORMAT", help="For people or for machines.")
    ] = Format.TEXT,
) -> None:
    """Run the keeper: it holds the Docker socket, keeps sandboxes warm and lends them over its own socket.

    TERM waits for running jobs and removes the sandboxes; a second TERM does not wait.
    USR1 stops at once and leaves every sandbox and job as it is: the next keeper of the same state folder goes on.
    HUP reads the configuration anew: networks and disk_* change at once, the rest for sandboxes that are made from then
    on. A file with a mistake changes nothing.
    """
    with lean.loading():
        from sandbox.keeper import process

    process.run(configuration, run_folder, group, home, patience, log_format)


@settings.command()
def check(file: Annotated[Path | None, typer.Argument(help="The keeper's file (TOML).")] = None) -> None:
    """Say what is wrong with the file and the environment, by line, with the nearest right name; exit with 78 then."""
    from sandbox import config

    config.load(file)
    print("Nothing is wrong with the configuration.")


@settings.command()
def show(
    configuration: Annotated[Path | None, typer.Option("--config", help="The keeper's file (TOML).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show every setting with its value, where that comes from, and whether a HUP changes it."""
    from sandbox import config
    from sandbox.settings.loaded import document, table

    values = list(config.read(configuration).values())
    print(json.dumps({"settings": document(values)}, indent=1) if as_json else "\n".join(table(values)))


@app.command()
def ping(keeper: KeeperSocket = _DEFAULT_SOCKET) -> None:
    """Exit with 0 when the keeper answers and every profile has a sandbox. For health checks."""
    from sandbox.keeper.client import KeeperClient

    pong = KeeperClient(keeper).ping()
    print(pong.message)
    if not pong.fit:
        raise typer.Exit(1)


@app.command("metrics")
def print_metrics(keeper: KeeperSocket = _DEFAULT_SOCKET) -> None:
    """Print what the keeper counts and times, in Prometheus's text format (docs/metrics.md).

    Where there is a runner, its /metrics has the same. Without one: a cron job that writes this for node_exporter.
    """
    from sandbox.keeper.client import KeeperClient

    print(KeeperClient(keeper).metrics(), end="")


@app.command()
def purge(
    installation: Annotated[str | None, typer.Option(help="Those of this installation (`sandbox ls --json`).")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Those of every installation on this engine, and every user's own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Remove the sandboxes, networks, volumes and firewall tables that a keeper left on this host. Stop it first.

    With --all also those that users made for themselves (`sandbox up`), whoever they are; for yours: sandbox rm --all.
    """
    from sandbox.engine import Engine
    from sandbox.network import Walls, WallsDown, walled
    from sandbox.template import InstallationId

    engine = Engine()
    found = engine.installations()
    with suppress(WallsDown):  # where there is no nft there are no walls
        found |= walled()
    if installation is None and not every:
        known = ", ".join(sorted(found)) or "none"
        raise ConfigError(f"Say which: --installation ID, or --all. On this engine: {known}.")
    chosen = found if every else found & {InstallationId(installation or "")}
    removed = {str(one): engine.remove(one) for one in sorted(chosen)}
    for one in chosen:
        with suppress(WallsDown):
            Walls(one).remove()
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {sum(removed.values())} sandboxes with their networks, volumes and walls.")


if __name__ == "__main__":
    main()
