"""The commands of the keeper: itself, its settings, how it is, and what it left behind.

Errors are `SandboxError`s and pass through, to become a line and an exit code in `sandbox.entry`.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sandbox import lean
from sandbox.errors import ConfigError
from sandbox.keeper import places
from sandbox.logs import Format

app = typer.Typer()
settings = typer.Typer(
    name="config", no_args_is_help=True, help="The keeper's settings: what is wrong, and what counts."
)
app.add_typer(settings)

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar=places.SOCKET_VARIABLE, help="The keeper's socket.")]
_DEFAULT_SOCKET = Path(places.DEFAULT_SOCKET)
_RUN_FOLDER = Path(places.DEFAULT_RUN_FOLDER)
_HOME = Path(places.DEFAULT_HOME)


@app.command()
def keeper(
    configuration: Annotated[Path | None, typer.Option("--config", help="Configuration file (TOML).")] = None,
    run_folder: Annotated[
        Path, typer.Option(readable=False, help="Folder of its own, for the socket keeper/socket.")
    ] = _RUN_FOLDER,
    group: Annotated[str | None, typer.Option(help="Group, by name or number, that may use the socket.")] = None,
    home: Annotated[Path, typer.Option(readable=False, help="State folder.")] = _HOME,
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
    from sandbox.keeper import ping

    raise typer.Exit(ping.main(keeper))


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
