"""The parts of a keeper, shared by its background acts and its answers."""

from dataclasses import dataclass

from sandbox.daemons import Daemons
from sandbox.engine import Engine
from sandbox.keeper.builder import Builder
from sandbox.keeper.guard import Guard
from sandbox.keeper.home import Home
from sandbox.keeper.metrics import Metrics
from sandbox.keeper.stock import Stock
from sandbox.keeper.storage import Storage
from sandbox.keeper.watch import HostWatch


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one keeper. Each may be used from any thread."""

    home: Home
    engine: Engine
    stock: Stock
    builder: Builder
    guard: Guard
    watch: HostWatch
    daemons: Daemons
    storage: Storage
    metrics: Metrics
