"""The warm pool: which sandboxes exist, what each is doing, and what should be done next. Pure: no I/O, no clock.

The keeper tells it what happened and asks `plan` what to do; every moment is a number of seconds that the caller
passes in.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sandbox.errors import Fault, KeeperRefused
from sandbox.profile import Profile, Recreate
from sandbox.state import State, check_move, is_alive

LEASE_TERM = 30.0
"""Seconds a lease lasts without being renewed."""
PROBE_INTERVAL = 60.0
"""Seconds after which an idle sandbox is proven again."""
UNTRUSTED = "untrusted"
"""The trust key of jobs that may not even follow each other: always a fresh sandbox, thrown away after."""
STUCK_RETRY = 30.0
"""Seconds between attempts to remove a sandbox whose removal hangs."""
_MAX_BACKOFF = 60.0
_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one attempt to one sandbox, until `expires` unless it is renewed."""

    attempt: str
    token: str = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the pool knows of one sandbox."""

    name: str
    generation: int
    profile: str
    state: State
    since: float
    """When it came into this state."""
    proven: float = 0.0
    """When it was last proven fit."""
    trust_key: str | None = None
    """Whose leftovers it may carry; None while it has served nobody."""
    jobs: int = 0
    lease: Lease | None = None
    fault: Fault | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """Somebody waits for a sandbox."""

    profile: str
    trust_key: str


@dataclass(frozen=True, slots=True)
class Create:
    """Make a new sandbox of this profile."""

    profile: str


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove this sandbox."""

    name: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Prove this idle sandbox again."""

    name: str


Action = Create | Destroy | Probe


class Pool:
    """The sandboxes of one keeper. Not thread-safe: the keeper serialises."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self.profiles = profiles
        self.condemned: deque[Sandbox] = deque(maxlen=_REMEMBERED)
        self._sandboxes: dict[str, Sandbox] = {}
        self._failures = dict.fromkeys(profiles, 0)
        self._not_before = dict.fromkeys(profiles, 0.0)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._sandboxes.values()))

    def get(self, name: str) -> Sandbox | None:
        """The sandbox of that name, unless it is gone."""
        return self._sandboxes.get(name)

    def by_token(self, token: str) -> Sandbox:
        """The sandbox lent under this token. Raises `KeeperRefused` when that lease is over."""
        for sandbox in self._sandboxes.values():
            if sandbox.state is State.LEASED and sandbox.lease and sandbox.lease.token == token:
                return sandbox
        raise KeeperRefused("That lease is over: it expired, was returned, or its sandbox was condemned.")

    # -- what happened -------------------------------------------------------------------------------------------

    def creating(self, name: str, generation: int, profile: str, now: float) -> Sandbox:
        """A sandbox is being made."""
        sandbox = Sandbox(name, generation, profile, State.CREATING, now)
        self._sandboxes[name] = sandbox
        return sandbox

    def booting(self, name: str, now: float) -> Sandbox:
        """Its container was started."""
        return self._move(name, State.BOOTING, now)

    def fit(self, name: str, now: float) -> Sandbox:
        """It was proven fit: at its birth, after a job, or again."""
        was = self._sandboxes[name].state
        sandbox = self._move(name, State.READY, now, proven=now, lease=None)
        if was is State.BOOTING:  # an old one that is still fit says nothing about making new ones
            self._failures[sandbox.profile] = 0
        return sandbox

    def lend(self, want: Want, attempt: str, token: str, now: float) -> Sandbox | None:
        """Lend a fit sandbox under `token`, or the one that this attempt has already; None when there is none.

        Raises `KeeperRefused` when the attempt has one that is not what it wants now.
        """
        mine = next((s for s in self._sandboxes.values() if s.lease and s.lease.attempt == attempt), None)
        if mine is not None:
            if Want(mine.profile, mine.trust_key or "") != want:
                raise KeeperRefused("That attempt has a sandbox already, of another profile or for another trust key.")
            return mine
        fit = [s for s in self._sandboxes.values() if _suits(s, want) and s.state is State.READY]
        if not fit:
            return None
        # One that has this key's caches first; then a fresh one, the longest ready of them.
        chosen = min(fit, key=lambda s: (s.trust_key is None, s.since))
        lease = Lease(attempt, token, now + LEASE_TERM)
        return self._move(chosen.name, State.LEASED, now, lease=lease, trust_key=want.trust_key)

    def renew(self, token: str, now: float) -> Sandbox:
        """The attempt is alive."""
        sandbox = self.by_token(token)
        lease = sandbox.lease
        return self._put(replace(sandbox, lease=lease and replace(lease, expires=now + LEASE_TERM)))

    def give_back(self, token: str, used: bool, now: float) -> Sandbox:
        """The attempt is over. The sandbox is inspected, or condemned when its profile recreates always."""
        sandbox = self.by_token(token)
        if used and (always := self._always_recreated(sandbox)):
            self._put(replace(sandbox, jobs=sandbox.jobs + 1))
            return self.condemn(sandbox.name, Fault.RECREATE_POLICY, always, now)
        # Unused by a fresh sandbox's first lease: nobody's leftovers are in it, so it belongs to nobody again.
        key = sandbox.trust_key if used or sandbox.jobs else None
        return self._move(sandbox.name, State.INSPECTING, now, lease=None, jobs=sandbox.jobs + used, trust_key=key)

    def probing(self, name: str, now: float) -> Sandbox:
        """An idle sandbox is being proven again."""
        return self._move(name, State.INSPECTING, now)

    def condemn(self, name: str, fault: Fault, reason: str, now: float) -> Sandbox:
        """It is not fit for another job. The first cause is kept; a sandbox on its way out stays there."""
        sandbox = self._sandboxes[name]
        if not is_alive(sandbox.state):
            return sandbox
        if sandbox.state in (State.CREATING, State.BOOTING):
            self._back_off(sandbox.profile, now)
        moved = self._move(name, State.CONDEMNED, now, lease=None, fault=fault, reason=reason)
        self.condemned.appendleft(moved)
        return moved

    def destroying(self, name: str, now: float) -> Sandbox:
        """It is being removed."""
        return self._move(name, State.DESTROYING, now)

    def stuck(self, name: str, now: float) -> Sandbox:
        """Its removal hangs or failed. It still counts against the capacity, and is tried again."""
        return self._move(name, State.STUCK, now)

    def gone(self, name: str, now: float) -> None:
        """Nothing of it is left."""
        self._move(name, State.GONE, now)
        del self._sandboxes[name]

    # -- what to do ----------------------------------------------------------------------------------------------

    def expired(self, now: float) -> list[Sandbox]:
        """The lent sandboxes whose lease was not renewed in time."""
        return [s for s in self._sandboxes.values() if s.state is State.LEASED and s.lease and s.lease.expires < now]

    def to_evict(self, wants: Iterable[Want]) -> list[Sandbox]:
        """For each want that nothing suits or will suit: the longest idle sandbox of another trust key."""
        evicted: list[Sandbox] = []
        for want in wants:
            mine = [s for s in self._sandboxes.values() if s.profile == want.profile and s not in evicted]
            coming = any(_suits(s, want) and is_alive(s.state) and s.state is not State.LEASED for s in mine)
            idle = [s for s in mine if s.state is State.READY]
            if not coming and idle and not self._room(want.profile):
                evicted.append(min(idle, key=lambda s: s.since))
        return evicted

    def plan(self, now: float) -> list[Action]:
        """What should be done now. Acting on it, and telling what came of it, is the caller's."""
        actions: list[Action] = []
        for sandbox in self._sandboxes.values():
            overdue = sandbox.state is State.STUCK and now - sandbox.since >= STUCK_RETRY
            if sandbox.state is State.CONDEMNED or overdue:
                actions.append(Destroy(sandbox.name))
            elif sandbox.state is State.READY and now - sandbox.proven >= PROBE_INTERVAL:
                actions.append(Probe(sandbox.name))
        for profile in self.profiles:
            if now >= self._not_before[profile]:
                actions += [Create(profile)] * self._room(profile)
        return actions

    def _always_recreated(self, sandbox: Sandbox) -> str | None:
        """Why this sandbox is thrown away however its job went, or None."""
        if self.profiles[sandbox.profile].recreate is Recreate.ALWAYS:
            return "Its profile recreates after each job."
        return "It served an untrusted job." if sandbox.trust_key == UNTRUSTED else None

    def _room(self, profile: str) -> int:
        counted = sum(s.profile == profile and _counts(s.state) for s in self._sandboxes.values())
        return max(0, self.profiles[profile].warm - counted)

    def _back_off(self, profile: str, now: float) -> None:
        self._failures[profile] += 1
        # The exponent is capped as well: a host that stays broken for hours would overflow a float.
        self._not_before[profile] = now + min(2.0 ** min(self._failures[profile] - 1, 10), _MAX_BACKOFF)

    def _move(self, name: str, target: State, now: float, **changes: object) -> Sandbox:
        sandbox = self._sandboxes[name]
        check_move(name, sandbox.state, target)
        return self._put(replace(sandbox, state=target, since=now, **changes))  # type: ignore[arg-type]

    def _put(self, sandbox: Sandbox) -> Sandbox:
        self._sandboxes[sandbox.name] = sandbox
        return sandbox


def _suits(sandbox: Sandbox, want: Want) -> bool:
    return sandbox.profile == want.profile and sandbox.trust_key in (None, want.trust_key)


def _counts(state: State) -> bool:
    """Whether a sandbox in this state takes up a place. One on its way out does not, so that its successor boots
    beside its removal; one whose removal hangs does, so that a wedged host is not flooded with new ones."""
    return is_alive(state) or state is State.STUCK
