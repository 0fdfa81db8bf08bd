"""The keeper's metrics that are read when Prometheus asks: its present state, and counts of the pool and the kernel."""

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandbox.daemons import Daemons
from sandbox.errors import Fault
from sandbox.health import HostState
from sandbox.keeper.guard import Guard
from sandbox.keeper.metrics import Metrics
from sandbox.keeper.stock import Stock
from sandbox.keeper.storage import Storage
from sandbox.keeper.watch import HostWatch
from sandbox.network import WallsDown
from sandbox.state import IN_ADVANCE, State

_Label = TypeVar("_Label", bound=str)
_STATES = [state for state in State if state is not State.GONE and state not in IN_ADVANCE]


class Gauges(Collector):
    """Reads the parts of one keeper when it is collected. Safe to use from any thread."""

    def __init__(
        self, metrics: Metrics, stock: Stock, guard: Guard, watch: HostWatch, daemons: Daemons, storage: Storage
    ) -> None:
        self._stock = stock
        self._guard = guard
        self._watch = watch
        self._daemons = daemons
        self._storage = storage
        self._registry = metrics.registry
        self._registry.register(self)

    def text(self) -> str:
        """Return all of the keeper's metrics, in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry).decode()

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        yield _gauge("sandbox_keeper_info", "The keeper's release", {version("sandbox-runner"): 1}, "version")
        yield from self._of_pool()
        yield from self._of_host()
        yield from self._of_disk()
        yield from self._of_walls()

    def _of_pool(self) -> Iterator[Metric]:
        with self._stock.changed:
            pool = self._stock.pool
            warm = {name: profile.warm for name, profile in pool.profiles.items()}
            states = Counter((sandbox.profile, sandbox.state) for sandbox in pool)
            condemned = {fault: pool.counts[fault] for fault in Fault}
            refused = {profile: profile in pool.rollouts and bool(pool.rollouts[profile].refused) for profile in warm}
            waiting = Counter(want.profile for want in self._stock.wants)
        meaning = "Sandboxes, by where they are in their life"
        sandboxes = GaugeMetricFamily("sandbox_sandboxes", meaning, labels=["profile", "state"])
        for profile in warm:
            for state in _STATES:
                sandboxes.add_metric([profile, state], states[profile, state])
        yield sandboxes
        meaning = "Whether the profile's image was refused, and sandboxes are made from the one before"
        yield _gauge("sandbox_image_refused", meaning, refused, "profile")
        yield _gauge("sandbox_warm", "Sandboxes that the configuration asks for", warm, "profile")
        meaning = "Requests for a sandbox that wait for one"
        yield _gauge("sandbox_requests_waiting", meaning, {profile: waiting[profile] for profile in warm}, "profile")
        yield _counter("sandbox_condemned", "Sandboxes that were thrown away, by why", condemned, "fault")

    def _of_host(self) -> Iterator[Metric]:
        now = self._watch.state
        states = {state: int(state is now) for state in HostState}
        yield _gauge("sandbox_host_state", "What is thought of the host: 1 for one of them", states, "state")
        broken = self._watch.open_breakers
        breakers = {profile: int(profile in broken) for profile in self._stock.pool.profiles}
        yield _gauge("sandbox_breaker_open", "Whether every new sandbox of the profile fails", breakers, "profile")
        profiles = self._stock.pool.profiles.items()
        down = {name: int(self._daemons.refusal([profile.runtime]) is not None) for name, profile in profiles}
        meaning = "Whether nothing of the profile is lent or made because its runtime's daemons do not run"
        yield _gauge("sandbox_runtime_down", meaning, down, "profile")

    def _of_disk(self) -> Iterator[Metric]:
        meaning = "Whether nothing is lent for want of room on the host's disk"
        refusing = GaugeMetricFamily("sandbox_disk_refusing", meaning)
        refusing.add_metric([], int(self._storage.refusal is not None))
        yield refusing
        rooms = self._storage.rooms
        free = {room.place: room.free.bytes for room in rooms}
        yield _gauge("sandbox_disk_free_bytes", "What is free of the disks that sandboxes are on", free, "place")
        size = {room.place: room.size.bytes for room in rooms}
        yield _gauge("sandbox_disk_size_bytes", "The size of the disks that sandboxes are on", size, "place")
        files = {room.place: room.free.files for room in rooms if room.size.files}
        yield _gauge("sandbox_disk_free_files", "How many more files those disks take (inodes)", files, "place")
        meaning = "What the sandboxes of a profile took on the disk when each was last measured"
        yield _gauge("sandbox_disk_used_bytes", meaning, self._storage.taken, "profile")

    def _of_walls(self) -> Iterator[Metric]:
        meaning = "Whether the firewall table around the sandboxes can be seen"
        standing = GaugeMetricFamily("sandbox_walls_standing", meaning)
        try:
            counts = self._guard.counters()
        except WallsDown:
            counts = None
        standing.add_metric([], int(counts is not None))
        yield standing
        if counts is not None:
            packets = {why: count.packets for why, count in counts.items()}
            meaning = "Packets from or to sandboxes that the walls dropped, by the reasons of docs/network.md"
            yield _counter("sandbox_walls_dropped_packets", meaning, packets, "reason")


def _gauge(name: str, meaning: str, values: Mapping[_Label, int], label: str) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], value)
    return family


def _counter(name: str, meaning: str, values: Mapping[_Label, int], label: str) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], value)
    return family
