"""The keeper's metrics that are counted or timed as things happen. `docs/metrics.md` is made from this and `gauges`.

A label's values are limited to a fixed table or to the configured profiles.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from sandbox.calls import CallBegan, CallEnded, End, Step
from sandbox.health import Event
from sandbox.inspection.judge import ReasonKind

disable_created_metrics()  # type: ignore[no-untyped-call] # they add a useless series to each of ours

_QUICK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_SLOW = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0)
_WAITS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class Metrics:
    """The instruments of one keeper. Safe to use from any thread."""

    def __init__(self, profiles: Iterable[str] = ()) -> None:
        """Create the series of these profiles and of all closed label sets.

        Prometheus sees no increase in a series that appears with its first count.
        """
        self.registry = CollectorRegistry()
        ProcessCollector("sandbox_keeper", registry=self.registry)
        self.boot = Histogram(
            "sandbox_boot_seconds",
            "From the decision to make a sandbox until it was proven fit",
            ["profile"],
            buckets=_SLOW,
            registry=self.registry,
        )
        self.inspection = Histogram(
            "sandbox_inspection_seconds",
            "Cleaning and proving a sandbox after a job, or again while it is idle",
            ["after"],
            buckets=_QUICK,
            registry=self.registry,
        )
        self.lend = Histogram(
            "sandbox_lend_seconds",
            "From the request for a sandbox until it was lent; those that were refused are not in it",
            ["profile"],
            buckets=_WAITS,
            registry=self.registry,
        )
        self.findings = Counter(
            "sandbox_findings_total",
            "What sandboxes were thrown away for after an inspection, by the kinds of docs/damage.md",
            ["kind"],
            registry=self.registry,
        )
        self.calls = Counter(
            "sandbox_engine_calls_total",
            "Calls to the Docker Engine, by what was asked and how it ended",
            ["step", "end"],
            registry=self.registry,
        )
        self._under_way: dict[int, Step] = {}
        self._start(profiles)

    def observe(self, event: Event) -> None:
        """Count an engine call that began or ended."""
        match event:
            case CallBegan(call, step):
                self._under_way[call] = step
            case CallEnded(call, end) if asked := self._under_way.pop(call, None):
                self.calls.labels(*_of_call(asked, end)).inc()

    def found(self, kinds: Iterable[str]) -> None:
        """Count why a sandbox was thrown away."""
        for kind in kinds:
            self.findings.labels(kind).inc()

    def _start(self, profiles: Iterable[str]) -> None:
        for profile in profiles:
            self.boot.labels(profile)
            self.lend.labels(profile)
        for after in ("job", "idle"):
            self.inspection.labels(after)
        for kind in ReasonKind:
            self.findings.labels(kind)
        for step in Step:
            for end in End:
                self.calls.labels(*_of_call(step, end))


def _of_call(step: Step, end: End) -> tuple[str, str]:
    return step.replace(" ", "_"), end.replace(" ", "_")
