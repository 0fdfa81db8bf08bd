"""Whether it is one sandbox, every new sandbox or the host that fails. Pure: no I/O, no clock.

The keeper tells it what happened (`observe`) and asks before it acts; every moment is a monotonic number of seconds
that the caller passes in. What the verdict rests on:

- **The host** is wedged when listing, the engine's heartbeat, is not answered; or when two different sandboxes hang in
  calls that need the runtime, or fail without having served anybody, and nothing succeeded since. Under sysbox's open
  deadlock (nestybox/sysbox#1018) `inspect` and `ps` go on answering while removals hang and starts fail after 22 s.
- **One sandbox** is to blame for what stays the only one of its kind, or when another one's removal or start worked
  while it was hanging.
- **Every new sandbox** fails when creations fail in a row for the same fault.

A sandbox that served a job and is not fit says nothing about the host: jobs break sandboxes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from sandbox.breaker import CALM, Breaker
from sandbox.calls import HARMLESS_STEPS, RUNTIME_STEPS, CallBegan, CallEnded, End, Listed, Step
from sandbox.errors import Fault, SandboxError

HANGS = 30.0
"""Seconds after which a call that needs the runtime is taken to hang: a start was seen to take 22 on a loaded host."""
REMOVAL_HANGS = 120.0
"""Seconds after which a removal is taken to hang. When a container ends, sysbox gives every file of its upper directory
its owner back, and copies what is on mounts of its own into it: it grows with what the jobs left, and two large
sandboxes that go at once looked like a wedged host. A runtime that hangs is told earlier, by their successors."""
SLOW_REFUSAL = 10.0
"""Seconds after which a start that is refused was refused by a runtime that hangs, and not by a wrong setting."""
SUSPICIOUS = 5.0
"""Seconds without an answer to a listing that make one look closer."""
SILENCE = 20.0
"""Seconds without an answer to any listing after which the engine is taken to be down or wedged."""
TOGETHER = 60.0
"""Seconds within which several sandboxes fail "at once". What nothing joined by then was that sandbox's own."""
PROBE_INTERVAL = 15.0
"""Seconds after which the runtime is asked something, if nothing else was asked of it meanwhile."""
LISTING_INTERVAL = 0.5
"""Seconds between two listings at least. A busy keeper looks again at each lease and return, ten times a second, and
each listing costs the engine and the walls' guard more than the rest of such a look."""
WEDGED_LISTING_INTERVAL = 5.0
"""Seconds between two listings while the host is wedged."""
MADE_AT_ONCE = 2
"""Sandboxes for each processor of the host that are made at once. Of many that start together some miss sysbox's
deadline (nestybox/sysbox#266), and they are what its open deadlock takes (#1018). Its own tests start this many."""
MAX_TRIAL_INTERVAL = 30.0
"""Seconds between two calls to the runtime while the host is wedged, at most."""
_COURTESY = 5.0
_REMEMBERED = 32


class HostState(StrEnum):
    """What is thought of the host. The values are stable: logs and status carry them."""

    WELL = "well"
    SUSPECT = "suspect"
    WEDGED = "wedged"


HOST_MOVES: Mapping[HostState, frozenset[HostState]] = MappingProxyType(
    {
        HostState.WELL: frozenset({HostState.SUSPECT}),
        HostState.SUSPECT: frozenset({HostState.WELL, HostState.WEDGED}),
        HostState.WEDGED: frozenset({HostState.WELL}),
    }
)
"""From each state, the states that may follow."""


class Blame(StrEnum):
    """Who it is that fails."""

    NOBODY = "nobody"
    SANDBOX = "this sandbox"
    NEW_SANDBOXES = "every new sandbox"
    HOST = "the host"


@dataclass(frozen=True, slots=True)
class CreationBegan:
    """A sandbox of this profile is being made."""

    profile: str
    name: str


@dataclass(frozen=True, slots=True)
class CreationEnded:
    """That sandbox was proven fit, or failed with `fault` and a sentence."""

    profile: str
    name: str
    fault: Fault | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FreshUnfit:
    """A sandbox that was proven fit and has served nobody since is not fit any more."""

    profile: str
    container: str
    fault: Fault
    reason: str


Event = CallBegan | CallEnded | Listed | CreationBegan | CreationEnded | FreshUnfit


class IllegalHostMove(SandboxError):
    """The host cannot go from its state to the one decided: a defect of this module."""


@dataclass(frozen=True, slots=True)
class _Call:
    step: Step
    container: str | None
    began: float
    on_running: bool
    """Whether the last listing showed its container running."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """That one sandbox hangs, in `step`, or fails (`step` is None)."""

    step: Step | None
    began: float
    """When the call began: what succeeded although it began later speaks for the host."""
    seen: float


class HostHealth:
    """What the keeper thinks of its host, and what it may do meanwhile. Not thread-safe: the keeper serialises.

    While wedged nothing is lent; creations, removals and probes take turns, one each 5 to 30 s. It is well again as
    soon as one of them works.
    """

    def __init__(self, now: float, processors: int = 1) -> None:
        """`processors` are the host's."""
        self._most_at_once = MADE_AT_ONCE * processors
        self._state = HostState.WELL
        self._now = now
        self._calls: dict[int, _Call] = {}
        self._listing: Mapping[str, bool] = {}
        self._listing_began = now
        """When the listing began that said so."""
        self._listing_asked = float("-inf")
        self._listing_answered = now
        self._listing_failures = 0
        self._silent_since: float | None = None
        self._evidence: dict[str, _Evidence] = {}
        self._own: dict[str, _Evidence] = {}
        """What was found to be one sandbox's own fault; it is not evidence again until that sandbox is gone."""
        self._breakers: dict[str, Breaker] = {}
        self._runtime_asked = now
        self._wedged_until = float("-inf")
        self._trial_at = 0.0
        self._trials = 0
        self._last_trial = ""

    # -- what is thought -----------------------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """The host, as of the last event or look."""
        return self._state

    @property
    def suspects(self) -> frozenset[str]:
        """The containers that fail, by id: the next probe should be of another one."""
        return frozenset(self._evidence) | frozenset(self._own)

    @property
    def blame(self) -> Blame:
        """Who it is, of all that may fail at once the one to look at first."""
        if self._state is HostState.WEDGED or self._silence(self._now) is not None:
            return Blame.HOST
        if any(b.is_open for b in self._breakers.values()):
            return Blame.NEW_SANDBOXES
        return Blame.SANDBOX if self._evidence or self._own else Blame.NOBODY

    @property
    def open_breakers(self) -> frozenset[str]:
        """The profiles of which every new sandbox fails."""
        return frozenset(profile for profile, breaker in self._breakers.items() if breaker.is_open)

    @property
    def sentence(self) -> str:
        """What is wrong and what to do about it; empty when nothing is."""
        match self.blame:
            case Blame.HOST:
                return self._about_host()
            case Blame.NEW_SANDBOXES:
                return " ".join(b.sentence(profile) for profile, b in self._breakers.items() if b.is_open)
            case Blame.SANDBOX:
                return _about_sandboxes({**self._own, **self._evidence})
            case Blame.NOBODY:
                return ""

    # -- what may be done ----------------------------------------------------------------------------------------

    @property
    def may_lend(self) -> bool:
        """Whether a sandbox may be lent: one on a wedged host would break under its job."""
        return self._state is not HostState.WEDGED

    def admit_creation(self, profile: str, beside: int, now: float) -> bool:
        """Whether a sandbox of this profile may be made now, beside so many that are. True takes the turn, if any."""
        self.look(now)
        breaker = self._of(profile)
        match self._state:
            case HostState.WEDGED:
                return not breaker.under_way and self._take_turn("creation", now)
            case HostState.SUSPECT:
                busy = any(b.under_way for b in self._breakers.values())
                return not busy and self._silence(now) is None and breaker.may_begin(now)
            case HostState.WELL:
                return self._bears_one_more(beside) and breaker.may_begin(now)

    def admit_image_trial(self, beside: int, now: float) -> bool:
        """Whether a sandbox may be made to try a new image, beside so many that are being made."""
        return self.look(now) is HostState.WELL and self._bears_one_more(beside)

    def admit_removal(self, now: float) -> bool:
        """Whether a sandbox may be removed now. True takes the turn, where there are turns."""
        self.look(now)
        if self._state is HostState.WEDGED:
            return self._take_turn("removal", now)
        return self._silence(now) is None  # else it would fail, and be put off

    def admit_probe(self, now: float) -> bool:
        """Whether the runtime should be asked about an idle sandbox, to see that it works. True takes the turn.

        Due when nothing else was asked of the runtime for a while, at once when another sandbox hangs.
        """
        self.look(now)
        if self._state is HostState.WEDGED:
            return self._take_turn("probe", now)
        interval = SUSPICIOUS if self._evidence else PROBE_INTERVAL
        due = now - self._runtime_asked >= interval and self._silence(now) is None
        if due:
            self._runtime_asked = now
        return due

    def listing_due(self, now: float) -> bool:
        """Whether the engine should be asked for its containers: often while all is well, less often if not."""
        interval = WEDGED_LISTING_INTERVAL if self._state is HostState.WEDGED else LISTING_INTERVAL
        if self._listing_failures:
            interval = min(2.0 ** min(self._listing_failures - 1, 10), WEDGED_LISTING_INTERVAL)
        return now - self._listing_asked >= interval

    # -- what happened -------------------------------------------------------------------------------------------

    def observe(self, event: Event, now: float) -> None:
        """Take note of what happened, and think again."""
        self.look(now)  # what is too old to be joined by this is put aside first
        match event:
            case CallBegan():
                self._call_began(event, now)
            case CallEnded(call, end):
                if began := self._calls.pop(call, None):
                    self._call_ended(began, end, now)
            case Listed(call, containers):
                if began := self._calls.get(call):
                    self._found(began.began, containers)
            case CreationBegan(profile, name):
                self._of(profile).under_way[name] = now
            case CreationEnded(profile, name, fault, reason):
                began_at = self._of(profile).under_way.pop(name, now)
                self._creation_ended(profile, began_at, fault, reason, now)
            case FreshUnfit(profile, container, fault, reason):
                self._blame(container, _Evidence(None, now, now))
                self._creation_ended(profile, now, fault, reason, now)
        self.look(now)

    def look(self, now: float) -> HostState:
        """Think again: time passes while calls hang. Returns the state."""
        self._now = now
        for call in list(self._calls.values()):
            if call.container and call.step in RUNTIME_STEPS and now - call.began >= _patience(call.step):
                self._blame(call.container, _Evidence(call.step, call.began, now))
        if len(self._evidence) == 1:  # nothing joined it: it is that sandbox's own
            for container, alone in list(self._evidence.items()):
                if now - alone.seen >= TOGETHER:
                    self._excuse(container)
        for target in self._path(now):
            self._move(target, now)
        return self._state

    # -- inside --------------------------------------------------------------------------------------------------

    def _bears_one_more(self, beside: int) -> bool:
        return beside < self._most_at_once

    def _call_began(self, event: CallBegan, now: float) -> None:
        running = event.container is not None and self._listing.get(event.container, False)
        self._calls[event.call] = _Call(event.step, event.container, now, running)
        if event.step is Step.LIST:
            self._listing_asked = now
        if event.step in RUNTIME_STEPS:
            self._runtime_asked = now

    def _call_ended(self, call: _Call, end: End, now: float) -> None:
        if call.step is Step.LIST:
            self._heartbeat(call, end, now)
        if call.step in RUNTIME_STEPS and call.container:
            if end is End.ANSWERED:
                self._runtime_worked(call, call.container)
            elif end is End.TIMED_OUT or (
                end is End.REFUSED and call.step is Step.START and now - call.began >= SLOW_REFUSAL
            ):
                self._blame(call.container, _Evidence(call.step, call.began, now))

    def _heartbeat(self, call: _Call, end: End, now: float) -> None:
        if end in (End.ANSWERED, End.REFUSED):
            self._silent_since, self._listing_failures = None, 0
            self._listing_answered = max(self._listing_answered, now)
        elif call.began >= self._listing_answered:  # none that was begun later was answered
            self._listing_failures += 1
            self._silent_since = call.began if self._silent_since is None else min(call.began, self._silent_since)

    def _runtime_worked(self, call: _Call, container: str) -> None:
        hung = self._step_of(container)
        if call.step in HARMLESS_STEPS:  # it needs little of the runtime, and excuses no more than its like
            alike = [c for c, e in self._evidence.items() if e.step in HARMLESS_STEPS]
            self._clear(call.began, alike)
            if hung in HARMLESS_STEPS:
                self._resolve(container)
        elif call.step is Step.START or call.on_running or hung not in (None, Step.START):
            self._clear(call.began, self._evidence)
            self._resolve(container)
        # Else the removal of one that never ran, which needs no runtime and proves nothing.

    def _found(self, began: float, containers: Mapping[str, bool]) -> None:
        """A sandbox that hung and is gone now was removed after all: the runtime worked after the last listing."""
        gone = self.suspects - containers.keys()
        hung = {c for c in gone if self._step_of(c) not in (None, Step.START)}
        for container in gone:
            self._own.pop(container, None)
        for container in hung:
            self._evidence.pop(container, None)
        if hung & self._listing.keys():
            self._clear(self._listing_began, self._evidence)
        self._listing, self._listing_began = containers, began

    def _creation_ended(self, profile: str, began: float, fault: Fault | None, reason: str, now: float) -> None:
        if fault is None:
            self._of(profile).succeeded()
        elif self._state is not HostState.WEDGED:  # which is why it failed, then
            self._of(profile).failed(began, fault, reason, now)

    def _blame(self, container: str, evidence: _Evidence) -> None:
        if container not in self._own:
            known = self._evidence.get(container)
            seen = evidence.seen if known is None else known.seen
            self._evidence[container] = _Evidence(evidence.step, evidence.began, seen)
            if len(self._evidence) > _REMEMBERED:
                del self._evidence[next(iter(self._evidence))]

    def _clear(self, began: float, containers: Iterable[str]) -> None:
        """The runtime worked, in a call begun then: what was hanging already is those sandboxes' own."""
        for container in list(containers):
            if self._evidence[container].began <= began:
                self._excuse(container)

    def _excuse(self, container: str) -> None:
        self._own[container] = self._evidence.pop(container)

    def _resolve(self, container: str) -> None:
        self._evidence.pop(container, None)
        self._own.pop(container, None)

    def _step_of(self, container: str) -> Step | None:
        """In which step it hangs, or hung."""
        known = self._evidence.get(container) or self._own.get(container)
        return known.step if known else None

    def _silence(self, now: float) -> float | None:
        """For how long no listing has been answered; None while that is no matter."""
        waiting = [call.began for call in self._calls.values() if call.step is Step.LIST]
        since = max(min(waiting, default=now), self._listing_answered)
        if self._silent_since is not None:
            return now - self._silent_since
        return now - since if waiting and now - since >= SUSPICIOUS else None

    def _path(self, now: float) -> Iterator[HostState]:
        """The moves from the state it is in to the one it should be in."""
        silence = self._silence(now)
        if (silence is not None and silence >= SILENCE) or len(self._evidence) >= 2:
            yield from (HostState.SUSPECT, HostState.WEDGED) if self._state is HostState.WELL else (HostState.WEDGED,)
        elif silence is None and not self._evidence:
            yield HostState.WELL
        elif self._state is HostState.WELL:
            yield HostState.SUSPECT

    def _move(self, target: HostState, now: float) -> None:
        if target is self._state:
            return
        if target not in HOST_MOVES[self._state]:
            raise IllegalHostMove(f"The host cannot move from {self._state} to {target}; this is a defect.")
        if self._state is HostState.WEDGED:
            self._wedged_until = now
            for breaker in self._breakers.values():  # it was the host
                breaker.succeeded()
        if target is HostState.WEDGED:
            self._trials = self._trials if now - self._wedged_until < CALM else 0
            self._trial_at = now + self._trial_interval()
        self._state = target

    def _take_turn(self, what: str, now: float) -> bool:
        """Whether it is the turn of `what`. Who had the last turn lets the others go first."""
        patience = _COURTESY if what == self._last_trial else 0.0
        if now < self._trial_at + patience or self._silence(now) is not None:
            return False
        self._trials, self._last_trial = self._trials + 1, what
        self._trial_at = now + self._trial_interval()
        return True

    def _trial_interval(self) -> float:
        return min(5.0 * 2.0 ** min(self._trials, 10), MAX_TRIAL_INTERVAL)

    def _of(self, profile: str) -> Breaker:
        return self._breakers.setdefault(profile, Breaker())

    def _about_host(self) -> str:
        if (silence := self._silence(self._now)) is not None:
            return (
                f"The host: its Docker Engine has answered nothing for {silence:.0f} s. "
                "Look at `systemctl status docker` and its log. Work goes on when it answers."
            )
        return (
            f"The host: {len(self._evidence)} sandboxes fail at once ({_steps(self._evidence)}) "
            "while its Docker Engine answers: the container runtime is wedged. "
            "Nothing is lent or made meanwhile; it is tried again by itself. "
            "Look at the runtime's services (`systemctl status sysbox`) and for processes in state D "
            "(`ps -eo pid,stat,wchan:32,args`)."
        )


def _patience(step: Step) -> float:
    return REMOVAL_HANGS if step is Step.REMOVE else HANGS


def _about_sandboxes(evidence: Mapping[str, _Evidence]) -> str:
    named = ", ".join(container[:12] for container in evidence)
    return (
        f"This sandbox: container {named} fails ({_steps(evidence)}); others are not affected. "
        "If it stays, remove it by hand with `docker rm -f`."
    )


def _steps(evidence: Mapping[str, _Evidence]) -> str:
    """What hangs, in words: `remove container hangs, start hangs`."""
    return ", ".join(sorted({f"{e.step} hangs" if e.step else "not fit though unused" for e in evidence.values()}))
