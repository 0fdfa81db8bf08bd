"""Keeps the walls around the sandboxes standing. A sandbox's profile says what it may reach, and may change."""

import threading
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from sandbox import host
from sandbox.config import KeeperConfig
from sandbox.logs import Action, Events
from sandbox.network import Count, Policy, Refusal, Wall, Walls, WallState, policy, require_bridge
from sandbox.template import SandboxName

events = Events("keeper")


class _Place(NamedTuple):
    subnet: IPv4Network
    profile: str


class Guard:
    """The walls of one keeper's sandboxes. Every method may be called from any thread."""

    def __init__(self, config: KeeperConfig, walls: Walls) -> None:
        self._walls = walls
        self._lock = threading.Lock()
        self._places: dict[SandboxName, _Place] = {}
        self._config = config
        self._resolvers = host.look().nameservers
        self._policies = self._written()

    def follow(self, config: KeeperConfig) -> None:
        """Apply this configuration's rules to the profiles' sandboxes, from the next look on."""
        resolvers = host.look().nameservers
        with self._lock:
            self._config = config
            self._open(resolvers)

    def admit(self, name: SandboxName, subnet: IPv4Network, profile: str) -> None:
        """Open the walls for a running sandbox, whose bridge was closed completely until now. Raises `WallsDown`."""
        require_bridge(name.bridge)
        resolvers = host.look().nameservers
        with self._lock:
            if resolvers != self._resolvers:  # the host's name servers changed, and this sandbox uses the new ones
                self._open(resolvers)
            self._places[name] = _Place(subnet, profile)
            self._put(name)
        self.look()

    def forget(self, name: SandboxName) -> None:
        """Forget a sandbox that is gone."""
        with self._lock:
            self._places.pop(name, None)
        self._walls.forget(name.bridge)

    def look(self, neighbours: Collection[IPv4Network] | None = None) -> None:
        """Check that the walls stand, and put them back when they do not. Raises `WallsDown`.

        See `Walls.ensure` for `neighbours`.
        """
        if self._walls.ensure(neighbours) is WallState.PUT_BACK:
            what = "somebody had removed or changed the walls around the sandboxes; they are back"
            events.warning(Action.WALLS_PUT_BACK, what)

    def counters(self) -> Mapping[Refusal, Count]:
        """Return the packets that the walls have dropped. Raises `WallsDown` when the walls cannot be read."""
        return self._walls.counters()

    def take_down(self) -> None:
        """Remove the walls, once there is no sandbox any more. Raises `WallsDown`."""
        self._walls.remove()

    def _open(self, resolvers: tuple[IPv4Address, ...]) -> None:
        self._resolvers = resolvers
        self._policies = self._written()
        for name in self._places:
            self._put(name)

    def _written(self) -> Mapping[str, Policy]:
        config = self._config
        return {
            name: policy(profile, config.openings, config.closings, self._resolvers)
            for name, profile in config.profiles.items()
        }

    def _put(self, name: SandboxName) -> None:
        subnet, profile = self._places[name]
        self._walls.put(name.bridge, Wall(subnet, self._policies[profile]))
