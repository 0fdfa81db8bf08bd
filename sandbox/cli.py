"""The `sandbox` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

import json
import logging
import queue
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sandbox import config
from sandbox.engine import Engine
from sandbox.errors import ConfigError, EngineError, KeeperError, SandboxError
from sandbox.evaluation.cli import app as evaluation
from sandbox.evaluation.errors import EvaluationError
from sandbox.images.cli import app as images
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient
from sandbox.keeper.home import DEFAULT_HOME, Home
from sandbox.keeper.keeper import Keeper
from sandbox.keeper.server import KeeperServer
from sandbox.keeper.watch import HostWatch
from sandbox.network import Walls, WallsDown
from sandbox.shell import run as run_shell
from sandbox.template import InstallationId

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Make, lend and recreate sandboxes: unprivileged containers with their own Docker Engine.",
)

app.add_typer(evaluation, name="evaluation")
app.add_typer(images, name="images")

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
_DEFAULT_SOCKET = Path(protocol.DEFAULT_SOCKET)
_RUN_FOLDER = Path(protocol.DEFAULT_RUN_FOLDER)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
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
    USR1 stops at once and leaves every sandbox and job as it is: the next keeper of the same state folder goes on.
    HUP reads the configuration anew: networks change at once, the rest for sandboxes that are made from then on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    watch = HostWatch()
    the_keeper = Keeper(config.load(configuration), Engine(watch=watch.observe), Home(home), watch=watch)
    # The socket first: a second keeper must be refused before it removes what it takes for leftovers.
    with KeeperServer(run_folder, the_keeper.verbs, group) as server:
        the_keeper.start()
        signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in _SIGNALS:
            signal.signal(number, lambda received, _: signals.put(received))
        give_up = partial(signals.put, signal.SIGUSR1)
        threading.Thread(target=the_keeper.run, args=(give_up,), name="reconcile").start()
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        while (received := signals.get()) == signal.SIGHUP:
            _reread(the_keeper, configuration)
        if received == signal.SIGUSR1:
            the_keeper.detach()
        else:
            for again in _SIGNALS:
                signal.signal(again, lambda *_: the_keeper.hurry())
            the_keeper.stop(patience)
        server.shutdown()


def _reread(the_keeper: Keeper, configuration: Path | None) -> None:
    try:
        the_keeper.follow(config.load(configuration))
    except ConfigError as error:
        logging.getLogger("keeper").error("the configuration was left as it was: %s", error)  # noqa: TRY400


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
    if listing.trouble:
        print(f"host {listing.host}: {listing.trouble}")
    if listing.counts:
        print("thrown away so far: " + ", ".join(f"{count} {fault}" for fault, count in sorted(listing.counts.items())))
    for sandbox in listing.condemned[:5]:
        print(f"{sandbox.name:28} thrown away ({sandbox.fault}): {sandbox.reason}")


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help="The sandbox, as `sandbox ls` names it.")],
    keeper: KeeperSocket = _DEFAULT_SOCKET,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at a sandbox from outside and say what was found; of one that is gone, why it went. Changes nothing."""
    found = KeeperClient(keeper).inspect(name)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    sandbox = found.sandbox
    print(f"{sandbox.name}: {sandbox.state}, profile {sandbox.profile}, {sandbox.jobs} jobs")
    if sandbox.fault:
        print(f"  thrown away ({sandbox.fault}): {sandbox.reason}")
    if found.verdict:
        print(f"  verdict: {found.verdict}")
    for finding in found.findings:
        print(f"  {finding.verdict} ({finding.kind}): {finding.sentence}")


@app.command()
def hold(
    name: Annotated[str, typer.Argument(help="The sandbox, as `sandbox ls` names it.")],
    hours: Annotated[float, typer.Option("--for", min=0.01, max=168, help="Hours.")] = 1.0,
    keeper: KeeperSocket = _DEFAULT_SOCKET,
) -> None:
    """Keep a sandbox to look at: it is not lent, cleaned or recreated, and takes up a place.

    One at work is held from the end of its job on.
    """
    KeeperClient(keeper).hold(name, hours * 3600)
    print(f"{name} is held for {hours:g} h once no job runs in it. Look: sandbox shell {name}")


@app.command()
def release(name: str, keeper: KeeperSocket = _DEFAULT_SOCKET) -> None:
    """Throw a held sandbox away; a new one takes its place."""
    KeeperClient(keeper).release(name)


@app.command(context_settings={"allow_interspersed_args": False})
def shell(
    name: str,
    command: Annotated[list[str] | None, typer.Argument(help="A command instead of a shell.")] = None,
    keeper: KeeperSocket = _DEFAULT_SOCKET,
) -> None:
    """Get into a held sandbox."""
    raise typer.Exit(run_shell(keeper, name, command or []))


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
    for one in chosen:
        with suppress(WallsDown):  # where there is no nft there are no walls
            Walls(one).remove()
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {sum(removed.values())} sandboxes with their networks and volumes.")


if __name__ == "__main__":
    main()
