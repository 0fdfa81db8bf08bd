"""Decides whether one sandbox, every new sandbox or the host fails. Pure: no I/O, no clock.

The keeper reports events (`observe`) and asks before it acts. The caller passes in every moment, as a monotonic number
of seconds. The grounds for the verdict:

- **The host** is wedged when the engine does not answer listings, its heartbeat; or when two different sandboxes hang
  in calls that need the runtime, or fail before serving anybody, and nothing has succeeded since. Under sysbox's open
  deadlock (nestybox/sysbox#1018), `inspect` and `ps` still answer while removals hang and starts fail after 22 s.
- **One sandbox** is to blame when its failure stays the only one of its kind, or when another sandbox's removal or
  start worked while it was hanging.
- **Every new sandbox** fails when creations fail in a row for the same fault.

An unfit sandbox that has served a job says nothing about the host: jobs break sandboxes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from sandbox.breaker import CALM, Breaker
from sandbox.calls import HARMLESS_STEPS, RUNTIME_STEPS, CallBegan, CallEnded, End, Listed, Step
from sandbox.errors import Fault, SandboxError

HANGS = 30.0
"""Seconds after which a call that needs the runtime counts as hanging: on a loaded host, a start took 22."""
REMOVAL_HANGS = 120.0
"""Seconds after which a removal counts as hanging. When a container ends, sysbox gives every file of its upper
directory its owner back, and copies into it what is on mounts of its own. That takes longer the more the jobs left, and
two large sandboxes that go at once looked like a wedged host. A hanging runtime shows earlier, in their successors."""
SLOW_REFUSAL = 10.0
"""If a start is refused after this many seconds, the runtime hangs; earlier, a setting is wrong."""
SUSPICIOUS = 5.0
"""Seconds without an answer to a listing after which to look more closely."""
SILENCE = 20.0
"""Seconds without an answer to any listing after which the engine counts as down or wedged."""
TOGETHER = 60.0
"""Seconds within which several sandboxes fail "at once". A failure that stays alone for so long is its sandbox's
own."""
PROBE_INTERVAL = 15.0
"""Seconds without any question to the runtime after which it is probed."""
LISTING_INTERVAL = 0.5
"""Least seconds between two listings. A busy keeper looks again at each lease and return, ten times a second, and each
listing costs the engine and the walls' guard more than the rest of the look."""
WEDGED_LISTING_INTERVAL = 5.0
"""Seconds between two listings while the host is wedged."""
MADE_AT_ONCE = 2
"""Sandboxes per processor of the host to make at once. With many simultaneous starts, some miss sysbox's deadline
(nestybox/sysbox#266), and they trigger its open deadlock (#1018). Its own tests start this many."""
MAX_TRIAL_INTERVAL = 30.0
"""Most seconds between two calls to the runtime while the host is wedged."""
_COURTESY = 5.0
_REMEMBERED = 32


class HostState(StrEnum):
    """The opinion of the host. The values are stable: logs and status contain them."""

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
"""For each state, the states that may follow."""


class Blame(StrEnum):
    """What fails."""

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
    """The sandbox was proven fit, or failed with `fault` and a sentence."""

    profile: str
    name: str
    fault: Fault | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FreshUnfit:
    """A sandbox became unfit after its proof, before serving anybody."""

    profile: str
    container: str
    fault: Fault
    reason: str


Event = CallBegan | CallEnded | Listed | CreationBegan | CreationEnded | FreshUnfit


class IllegalHostMove(SandboxError):
    """The host cannot move from its state to the decided one: a defect of this module."""


@dataclass(frozen=True, slots=True)
class _Call:
    step: Step
    container: str | None
    began: float
    on_running: bool
    """Whether the last listing showed the call's container running."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """One sandbox hangs in `step`, or fails (`step` is None)."""

    step: Step | None
    began: float
    """When the call began. A success of a call that began later clears the host."""
    seen: float


class HostHealth:
    """The keeper's opinion of its host, and what it allows. Not thread-safe: the keeper serialises access.

    While the host is wedged, nothing is lent; creations, removals and probes take turns, one every 5 to 30 s. When one
    of them works, the host is well again.
    """

    def __init__(self, now: float, processors: int = 1) -> None:
        """`processors`: the number of the host's processors."""
        self._most_at_once = MADE_AT_ONCE * processors
        self._state = HostState.WELL
        self._now = now
        self._calls: dict[int, _Call] = {}
        self._listing: Mapping[str, bool] = {}
        self._listing_began = now
        """When the listing in `_listing` began."""
        self._listing_asked = float("-inf")
        self._listing_answered = now
        self._listing_failures = 0
        self._silent_since: float | None = None
        self._evidence: dict[str, _Evidence] = {}
        self._own: dict[str, _Evidence] = {}
        """Evidence that proved to be one sandbox's own fault; it does not count again until that sandbox is gone."""
        self._breakers: dict[str, Breaker] = {}
        self._runtime_asked = now
        self._wedged_until = float("-inf")
        self._trial_at = 0.0
        self._trials = 0
        self._last_trial = ""

    # -- what is thought -----------------------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """The host's state as of the last event or look."""
        return self._state

    @property
    def suspects(self) -> frozenset[str]:
        """The ids of the failing containers: the next probe should use another one."""
        return frozenset(self._evidence) | frozenset(self._own)

    @property
    def blame(self) -> Blame:
        """What fails; when several do, the one to look at first."""
        if self._state is HostState.WEDGED or self._silence(self._now) is not None:
            return Blame.HOST
        if any(b.is_open for b in self._breakers.values()):
            return Blame.NEW_SANDBOXES
        return Blame.SANDBOX if self._evidence or self._own else Blame.NOBODY

    @property
    def open_breakers(self) -> frozenset[str]:
        """The profiles whose every new sandbox fails."""
        return frozenset(profile for profile, breaker in self._breakers.items() if breaker.is_open)

    @property
    def sentence(self) -> str:
        """Say what is wrong and what to do about it; empty when nothing is."""
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
        """Whether a sandbox may be lent: on a wedged host it would break under its job."""
        return self._state is not HostState.WEDGED

    def admit_creation(self, profile: str, beside: int, now: float) -> bool:
        """Whether to make a sandbox of this profile, beside so many in the making. True takes the turn, if any."""
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
        """Whether to make a sandbox that tries a new image, beside so many in the making."""
        return self.look(now) is HostState.WELL and self._bears_one_more(beside)

    def admit_removal(self, now: float) -> bool:
        """Whether a sandbox may be removed now. True takes the turn, if there are turns."""
        self.look(now)
        if self._state is HostState.WEDGED:
            return self._take_turn("removal", now)
        return self._silence(now) is None  # otherwise it would fail and be postponed

    def admit_probe(self, now: float) -> bool:
        """Whether to ask the runtime about an idle sandbox, to see that it works. True takes the turn.

        Due when the runtime was not asked for a while; soon when another sandbox hangs.
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
        """Whether to ask the engine for its containers: often while all is well, otherwise less often."""
        interval = WEDGED_LISTING_INTERVAL if self._state is HostState.WEDGED else LISTING_INTERVAL
        if self._listing_failures:
            interval = min(2.0 ** min(self._listing_failures - 1, 10), WEDGED_LISTING_INTERVAL)
        return now - self._listing_asked >= interval

    # -- what happened -------------------------------------------------------------------------------------------

    def observe(self, event: Event, now: float) -> None:
        """Take in an event and form the opinion anew."""
        self.look(now)  # sets aside evidence too old to be joined by this event
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
        """Form the opinion anew, as time passes while calls hang. Returns the state."""
        self._now = now
        for call in list(self._calls.values()):
            if call.container and call.step in RUNTIME_STEPS and now - call.began >= _patience(call.step):
                self._blame(call.container, _Evidence(call.step, call.began, now))
        if len(self._evidence) == 1:  # nothing joined it, so it is that sandbox's own
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
        elif call.began >= self._listing_answered:  # no later listing was answered
            self._listing_failures += 1
            self._silent_since = call.began if self._silent_since is None else min(call.began, self._silent_since)

    def _runtime_worked(self, call: _Call, container: str) -> None:
        hung = self._step_of(container)
        if call.step in HARMLESS_STEPS:  # needs little of the runtime, so it clears only calls of its kind
            alike = [c for c, e in self._evidence.items() if e.step in HARMLESS_STEPS]
            self._clear(call.began, alike)
            if hung in HARMLESS_STEPS:
                self._resolve(container)
        elif call.step is Step.START or call.on_running or hung not in (None, Step.START):
            self._clear(call.began, self._evidence)
            self._resolve(container)
        # Otherwise it removed a sandbox that never ran, which needs no runtime and proves nothing.

    def _found(self, began: float, containers: Mapping[str, bool]) -> None:
        """Take in a listing. A hung sandbox that is gone was removed after all: the runtime worked again."""
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
        elif self._state is not HostState.WEDGED:  # a wedged host is the cause itself
            self._of(profile).failed(began, fault, reason, now)

    def _blame(self, container: str, evidence: _Evidence) -> None:
        if container not in self._own:
            known = self._evidence.get(container)
            seen = evidence.seen if known is None else known.seen
            self._evidence[container] = _Evidence(evidence.step, evidence.began, seen)
            if len(self._evidence) > _REMEMBERED:
                del self._evidence[next(iter(self._evidence))]

    def _clear(self, began: float, containers: Iterable[str]) -> None:
        """Take in that a call begun at `began` worked: calls that already hung then are their sandboxes' own fault."""
        for container in list(containers):
            if self._evidence[container].began <= began:
                self._excuse(container)

    def _excuse(self, container: str) -> None:
        self._own[container] = self._evidence.pop(container)

    def _resolve(self, container: str) -> None:
        self._evidence.pop(container, None)
        self._own.pop(container, None)

    def _step_of(self, container: str) -> Step | None:
        """The step in which a sandbox hangs or hung."""
        known = self._evidence.get(container) or self._own.get(container)
        return known.step if known else None

    def _silence(self, now: float) -> float | None:
        """Seconds without an answer to a listing; None while that does not matter."""
        waiting = [call.began for call in self._calls.values() if call.step is Step.LIST]
        since = max(min(waiting, default=now), self._listing_answered)
        if self._silent_since is not None:
            return now - self._silent_since
        return now - since if waiting and now - since >= SUSPICIOUS else None

    def _path(self, now: float) -> Iterator[HostState]:
        """Yield the moves from the present state to the right one."""
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
            for breaker in self._breakers.values():  # the host was the cause
                breaker.succeeded()
        if target is HostState.WEDGED:
            self._trials = self._trials if now - self._wedged_until < CALM else 0
            self._trial_at = now + self._trial_interval()
        self._state = target

    def _take_turn(self, what: str, now: float) -> bool:
        """Whether it is the turn of `what`. The holder of the last turn lets the others go first."""
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
    """Say what hangs: `remove container hangs, start hangs`."""
    return ", ".join(sorted({f"{e.step} hangs" if e.step else "not fit though unused" for e in evidence.values()}))
