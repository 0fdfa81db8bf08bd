"""The runner's metrics for Prometheus. `docs/metrics.md` is made from this.

A label has only values from a table of ours: never one that a client or a job chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from runner import outcome as outcomes
from runner.logs import Action
from runner.outcome import Outcome

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each of ours, that nobody asks for

_MOMENTS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WAITS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_NOTES: Final = frozenset({Action.RETRY, Action.LOST, Action.RESUMED, Action.CONDEMNED})
"""The events of an attempt (`runner.execution.options.Note`) to count."""


class Metrics:
    """The instruments of one service. Only the event loop's thread may use them, except `store_errors`."""

    def __init__(self) -> None:
        self._registry: Final = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._gauge("runner_info", "The runner's release", "version").labels(version("sandbox-runner")).set(1)
        # A job's stages, in order.
        self.submitted: Final = self._counter("runner_jobs_submitted_total", "Jobs that were taken")
        self.queue_wait: Final = self._histogram(
            "runner_queue_wait_seconds", "From a job's submission until it got a slot", _WAITS
        )
        self.setup: Final = self._histogram(
            "runner_setup_seconds", "From a job's slot until its script was sent to a sandbox", _MOMENTS
        )
        self.start_latency: Final = self._histogram(
            "runner_start_latency_seconds", "From a job's submission until its script was sent to a sandbox", _WAITS
        )
        self.script: Final = self._histogram(
            "runner_script_seconds", "From the sending of a script until its outcome was on disk", _WAITS
        )
        self.returned: Final = self._histogram(
            "runner_return_seconds", "From a job's outcome until its sandbox was given back", _MOMENTS
        )
        self._outcomes: Final = self._counter(
            "runner_jobs_ended_total",
            "Jobs that have their outcome, by those of docs/runbook.md; of `timed_out` by which time limit too",
            "outcome",
            "which",
        )
        self._notes: Final = self._counter(
            "runner_attempt_events_total",
            "What happened on a job's way: another sandbox tried, the connection lost, the script found again, its "
            "sandbox condemned",
            "event",
        )
        self.log_bytes: Final = self._counter("runner_log_bytes_total", "Bytes of output that were kept in jobs' logs")
        self.log_dropped: Final = self._counter(
            "runner_log_dropped_bytes_total", "Bytes of output that jobs' logs had no room for"
        )
        # GitLab's jobs.
        self.gitlab_jobs: Final = self._gauge("runner_gitlab_jobs", "GitLab's jobs that are not over")
        self.gitlab_stage: Final = self._histogram(
            "runner_gitlab_stage_seconds",
            "A hook of gitlab-runner's, from its request to its answer, by stage and by how it ended",
            _WAITS,
            "stage",
            "end",
        )
        # The service itself.
        self.store_errors: Final = self._counter(
            "runner_store_errors_total", "Times that the state folder could not be written or read"
        )
        self._webhooks: Final = self._counter(
            "runner_webhook_tries_total", "Messages that were sent to receivers of webhooks, by how that ended", "end"
        )
        self._keeper_up: Gauge | None = None
        self._jobs: Final = self._gauge("runner_jobs", "Jobs that are known, by where they are in their life", "state")
        self._oldest: Final = self._gauge(
            "runner_queue_oldest_seconds", "For how long the job has waited that has waited longest; 0 without any"
        )
        self._slots: Final = self._gauge("runner_slots", "Jobs that may run at once")
        self._busy: Final = self._gauge("runner_slots_busy", "Slots that are taken")
        self._free: Final = self._gauge("runner_disk_free_bytes", "What is free of the state folder's disk")
        self._size: Final = self._gauge("runner_disk_size_bytes", "The size of the state folder's disk")
        self._unready: Final = self._gauge(
            "runner_unready", "Whether this keeps the service from being ready", "reason"
        )
        for labels in outcomes.NAMES_AND_LIMITS:
            self._outcomes.labels(*labels)
        for end in ("taken", "failed"):
            self._webhooks.labels(end)
        for note in _NOTES:
            self._notes.labels(note)

    def ended(self, outcome: Outcome) -> None:
        """Count a job that has its outcome."""
        self._outcomes.labels(outcomes.name(outcome), outcomes.which(outcome)).inc()

    def noted(self, action: Action) -> None:
        """Count an event of an attempt."""
        if action in _NOTES:
            self._notes.labels(action).inc()

    def webhook_tried(self, taken: bool) -> None:
        """Count a message that was sent to a receiver, by whether it was taken."""
        self._webhooks.labels("taken" if taken else "failed").inc()

    def keeper_answered(self, up: bool) -> None:
        """Set whether the keeper answered. Without a keeper, no series exists that would say it is down."""
        if self._keeper_up is None:
            meaning = "Whether the keeper answered; if not, nothing else is there that begins with sandbox_"
            self._keeper_up = self._gauge("sandbox_keeper_up", meaning)
        self._keeper_up.set(up)

    def show(
        self,
        jobs: Mapping[str, int],
        oldest: float,
        slots: tuple[int, int],
        disk: tuple[int, int],
        unready: Mapping[str, bool],
    ) -> None:
        """Set the present values.

        `oldest`: seconds that the oldest job waits; `slots`: those taken, and all; `disk`: free bytes, and all;
        `unready`: whether each reason holds.
        """
        for state, count in jobs.items():
            self._jobs.labels(state).set(count)
        self._oldest.set(oldest)
        self._busy.set(slots[0])
        self._slots.set(slots[1])
        self._free.set(disk[0])
        self._size.set(disk[1])
        for reason, so in unready.items():
            self._unready.labels(reason).set(so)

    def text(self) -> str:
        """Return all metrics in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry).decode()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)
