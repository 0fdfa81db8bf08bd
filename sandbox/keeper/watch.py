"""The keeper's opinion of the host, shared by its threads; changes of it are logged."""

import os
import threading
import time

from sandbox.acts import Act, Create, Destroy, Prepare, Probe, Replace, Start, Try
from sandbox.health import Blame, Event, HostHealth, HostState
from sandbox.keeper.metrics import Metrics
from sandbox.logs import Action, Events

events = Events("keeper")


class HostWatch:
    """Hears of every engine call, and says what may be done. Never asks the engine itself."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()
        self._health = HostHealth(time.monotonic(), os.cpu_count() or 1)
        self._told = (HostState.WELL, Blame.NOBODY)

    def observe(self, event: Event) -> None:
        """Take in an event."""
        with self._lock:
            self._metrics.observe(event)
            self._health.observe(event, time.monotonic())
            self._tell()

    def look(self) -> tuple[HostState, str]:
        """Form the opinion anew, and say what is wrong and what to do; an empty sentence when nothing is."""
        with self._lock:
            self._health.look(time.monotonic())
            self._tell()
            return self._health.state, self._health.sentence

    @property
    def state(self) -> HostState:
        """The host's state as of the last event or look; reading it changes nothing."""
        with self._lock:
            return self._health.state

    @property
    def open_breakers(self) -> frozenset[str]:
        """The profiles whose every new sandbox fails."""
        with self._lock:
            return self._health.open_breakers

    def may_lend(self) -> bool:
        """Whether a sandbox may be lent: on a wedged host it would break under its job."""
        with self._lock:
            self._health.look(time.monotonic())
            return self._health.may_lend

    def listing_due(self) -> bool:
        """Whether the engine should be asked for its containers."""
        with self._lock:
            return self._health.listing_due(time.monotonic())

    def admits(self, action: Act, being_made: int) -> bool:
        """Whether this act may be done now, with so many sandboxes in the making. Ask right before doing it."""
        now = time.monotonic()
        with self._lock:
            match action:
                case Create(profile, _) | Start(_, profile):
                    return self._health.admit_creation(profile, being_made, now)
                case Try():
                    return self._health.admit_image_trial(being_made, now)
                case Destroy():
                    return self._health.admit_removal(now)
                case Prepare() | Replace() | Probe():
                    return self._health.state is HostState.WELL

    def admits_trial(self, containers: frozenset[str]) -> str | None:
        """Return the id of an idle container to try the runtime on, or None when no trial is due."""
        with self._lock:
            unsuspected = sorted(containers - self._health.suspects)
            return unsuspected[0] if unsuspected and self._health.admit_probe(time.monotonic()) else None

    def _tell(self) -> None:
        now = (self._health.state, self._health.blame)
        if now != self._told:
            self._told = now
            tell = events.info if now == (HostState.WELL, Blame.NOBODY) else events.warning
            tell(Action.HOST_CHANGED, f"the host is {self._health.state}. {self._health.sentence}")
