"""The `sandbox` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from sandbox import config
from sandbox.engine import Engine
from sandbox.errors import ConfigError, EngineError, KeeperError, SandboxError
from sandbox.evaluation.cli import app as evaluation
from sandbox.evaluation.errors import EvaluationError
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient
from sandbox.keeper.home import DEFAULT_HOME, Home
from sandbox.keeper.keeper import Keeper
from sandbox.keeper.server import KeeperServer
from sandbox.template import InstallationId

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Make, lend and recreate sandboxes: unprivileged containers with their own Docker Engine.",
)

app.add_typer(evaluation, name="evaluation")

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
_DEFAULT_SOCKET = Path(protocol.DEFAULT_SOCKET)
_RUN_FOLDER = Path(protocol.DEFAULT_RUN_FOLDER)
_EXIT_CODES = ((ConfigError, 78), (EngineError, 69), (KeeperError, 69), (EvaluationError, 69))
"""By kind, as in sysexits.h: 78 configuration, 69 something needed is not there; 1 for the rest."""


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
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
) -> None:
    """Run the keeper: it holds the Docker socket, keeps sandboxes warm and lends them over its own socket.

    TERM waits for running jobs and removes the sandboxes; a second TERM does not wait.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    the_keeper = Keeper(config.load(configuration), Engine(), Home(home))
    # The socket first: a second keeper must be refused before it removes what it takes for leftovers.
    with KeeperServer(run_folder, the_keeper, group) as server:
        the_keeper.start()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: the_keeper.hurry() if stop.is_set() else stop.set())
        reconciling = threading.Thread(target=the_keeper.run, name="reconcile")
        reconciling.start()
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        stop.wait()
        the_keeper.stop(patience)
        reconciling.join()
        server.shutdown()


@app.command()
def ls(
    keeper: KeeperSocket = _DEFAULT_SOCKET,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the keeper's sandboxes, and those it threw away lately with the reason."""
    listing = KeeperClient(keeper).listing()
    if as_json:
        print(listing.model_dump_json(indent=2))
        return
    for sandbox in listing.sandboxes:
        whose = f"trust key {sandbox.trust_key}, {sandbox.jobs} jobs" if sandbox.trust_key else "fresh"
        print(f"{sandbox.name:28} {sandbox.state:10} {sandbox.seconds_in_state:8.1f}s  {sandbox.profile}  {whose}")
    for sandbox in listing.condemned[:5]:
        print(f"{sandbox.name:28} thrown away ({sandbox.fault}): {sandbox.reason}")


@app.command()
def ping(keeper: KeeperSocket = _DEFAULT_SOCKET) -> None:
    """Exit with 0 when the keeper answers and every profile has a sandbox. For health checks."""
    pong = KeeperClient(keeper).ping()
    print(pong.message)
    if not pong.fit:
        raise typer.Exit(1)


@app.command()
def purge(
    installation: Annotated[str | None, typer.Option(help="Those of this installation (`sandbox ls --json`).")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those of every installation on this engine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Remove the sandboxes, networks and volumes that a keeper left on the engine, found by label. Stop it first."""
    engine = Engine()
    found = engine.installations()
    if installation is None and not every:
        known = ", ".join(sorted(found)) or "none"
        raise ConfigError(f"Say which: --installation ID, or --all. On this engine: {known}.")
    chosen = found if every else found & {InstallationId(installation or "")}
    removed = {str(one): engine.remove(one) for one in sorted(chosen)}
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {sum(removed.values())} sandboxes with their networks and volumes.")


if __name__ == "__main__":
    main()
