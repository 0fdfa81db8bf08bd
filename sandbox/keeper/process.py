"""The keeper as a process: its socket, its threads, its signals, and how it stops."""

import signal
import threading
from functools import partial
from pathlib import Path

from sandbox import config, open_files
from sandbox.engine import Engine
from sandbox.errors import ConfigError
from sandbox.keeper.home import Home
from sandbox.keeper.keeper import Keeper
from sandbox.keeper.metrics import Metrics
from sandbox.keeper.server import KeeperServer
from sandbox.keeper.signals import Signals
from sandbox.keeper.watch import HostWatch
from sandbox.logs import Action, Events, Format, configure
from sandbox.settings.loaded import Loaded, later


def run(
    configuration: Path | None, run_folder: Path, group: str | None, home: Path, patience: float, log_format: Format
) -> None:
    """Be the keeper until a signal ends it. `patience` is the seconds that running jobs have then."""
    configure(log_format)
    open_files.raise_limit()
    settings = config.read(configuration)
    metrics = Metrics(settings.config.profiles)
    watch = HostWatch(metrics)
    the_keeper = Keeper(settings.config, Engine(watch=watch.observe), Home(home), watch=watch, metrics=metrics)
    # The socket first: a second keeper must be refused before it removes what it takes for leftovers.
    with KeeperServer(run_folder, the_keeper.verbs, group) as server:
        the_keeper.start()
        signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
        give_up = partial(signals.send, signal.SIGUSR1)
        threading.Thread(target=the_keeper.run, args=(give_up,), name="reconcile").start()
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        while (received := signals.take()) is signal.SIGHUP:
            _reread(the_keeper, configuration, settings)
        if received is signal.SIGUSR1:
            the_keeper.detach()
        else:
            threading.Thread(target=_hurry, args=(the_keeper, signals), name="hurry", daemon=True).start()
            the_keeper.stop(patience)
        server.shutdown()


def _reread(the_keeper: Keeper, configuration: Path | None, started: Loaded[config.KeeperConfig]) -> None:
    events = Events("keeper")
    try:
        settings = config.read(configuration)
        the_keeper.follow(settings.config)
    except ConfigError as error:
        events.error(Action.CONFIGURATION_REFUSED, f"the configuration was left as it was: {error}")
        return
    if waiting := later(started, settings):
        events.warning(Action.CONFIGURATION_REMARK, f"not taken up before the next start: {', '.join(waiting)}")


def _hurry(the_keeper: Keeper, signals: Signals) -> None:
    while signals.take() is signal.SIGHUP:
        pass  # nothing is made any more
    the_keeper.hurry()
