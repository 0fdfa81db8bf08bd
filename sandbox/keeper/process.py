"""The keeper's process: its socket, threads and signals, and how it stops."""

import signal
import threading
from collections.abc import Callable
from functools import partial

from sandbox import open_files
from sandbox.config import KeeperConfig
from sandbox.engine import Engine
from sandbox.errors import ConfigError
from sandbox.keeper.home import Home
from sandbox.keeper.keeper import Keeper
from sandbox.keeper.metrics import Metrics
from sandbox.keeper.server import KeeperServer
from sandbox.keeper.signals import Signals
from sandbox.keeper.watch import HostWatch
from sandbox.logs import Action, Events, configure
from sandbox.settings.loaded import Loaded, later

_events = Events("keeper")


def run(read: Callable[[], Loaded[KeeperConfig]]) -> None:
    """Run the keeper until a signal ends it. `read` reads the settings anew."""
    loaded = read()
    config = loaded.config
    configure(config.log.format)
    open_files.raise_limit()
    # Before anything else: a signal during the start is handled after it, so that nothing is left half done.
    signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    for remark in loaded.remarks:
        _events.warning(Action.CONFIGURATION_REMARK, remark)
    metrics = Metrics(config.profiles)
    watch = HostWatch(metrics)
    the_keeper = Keeper(config, Engine(watch=watch.observe), Home(config.home), watch=watch, metrics=metrics)
    # The socket first: a second keeper must be refused before it removes what it takes for leftovers.
    with KeeperServer(config.run_folder, the_keeper.verbs, config.group) as server:
        the_keeper.start()
        give_up = partial(signals.send, signal.SIGUSR1)
        threading.Thread(target=the_keeper.run, args=(give_up,), name="reconcile").start()
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        while (received := signals.take()) is signal.SIGHUP:
            _reread(the_keeper, loaded, read)
        if received is signal.SIGUSR1:
            the_keeper.detach()
        else:
            threading.Thread(target=_hear_more, args=(the_keeper, signals), name="signals", daemon=True).start()
            the_keeper.stop(config.patience)
        server.shutdown()


def _reread(the_keeper: Keeper, started: Loaded[KeeperConfig], read: Callable[[], Loaded[KeeperConfig]]) -> None:
    try:
        said = read()
        the_keeper.follow(said.config)
    except ConfigError as error:
        _events.error(Action.CONFIGURATION_REFUSED, f"the configuration was left as it was: {error}")
        return
    if waiting := later(started, said):
        _events.warning(Action.CONFIGURATION_REMARK, f"not taken up before the next start: {', '.join(waiting)}")


def _hear_more(the_keeper: Keeper, signals: Signals) -> None:
    """Handle signals while the keeper waits for running jobs. Only the first USR1, TERM or INT counts."""
    while (received := signals.take()) is signal.SIGHUP:
        pass  # no more sandboxes are made
    if received is signal.SIGUSR1:
        the_keeper.leave()
    else:
        the_keeper.hurry()
