"""The commands of the keeper: itself, its settings, how it is, and what it left behind.

Errors are `SandboxError`s and pass through, to become a line and an exit code in `sandbox.entry`.
"""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sandbox import config, lean, places
from sandbox.errors import ConfigError, NoSuchSandbox
from sandbox.settings.options import given_settings, takes_settings

app = typer.Typer()
configuration = typer.Typer(
    name="config", no_args_is_help=True, help="The keeper's settings: what is wrong, and what counts."
)
app.add_typer(configuration)

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar=places.SOCKET_VARIABLE, help="The keeper's socket.")]
_DEFAULT_SOCKET = Path(places.DEFAULT_SOCKET)


@app.command()
@takes_settings(config.settings())
def keeper(
    file: Annotated[Path | None, typer.Option("--config", help="Configuration file (TOML).")] = None,
    **given: Any,  # noqa: ANN401 - the options of the settings
) -> None:
    """Run the keeper: it holds the Docker socket, keeps sandboxes warm and lends them over its own socket.

    Settings come from the file, above it the environment, above that options: docs/configuration.md has all of them.

    TERM waits for running jobs and removes the sandboxes; a second TERM does not wait.
    USR1, also after TERM, stops at once and leaves every sandbox and job as it is: the next keeper of the same state
    folder goes on.
    HUP reads the configuration anew and takes up what is live: networks and disk_* at once, the rest for sandboxes that
    are made from then on. A file with a mistake changes nothing.
    """
    with lean.loading():
        from sandbox.keeper import process

    process.run(partial(config.read, file, options=given_settings(given, config.settings())))


@configuration.command()
def check(file: Annotated[Path | None, typer.Argument(help="The keeper's file (TOML).")] = None) -> None:
    """Say what is wrong with the file and the environment, by line, with the nearest right name; exit with 78 then."""
    for remark in config.read(file).remarks:
        print(remark)
    print("Nothing is wrong with the configuration.")


@configuration.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="The keeper's file (TOML).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show every setting with its value, where that comes from, and whether a HUP changes it."""
    from sandbox.settings.loaded import document, table

    values = list(config.read(file).values())
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
    with suppress(WallsDown):  # without nft there are no walls
        found |= walled()
    known = ", ".join(sorted(found)) or "none"
    if installation is None and not every:
        raise ConfigError(f"Say which: --installation ID, or --all. On this engine: {known}.")
    if not every and installation not in found:
        raise NoSuchSandbox(f"There is nothing of an installation {installation}. On this engine: {known}.")
    chosen = found if every else {InstallationId(installation or "")}
    removed = {str(one): engine.remove(one) for one in sorted(chosen)}
    for one in chosen:
        with suppress(WallsDown):
            Walls(one).remove()
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {sum(removed.values())} sandboxes with their networks, volumes and walls.")
