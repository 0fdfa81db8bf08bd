"""What a keeper is put together from: its acts and its answers share them."""

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
    """Those of one keeper. Each may be used from any thread."""

    home: Home
    engine: Engine
    stock: Stock
    builder: Builder
    guard: Guard
    watch: HostWatch
    daemons: Daemons
    storage: Storage
    metrics: Metrics
