"""The warm pool: which sandboxes exist, what state each is in, and what to do next. Pure: no I/O, no clock.

The keeper reports what happened and asks `plan` what to do. The caller passes in every moment, in seconds.
"""

import secrets
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sandbox.acts import Act, Create, Destroy, Prepare, Probe, Replace, Start, Try
from sandbox.errors import ConfigError, Fault, KeeperRefused
from sandbox.profile import Profile, Recreate
from sandbox.rollout import Rollout
from sandbox.state import BEING_MADE, IN_ADVANCE, State, can_be_condemned, check_move, is_alive

LEASE_TERM = 30.0
"""Seconds that a lease lasts without a renewal."""
CONTAINER_INTERVAL = 60.0
"""Seconds after which a sandbox must run a container again: after its job, or at once when it is idle. Idle sandboxes
of a profile take turns, so that another can be lent."""
UNTRUSTED = "untrusted"
"""The trust key of jobs that must not even follow each other: each gets a fresh sandbox, which is thrown away
afterwards."""
STUCK_RETRY = 30.0
"""Seconds between attempts to remove a sandbox whose removal hangs."""
PREPARE_RETRY = 60.0
"""Seconds until the next attempt after a sandbox made in advance failed or was taken away. Nobody waits for it."""
_REMEMBERED = 50
_PROVEN = frozenset({State.READY, State.LEASED, State.ORPHANED, State.INSPECTING, State.HELD})
_NOTHING_LEFT = frozenset({Fault.GONE, Fault.STOPPED, Fault.RUNTIME_LOST})


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt's right to one sandbox, until `expires` unless renewed."""

    attempt: str
    token: str = field(repr=False)
    patience: float
    """Seconds after `expires` during which the attempt may still come back."""
    expires: float = 0.0
    renewed: bool = False
    """Whether the attempt ever began to use its sandbox; its patience counts only then."""

    def extended(self, now: float, *, renewed: bool = True) -> "Lease":
        """Return the same lease with a full term from now."""
        return replace(self, expires=now + LEASE_TERM, renewed=self.renewed or renewed)

    def may_be_resumed(self, now: float) -> bool:
        """Whether the attempt may still come back, after its term has ended."""
        return self.renewed and now < self.expires + self.patience


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the pool knows of one sandbox."""

    name: str
    generation: int
    profile: str
    state: State
    since: float
    """When it entered this state."""
    image: str = ""
    """The id of the image it was made from."""
    ran_container: float | None = None
    """When it was last seen to run a container, or was new; None when unknown since the keeper's start."""
    trust_key: str | None = None
    """Whose leftovers it may hold; None while it has served nobody."""
    jobs: int = 0
    served: float = 0.0
    """When its last job ended."""
    lease: Lease | None = None
    hold: float | None = None
    """Seconds to keep it for a person once its lease ends."""
    held_until: float = 0.0
    again: float = 0.0
    """When to retry the removal, if it is stuck."""
    fault: Fault | None = None
    reason: str | None = None

    def has_to_run_container(self, now: float) -> bool:
        """Whether the next proof must run a container: a job can break that without breaking logins."""
        return self.ran_container is None or now - self.ran_container >= CONTAINER_INTERVAL


@dataclass(frozen=True, slots=True)
class Want:
    """A request that waits for a sandbox."""

    profile: str
    trust_key: str
    came: float = 0.0
    """When it came: requests are served in this order."""


class Pool:
    """The sandboxes of one keeper. Not thread-safe: the keeper serialises access."""

    def __init__(self, profiles: Mapping[str, Profile], on_change: Callable[[Sandbox], None] = lambda _: None) -> None:
        """`on_change` is called with every changed sandbox, during the change."""
        self.profiles = profiles
        self.rollouts: dict[str, Rollout] = {}
        """By profile. A profile without a rollout uses whatever image its name means to the engine."""
        self._on_change = on_change
        self.condemned: deque[Sandbox] = deque(maxlen=_REMEMBERED)
        self.counts: Counter[Fault] = Counter()
        """How many sandboxes were thrown away, by fault."""
        self._sandboxes: dict[str, Sandbox] = {}
        self._prepare_from: dict[str, float] = {}
        """By profile: when a sandbox may be made in advance again."""
        self._ended: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        """The tokens of leases that were taken away, each with the reason."""

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._sandboxes.values()))

    def get(self, name: str) -> Sandbox | None:
        """Return the sandbox of that name, or None when it is gone."""
        return self._sandboxes.get(name)

    def by_token(self, token: str) -> Sandbox:
        """Return the sandbox lent under this token, orphaned or not. Raises `KeeperRefused` when that lease is over."""
        for sandbox in self._sandboxes.values():
            if sandbox.lease and secrets.compare_digest(sandbox.lease.token, token):
                return sandbox
        ended = next((reason for over, reason in self._ended if secrets.compare_digest(over, token)), None)
        raise KeeperRefused(f"That lease is over: {ended or 'it was returned, or never was.'}")

    # -- what happened -------------------------------------------------------------------------------------------

    def named(self, profile: str, image: str) -> None:
        """Record which image the profile's image name means now."""
        rollout = self.rollouts.setdefault(profile, Rollout(self._image_in_use(profile) or image))
        rollout.named(image)
        if any(s.profile == profile and s.image == image and s.state in _PROVEN for s in self):
            rollout.proven(image)

    def creating(self, name: str, generation: int, profile: str, image: str, now: float) -> Sandbox:
        """Add a sandbox that is being made."""
        return self._put(Sandbox(name, generation, profile, State.CREATING, now, image))

    def preparing(self, name: str, generation: int, profile: str, image: str, now: float) -> Sandbox:
        """Add a sandbox that is being made in advance."""
        return self._put(Sandbox(name, generation, profile, State.PREPARING, now, image))

    def prepared(self, name: str, now: float) -> Sandbox:
        """Record that a sandbox only has to be started."""
        return self._move(name, State.PREPARED, now)

    def starting(self, name: str, now: float) -> Sandbox:
        """Record that a prepared sandbox is needed and being started."""
        return self._move(name, State.CREATING, now)

    def booting(self, name: str, now: float) -> Sandbox:
        """Record that the container was started."""
        return self._move(name, State.BOOTING, now)

    def fit(self, name: str, now: float, *, ran_container: bool = False) -> Sandbox:
        """Record that a sandbox was proven fit: at birth, after a job, or while idle."""
        sandbox = self._sandboxes[name]
        ran = now if ran_container or sandbox.state is State.BOOTING else sandbox.ran_container
        if rollout := self.rollouts.get(sandbox.profile):
            rollout.proven(sandbox.image)
        return self._move(name, State.READY, now, ran_container=ran, lease=None)

    def follow(self, profiles: Mapping[str, Profile]) -> None:
        """Use other profiles from now on. Raises `ConfigError` when a profile with sandboxes is missing."""
        if missing := sorted({s.profile for s in self} - set(profiles)):
            raise ConfigError(
                f"The configuration lacks {', '.join(missing)}, and there are sandboxes of it. "
                "Restart the keeper to do without."
            )
        self.profiles = profiles

    def adopt(self, sandbox: Sandbox, now: float) -> Sandbox:
        """Take over a sandbox from an earlier life of the keeper: give a lent one a full term, inspect an idle one."""
        if sandbox.state is State.HELD:
            return self._put(sandbox)
        if sandbox.lease is not None:
            return self._put(replace(sandbox, state=State.LEASED, since=now, lease=sandbox.lease.extended(now)))
        return self._put(replace(sandbox, state=State.INSPECTING, since=now))

    def leave(self, name: str, generation: int, profile: str, now: float) -> Sandbox:
        """Add a sandbox that an earlier life of the keeper left and that is not taken over: it will be destroyed."""
        left = Sandbox(name, generation, profile, State.CONDEMNED, now, reason="An earlier life of the keeper left it.")
        return self._put(left)

    def lend(self, want: Want, lease: Lease, now: float, waiting: Iterable[Want] = ()) -> Sandbox | None:
        """Lend a fit sandbox, or the one that this attempt already has. Returns None when there is none.

        Idle sandboxes are shared out among all who are `waiting`, so that nobody is overtaken. Raises `KeeperRefused`
        when the attempt already has a sandbox that differs from what it wants now.
        """
        if (mine := self._lent_to(want, lease)) is not None:
            return mine
        if not any(_suits(s, want) and s.state is State.READY for s in self):  # the usual case for a waiting request
            return None
        chosen = next((s for one, s in self._shares({*waiting, want}) if one == want and _suits(s, want)), None)
        if chosen is None:
            return None
        lent = lease.extended(now, renewed=False)
        return self._move(chosen.name, State.LEASED, now, lease=lent, trust_key=want.trust_key)

    def renew(self, token: str, now: float) -> Sandbox:
        """Renew the lease: the attempt is alive."""
        sandbox = self.by_token(token)
        assert sandbox.lease is not None
        return self._move(sandbox.name, State.LEASED, now, lease=sandbox.lease.extended(now))

    def run_out(self, now: float) -> list[Sandbox]:
        """Orphan the sandboxes whose expired lease may be resumed; return those whose lease may not."""
        over = []
        for sandbox in self:
            lease = sandbox.lease
            if lease is None or lease.expires >= now:
                continue
            if lease.may_be_resumed(now):
                self._move(sandbox.name, State.ORPHANED, now)
            else:
                over.append(sandbox)
        return over

    def give_back(self, token: str, used: bool, now: float) -> Sandbox:
        """End a lease. The sandbox is inspected, held for a person, or condemned when it is always recreated."""
        sandbox = self.by_token(token)
        if sandbox.hold is not None:
            return self._move(sandbox.name, State.HELD, now, lease=None, held_until=now + sandbox.hold)
        if used and (always := self._always_recreated(sandbox)):
            self._put(replace(sandbox, jobs=sandbox.jobs + 1))
            return self.condemn(sandbox.name, Fault.RECREATE_POLICY, always, now)
        # A fresh sandbox that its first lease did not use holds nobody's leftovers, so it belongs to nobody again.
        key = sandbox.trust_key if used or sandbox.jobs else None
        served = now if used else sandbox.served
        return self._move(
            sandbox.name, State.INSPECTING, now, lease=None, jobs=sandbox.jobs + used, served=served, trust_key=key
        )

    def probing(self, name: str, now: float) -> Sandbox:
        """Record that an idle sandbox is being proven again."""
        return self._move(name, State.INSPECTING, now)

    def condemn(self, name: str, fault: Fault, reason: str, now: float) -> Sandbox:
        """Mark a sandbox as unfit for another job. The first cause is kept; a sandbox on its way out stays there."""
        sandbox = self._sandboxes[name]
        if not can_be_condemned(sandbox.state):
            return sandbox
        if sandbox.lease is not None:
            self._ended.appendleft((sandbox.lease.token, reason))
        if sandbox.state in IN_ADVANCE:  # nobody had it, so it is neither counted nor remembered
            self._prepare_from[sandbox.profile] = now if fault.is_quiet else now + PREPARE_RETRY
            return self._move(name, State.CONDEMNED, now, fault=fault, reason=reason)
        if sandbox.state is not State.HELD:
            self.counts[fault] += 1
        if sandbox.state in BEING_MADE and (rollout := self.rollouts.get(sandbox.profile)):
            rollout.failed(sandbox.image, sandbox.since, fault, reason, now)
        hold = self._hold_instead(sandbox, fault)
        moved = self._move(
            name,
            State.CONDEMNED if hold is None else State.HELD,
            now,
            lease=None,
            fault=sandbox.fault or fault,
            reason=sandbox.reason or reason,
            held_until=now + (hold or 0.0),
        )
        if hold is None:
            self.condemned.appendleft(moved)
        return moved

    def hold(self, name: str, seconds: float, now: float) -> Sandbox:
        """Keep a sandbox for a person, from now on or from the end of its lease. A second call restarts the time."""
        sandbox = self._sandboxes[name]
        if sandbox.lease is not None:
            return self._put(replace(sandbox, hold=seconds))
        return self._move(name, State.HELD, now, held_until=now + seconds)

    def destroying(self, name: str, now: float) -> Sandbox:
        """Record that a sandbox is being removed."""
        return self._move(name, State.DESTROYING, now)

    def stuck(self, name: str, now: float, *, asked: bool = True) -> Sandbox:
        """Record that a removal hangs or failed: the sandbox still counts against the capacity, and is retried.

        When the engine was not even reached (`asked` is False), the retry is due at once.
        """
        return self._move(name, State.STUCK, now, again=now + STUCK_RETRY if asked else now)

    def gone(self, name: str, now: float) -> None:
        """Forget a sandbox: nothing of it is left."""
        self._move(name, State.GONE, now)
        del self._sandboxes[name]

    # -- what to do ----------------------------------------------------------------------------------------------

    def held_too_long(self, now: float) -> list[Sandbox]:
        """Return the sandboxes whose hold for a person is over."""
        return [s for s in self._sandboxes.values() if s.state is State.HELD and s.held_until < now]

    def to_evict(self, wants: Iterable[Want]) -> list[Sandbox]:
        """For each request that no sandbox suits or will suit: the longest idle sandbox of another trust key."""
        return [sandbox for want, sandbox in self._shares(wants) if not _suits(sandbox, want)]

    def plan(self, now: float) -> list[Act]:
        """Return what to do now. The caller checks that the host can bear it, does it and reports the outcome."""
        actions: list[Act] = []
        for sandbox in self._sandboxes.values():
            overdue = sandbox.state is State.STUCK and now >= sandbox.again
            if sandbox.state is State.CONDEMNED or overdue:
                actions.append(Destroy(sandbox.name))
        # The profile that lacks most comes first: the host bears only so many creations at once, and one busy profile
        # would otherwise keep the others out.
        for profile in sorted(self.profiles, key=lambda name: -self._room(name) / self.profiles[name].warm):
            actions += self._to_fill(profile)
            actions += self._to_renew(profile, now) or self._to_probe(profile, now)
        return actions or self._to_prepare(now)

    def is_outdated(self, sandbox: Sandbox) -> bool:
        """Whether the sandbox was made from another image than its profile's present one."""
        return sandbox.profile in self.rollouts and sandbox.image != self.rollouts[sandbox.profile].image

    def image_of(self, profile: str) -> str:
        """Return the image that sandboxes of this profile are made from."""
        return self.rollouts[profile].image if profile in self.rollouts else self.profiles[profile].image

    def _to_fill(self, profile: str) -> list[Act]:
        """Return the acts that fill the profile's free places; a prepared sandbox is started first."""
        image, room = self.image_of(profile), self._room(profile)
        lacking: list[Act] = [Create(profile, image)] * room
        if room and (prepared := self._prepared(profile)) and prepared.image == image:
            lacking[0] = Start(prepared.name, profile)
        return lacking

    def _to_prepare(self, now: float) -> list[Act]:
        """Prepare the next sandbox of one profile, while no profile has anything else to do."""
        if any(s.state in BEING_MADE | {State.PREPARING, State.STUCK} for s in self):
            return []
        lacking = (p for p in self.profiles if not self._prepared(p) and not self._candidate(p))
        due = (profile for profile in lacking if now >= self._prepare_from.get(profile, now))
        profile = next(due, None)
        return [] if profile is None else [Prepare(profile, self.image_of(profile))]

    def _to_renew(self, profile: str, now: float) -> list[Act]:
        """Return the next step to a new image: one extra sandbox proves it, then the others are replaced one by one."""
        rollout = self.rollouts.get(profile)
        if prepared := self._prepared(profile):
            # An unneeded prepared sandbox may have the last subnet, which the new image's trial needs.
            unneeded = self._candidate(profile) and not self._room(profile)
            if unneeded or self.is_outdated(prepared):
                return [Replace(prepared.name)]
        mine = [s for s in self if s.profile == profile and _counts(s.state)]
        if rollout is None or any(s.state in BEING_MADE or s.state is State.STUCK for s in mine):
            return []
        full = len(mine) > self.profiles[profile].warm
        if rollout.candidate is not None and not full:
            return [Try(profile, rollout.candidate)] if rollout.may_try(now) else []
        outdated = [s for s in mine if s.state is State.READY and self.is_outdated(s)]
        if not outdated:
            return []
        return [Replace(min(outdated, key=lambda s: s.since).name) if full else Create(profile, rollout.image)]

    def _to_probe(self, profile: str, now: float) -> list[Act]:
        mine = [s for s in self._sandboxes.values() if s.profile == profile]
        idle = [s for s in mine if s.state is State.READY and s.has_to_run_container(now)]
        if not idle or any(s.state is State.INSPECTING for s in mine):
            return []
        return [Probe(min(idle, key=lambda s: s.ran_container or 0.0).name)]

    def _shares(self, wants: Iterable[Want]) -> Iterator[tuple[Want, Sandbox]]:
        """Yield the waiting requests in order of arrival, each with the idle sandbox that it gets or evicts."""
        left = [s for s in self if is_alive(s.state) and s.lease is None and s.state is not State.HELD]
        for want in sorted(wants, key=lambda want: want.came):
            mine = [s for s in left if s.profile == want.profile]
            if share := self._share(want, mine):
                left.remove(share)
                yield want, share

    def _share(self, want: Want, among: Collection[Sandbox]) -> Sandbox | None:
        idle = [s for s in among if s.state is State.READY]
        if fit := [s for s in idle if _suits(s, want)]:
            # Among sandboxes with this key's caches, take the one with the newest, as a job builds on what the job
            # before it made. Then take a fresh one: from the present image first, the longest ready first.
            return min(fit, key=lambda s: (s.trust_key is None, self.is_outdated(s), -s.served, s.since))
        if not idle or any(_suits(s, want) for s in among) or self._room(want.profile):
            return None
        return min(idle, key=lambda s: s.since)

    def _lent_to(self, want: Want, lease: Lease) -> Sandbox | None:
        """Return the sandbox that this attempt already has."""
        for sandbox in self:
            if (has := sandbox.lease) is None or (has.attempt != lease.attempt and has.token != lease.token):
                continue
            # An attempt's id is no secret: only the token proves that the same attempt asks.
            same = has.attempt == lease.attempt and secrets.compare_digest(has.token, lease.token)
            if not same or (sandbox.profile, sandbox.trust_key) != (want.profile, want.trust_key):
                raise KeeperRefused("That attempt has a sandbox already, and not by this request.")
            return sandbox
        return None

    def _always_recreated(self, sandbox: Sandbox) -> str | None:
        """Why this sandbox is thrown away however its job went, or None."""
        if self.profiles[sandbox.profile].recreate is Recreate.ALWAYS:
            return "Its profile recreates after each job."
        return "It served an untrusted job." if sandbox.trust_key == UNTRUSTED else None

    def _hold_instead(self, sandbox: Sandbox, fault: Fault) -> float | None:
        """Seconds to hold a condemned sandbox instead: as a person asked, or as its profile says for broken ones.

        The profile's hold never takes its last place: people look at broken sandboxes while jobs go on.
        """
        if sandbox.state is State.HELD or fault in _NOTHING_LEFT:
            return None
        profile = self.profiles[sandbox.profile]
        held = sum(s.state is State.HELD and s.profile == sandbox.profile for s in self)
        by_profile = profile.hold and not fault.is_quiet and sandbox.trust_key is not None and held < profile.warm - 1
        return sandbox.hold if sandbox.hold is not None else (profile.hold if by_profile else None)

    def _is_trial(self, sandbox: Sandbox) -> bool:
        """Whether the sandbox is being made to try a new image, so that it may well fail."""
        rollout = self.rollouts.get(sandbox.profile)
        return rollout is not None and sandbox.state in BEING_MADE and sandbox.image == rollout.candidate

    def _prepared(self, profile: str) -> Sandbox | None:
        """Return the prepared sandbox of this profile: there is at most one."""
        return next((s for s in self if s.profile == profile and s.state is State.PREPARED), None)

    def _candidate(self, profile: str) -> str | None:
        return self.rollouts[profile].candidate if profile in self.rollouts else None

    def _image_in_use(self, profile: str) -> str | None:
        """Return the image of the profile's sandboxes that an earlier life of the keeper left."""
        return next((s.image for s in self if s.profile == profile and s.image and s.state in _PROVEN), None)

    def _room(self, profile: str) -> int:
        mine = [s for s in self._sandboxes.values() if s.profile == profile and _counts(s.state)]
        counted = sum(not self._is_trial(s) for s in mine)
        return max(0, self.profiles[profile].warm - counted)

    def _move(self, name: str, target: State, now: float, **changes: object) -> Sandbox:
        sandbox = self._sandboxes[name]
        check_move(name, sandbox.state, target)
        since = sandbox.since if target is sandbox.state else now
        return self._put(replace(sandbox, state=target, since=since, **changes))  # type: ignore[arg-type]

    def _put(self, sandbox: Sandbox) -> Sandbox:
        self._sandboxes[sandbox.name] = sandbox
        self._on_change(sandbox)
        return sandbox


def _suits(sandbox: Sandbox, want: Want) -> bool:
    return sandbox.profile == want.profile and sandbox.trust_key in (None, want.trust_key)


def _counts(state: State) -> bool:
    """Whether a sandbox in this state takes up a place.

    A sandbox on its way out does not, so that its successor boots during its removal. One whose removal hangs does, so
    that a wedged host is not flooded with new ones.
    """
    return is_alive(state) or state is State.STUCK
