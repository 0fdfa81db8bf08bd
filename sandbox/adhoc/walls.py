"""The walls of docs/network.md around ad-hoc sandboxes, if the caller may put them up."""

from sandbox.adhoc.record import Record
from sandbox.adhoc.store import Store
from sandbox.engine import Engine
from sandbox.errors import ConfigError
from sandbox.network import Wall, Walls, WallsDown, require_bridge
from sandbox.profile import Network


class Enclosure:
    """One installation's walls, as its records describe them. Not to be used from two threads."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._walls = Walls(store.installation)
        self._put: set[str] = set()

    def stand(self) -> None:
        """Put up the walls around every sandbox whose record has them. Raises `WallsDown`, `EngineError`.

        A sandbox without a recorded subnet is closed in completely.
        """
        neighbours = self._engine.taken_subnets("bridge")
        with self._store.locked():
            walled = [record for record in self._store.records() if record.unwalled is None]
            there = {record.sandbox.bridge: record for record in walled if record.subnet is not None}
            for bridge in self._put - there.keys():
                self._walls.forget(bridge)
            for bridge, record in there.items():
                assert record.subnet is not None
                self._walls.put(bridge, Wall(record.subnet, record.policy))
            self._put = set(there)
            if walled:
                self._walls.ensure(neighbours)
            else:
                self._walls.remove()

    def erect(self, record: Record) -> Record:
        """Put up the walls around a new sandbox, or note in its record why not: before its start, and with its subnet.

        Raises `ConfigError` when there are no walls and its profile closes what only walls can close.
        """
        if record.unwalled is not None:
            return record
        try:
            if record.subnet is not None:
                require_bridge(record.sandbox.bridge)
            self.stand()
        except WallsDown as error:
            if record.profile.network is Network.NONE or record.profile.close:
                raise ConfigError(
                    f"The profile closes what only walls can, and none can be put up here: {error} "
                    "Run this as root, or leave `network` and `close` out."
                ) from error
            return record.model_copy(update={"unwalled": str(error)})
        return record
