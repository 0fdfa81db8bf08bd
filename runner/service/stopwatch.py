"""Measures how long each stage of a job takes, within one life of the service."""

from __future__ import annotations

import time

from runner.execution.log import Log
from runner.metrics import Metrics
from runner.outcome import Outcome


class Stopwatch:
    """Measures the stages of one job. It skips a stage that is never reached, or that an earlier life began."""

    def __init__(self, metrics: Metrics, submitted: float) -> None:
        """`submitted`: seconds since the epoch."""
        self._metrics = metrics
        self._submitted = submitted
        self._began: float | None = None
        self._sent: float | None = None
        self._settled: float | None = None

    def began(self) -> None:
        """Note that the job has a slot. After a retry, its setup is measured anew, but its wait is not."""
        if self._began is None:
            self._metrics.queue_wait.observe(self._since_submission())
        self._began = time.monotonic()

    def sent(self) -> None:
        """Note that the script is being sent."""
        self._sent = time.monotonic()
        if self._began is not None:
            self._metrics.setup.observe(self._sent - self._began)
            self._metrics.start_latency.observe(self._since_submission())

    def settled(self, outcome: Outcome, log: Log | None) -> None:
        """Note that the outcome is on disk."""
        self._settled = time.monotonic()
        self._metrics.ended(outcome)
        if self._sent is not None:
            self._metrics.script.observe(self._settled - self._sent)
        if log:
            self._metrics.log_bytes.inc(log.output)
            self._metrics.log_dropped.inc(log.dropped)
            self._metrics.store_errors.inc(bool(log.failure))

    def finished(self) -> None:
        """Note that the sandbox was given back."""
        if self._settled is not None and self._sent is not None:
            self._metrics.returned.observe(time.monotonic() - self._settled)

    def _since_submission(self) -> float:
        return max(0.0, time.time() - self._submitted)  # somebody may have set the clock back
