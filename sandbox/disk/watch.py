"""Decides which sandboxes are measured, frozen and condemned, so that the host's disk never runs out. Pure.

No I/O, no clock. Everything follows from the *seconds left*: the least time until the host's reserve is touched, if
everything that runs writes as fast as this host can. The next look comes before that time is over. When there is no
time for another look, everything lent is first frozen and then measured; the sandbox that grew most is condemned, and
the others go on when its space has come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple

from sandbox.errors import Fault

FREEZE_TIME = 1.0
"""Seconds from a look that orders it until nothing lent writes any more, including a late thread and a slow engine: a
pause takes 0.05 to 0.1."""
SHORTEST_LOOK = 0.1
LONGEST_LOOK = 1.0
ALARM = FREEZE_TIME + SHORTEST_LOOK
"""With fewer seconds left, there is no time for another look."""
RELIEF = 2 * ALARM
"""With more seconds left, frozen sandboxes go on; with fewer, nothing new is lent or made."""
RELIEF_TIME = 10.0
"""Seconds in which a condemned sandbox's space should come back. A runner misses a frozen one after 20."""
MEASURE_TIME = 5.0
"""Seconds to measure a sandbox; the count by then is its minimum."""
PERIOD = 30.0
"""Seconds between two measurements of a lent sandbox, even when the host's disk shows no writes."""
REST = 4
"""After a slow measurement, a sandbox is left alone for this many times its duration."""
FASTEST = 2 * 1024**3
"""Bytes per second that a host's disk takes, unless configured: a fast SSD's rate; the fastest ones exceed it."""
FASTEST_FILES = 250_000
"""Files per second that everything that runs can make. One process made 120,000 (ext4)."""
CACHE = 256 * 1024**2
"""Bytes in an idle sandbox that make its recreation worthwhile when the disk is short. A fresh one takes a few MiB."""

_GIB = 1024**3


class Amount(NamedTuple):
    """An amount of disk: bytes and files (inodes)."""

    bytes: int
    files: int

    def minus(self, other: "Amount") -> "Amount":
        """Subtract, but not below zero."""
        return Amount(max(0, self.bytes - other.bytes), max(0, self.files - other.files))

    def plus(self, other: "Amount") -> "Amount":
        """Add up."""
        return Amount(self.bytes + other.bytes, self.files + other.files)


NOTHING = Amount(0, 0)


class Room(NamedTuple):
    """A file system of the host that sandboxes take space on. A size of no files means that files are unlimited."""

    place: str
    size: Amount
    free: Amount
    """Free for processes other than the host's root, such as a sandbox's root."""
    device: int = 0
    """The kernel's device number."""


class Watched(NamedTuple):
    """What the watch needs to know of one sandbox."""

    lent: bool
    """Whether somebody's processes run in it; if not, only its caches matter."""
    limit: int
    """Bytes that its profile allows."""


class Usage(NamedTuple):
    """What one sandbox takes on the disk."""

    amount: Amount
    complete: bool
    """False when there was too much to count in time."""
    parts: Mapping[int, Amount] = MappingProxyType({})
    """By file system (`Room.device`)."""


class Measure(NamedTuple):
    """Measure this sandbox and call `measured`, within `MEASURE_TIME` and a little."""

    name: str
    asked: float


class Freeze(NamedTuple):
    """Stop every process of this sandbox, within `FREEZE_TIME`."""

    name: str


class Thaw(NamedTuple):
    """Let this sandbox go on."""

    name: str


class Condemn(NamedTuple):
    """End this sandbox's job and throw it away. Freeze it first, since a removal may take long."""

    name: str
    fault: Fault
    sentence: str


class Evict(NamedTuple):
    """Throw this sandbox away for its caches, unless it was lent in the meantime."""

    name: str
    sentence: str


Act = Measure | Freeze | Thaw | Condemn | Evict


@dataclass(slots=True)
class _Known:
    """What is known of one sandbox."""

    watched: Watched
    usage: Usage | None = None
    before: Usage | None = None
    """What it took at the second last measurement."""
    taken_since: dict[str, Amount] = field(default_factory=dict)
    """What the host lost since this sandbox's last measurement began, by `Room.place`."""
    due: float = 0.0
    """While all is well, the earliest time for its next measurement."""
    looked_at: bool = False
    """Whether it was measured since it was lent or returned; in an alarm, since it was frozen."""
    asked: float | None = None
    """When the present measurement was asked for."""
    frozen: bool = False


class DiskWatch:
    """The watch of one keeper. Not thread-safe: `watcher` serialises access."""

    def __init__(self, fastest: int = FASTEST, reserve: int | None = None) -> None:
        """`fastest`: bytes per second that this host's disk can take; `reserve`: bytes that jobs may never use."""
        self.follow(fastest, reserve)
        self._sandboxes: dict[str, _Known] = {}
        self._condemned: set[str] = set()
        """On their way out, but perhaps still in the next listing."""
        self._rooms: dict[str, Room] = {}
        self._alarm: float | None = None
        """When everything lent was frozen; None without an alarm."""
        self._patience = 0.0
        """Until when to wait for the space of what was thrown away."""
        self._most_left = 0.0
        """The most seconds left since the alarm began: while this rises, space is coming back."""

    def follow(self, fastest: int, reserve: int | None) -> None:
        """Use other numbers from the next look on. Any thread may call this."""
        self._fastest = Amount(fastest, FASTEST_FILES)
        self._reserve = reserve

    # -- what is asked -------------------------------------------------------------------------------------------

    @property
    def refusal(self) -> str | None:
        """Say why nothing may be lent or made now; None when it may."""
        if self._alarm is None and self._seconds_left() >= RELIEF:
            return None
        return f"{self._shortage()} Nothing is lent until there is more; free some (docs/limits.md)."

    @property
    def next_look(self) -> float:
        """Seconds until `look` must be called again."""
        return max(SHORTEST_LOOK, min(LONGEST_LOOK, self._seconds_left() - FREEZE_TIME))

    @property
    def rooms(self) -> list[Room]:
        """The file systems, as of the last look."""
        return list(self._rooms.values())

    def is_frozen(self, name: str) -> bool:
        """Whether a sandbox should be frozen: until a thaw, or for good when it is condemned."""
        return name in self._condemned or (name in self._sandboxes and self._sandboxes[name].frozen)

    def usage(self, name: str) -> Usage | None:
        """Return what a sandbox took at its last measurement."""
        return self._sandboxes[name].usage if name in self._sandboxes else None

    # -- what happened -------------------------------------------------------------------------------------------

    def look(self, now: float, rooms: Sequence[Room], sandboxes: Mapping[str, Watched]) -> list[Act]:
        """Take in the host's present state; return what to do."""
        self._see(rooms)
        self._meet(sandboxes)
        if self._alarm is None and self._seconds_left() < ALARM:
            self._raise_alarm(now)
        elif self._alarm is not None and self._seconds_left() >= RELIEF:
            self._alarm = None
        if self._alarm is None:
            return [*self._thaw(), *self._evict(now), *self._measure_due(now)]
        if self._seconds_left() >= self._most_left + SHORTEST_LOOK:
            self._most_left = self._seconds_left()
            self._patience = max(self._patience, now + RELIEF_TIME / 2)
        return [*self._freeze(now), *(self._blame(now) or self._evict(now))]

    def measured(self, measure: Measure, now: float, usage: Usage | None) -> list[Act]:
        """Take in the result of a measurement; None means no answer."""
        name, asked = measure
        known = self._sandboxes.get(name)
        if known is None or known.asked != asked:  # an alarm asked for another one
            return []
        known.asked = None
        known.looked_at = True
        known.due = now + max(LONGEST_LOOK, REST * (now - asked))
        if usage is None:
            known.usage = known.usage and known.usage._replace(complete=False)
            return []
        known.before, known.usage = known.usage, usage
        if self._alarm is None:
            known.taken_since = {}
        limit = known.watched.limit
        if usage.amount.bytes > limit:
            return [self._condemn(name, Fault.DISK_LIMIT, _over_limit(usage, limit), now)]
        return []

    def failed(self, action: Freeze | Thaw) -> None:
        """Record a failed act: the next look asks for it again."""
        if action.name in self._sandboxes:
            self._sandboxes[action.name].frozen = isinstance(action, Thaw)

    # -- inside --------------------------------------------------------------------------------------------------

    def _see(self, rooms: Sequence[Room]) -> None:
        before, self._rooms = self._rooms, {room.place: room for room in rooms}
        for room in rooms:
            lost = before[room.place].free.minus(room.free) if room.place in before else NOTHING
            for known in self._sandboxes.values():
                known.taken_since[room.place] = known.taken_since.get(room.place, NOTHING).plus(lost)

    def _raise_alarm(self, now: float) -> None:
        self._alarm, self._patience, self._most_left = now, now, self._seconds_left()
        for known in self._sandboxes.values():
            known.looked_at, known.asked = False, None

    def _meet(self, sandboxes: Mapping[str, Watched]) -> None:
        self._condemned &= sandboxes.keys()
        for name in self._sandboxes.keys() - sandboxes.keys():
            del self._sandboxes[name]
        for name, watched in sandboxes.items():
            if name not in self._condemned:
                known = self._sandboxes.setdefault(name, _Known(watched))
                known.looked_at &= known.watched.lent == watched.lent
                known.watched = watched

    def _measure_due(self, now: float) -> list[Act]:
        """Measure one sandbox at a time while all is well, so that it costs at most a part of one processor."""
        if any(known.asked is not None for known in self._sandboxes.values()):
            return []
        due = [name for name, known in self._sandboxes.items() if _is_due(known, now)]
        return [self._measure(min(due, key=lambda name: self._sandboxes[name].due), now)] if due else []

    def _measure(self, name: str, now: float) -> Measure:
        self._sandboxes[name].asked = now
        return Measure(name, now)

    def _thaw(self) -> list[Act]:
        frozen = [name for name, known in self._sandboxes.items() if known.frozen]
        for name in frozen:
            self._sandboxes[name].frozen = False
        return [Thaw(name) for name in frozen]

    def _freeze(self, now: float) -> list[Act]:
        """Freeze the lent sandboxes, then measure them: they do not change while frozen."""
        actions: list[Act] = []
        for name, known in self._sandboxes.items():
            if known.watched.lent and not known.frozen:
                known.frozen = True
                actions.append(Freeze(name))
            if known.frozen and not known.looked_at and known.asked is None:
                actions.append(self._measure(name, now))
        return actions

    def _blame(self, now: float) -> list[Act]:
        """Condemn one frozen sandbox when all are measured, and the next when its space does not come back."""
        frozen = {name: known for name, known in self._sandboxes.items() if known.frozen}
        if not frozen or now < self._patience or any(known.asked is not None for known in frozen.values()):
            return []
        worst = max(frozen, key=lambda name: self._guilt(frozen[name]))
        return [self._condemn(worst, Fault.HOST_DISK, self._filled_by(frozen[worst]), now)]

    def _evict(self, now: float) -> list[Act]:
        """Evict the idle sandbox with the largest caches, while the disk is short and no sandbox is frozen."""
        idle = {
            name: took
            for name, known in self._sandboxes.items()
            if not known.watched.lent and (took := self._part(known.usage).bytes) >= CACHE
        }
        enough = self._seconds_left() >= RELIEF
        if not idle or enough or now < self._patience or any(known.frozen for known in self._sandboxes.values()):
            return []
        largest = max(idle, key=lambda name: idle[name])
        self._patience = now + RELIEF_TIME
        return [Evict(largest, f"{self._shortage()} Its caches took {_bytes(idle[largest])}.")]

    def _condemn(self, name: str, fault: Fault, sentence: str, now: float) -> Condemn:
        self._patience = now + RELIEF_TIME
        del self._sandboxes[name]
        self._condemned.add(name)
        return Condemn(name, fault, sentence)

    # -- the host ------------------------------------------------------------------------------------------------

    def _seconds_left(self) -> float:
        return min((min(self._seconds_of(room)) for room in self._rooms.values()), default=0.0)

    def _seconds_of(self, room: Room) -> tuple[float, float]:
        left = room.free.minus(reserve_of(room, self._reserve))
        files = left.files / self._fastest.files if room.size.files else float("inf")
        return left.bytes / self._fastest.bytes, files

    def _tightest(self) -> Room:
        return min(self._rooms.values(), key=lambda room: min(self._seconds_of(room)))

    def _scarce(self) -> int:
        """Which part of an amount is short: 0 bytes, 1 files."""
        of_bytes, of_files = self._seconds_of(self._tightest())
        return int(of_files < of_bytes)

    def _shortage(self) -> str:
        if not self._rooms:
            return "The host's disk has not been looked at yet."
        room, scarce = self._tightest(), self._scarce()
        reserve = reserve_of(room, self._reserve)
        margin = _text(int(RELIEF * self._fastest[scarce]), scarce)
        return (
            f"The host's disk is short: {_text(room.free[scarce], scarce)} are left at {room.place}, of which "
            f"{_text(reserve[scarce], scarce)} are kept for the host and {margin} for what jobs can take before they "
            "are stopped."
        )

    def _part(self, usage: Usage | None) -> Amount:
        """The part of a usage on the file system that is short. Usage on no watched file system counts for the first.

        (Parts may have other device numbers: those of btrfs's subvolumes, and of an overlay's deleted files.)
        """
        if usage is None or not self._rooms:
            return NOTHING
        tightest, (first, *others) = self._tightest(), self._rooms.values()
        if tightest != first:
            return usage.parts.get(tightest.device, NOTHING)
        return usage.amount.minus(
            reduce(Amount.plus, (usage.parts.get(room.device, NOTHING) for room in others), NOTHING)
        )

    def _guilt(self, known: _Known) -> tuple[bool, bool, int, int]:
        """Rank guilt: who took half of the loss, then who could not be counted fully, then who grew or takes most."""
        if known.usage is None:
            return False, True, 0, 0
        scarce, whole = self._scarce(), self._part(known.usage)
        growth = whole.minus(self._part(known.before))[scarce]
        lost = known.taken_since.get(self._tightest().place, NOTHING)[scarce]
        return 0 < lost <= 2 * growth, not known.usage.complete, growth, whole[scarce]

    def _filled_by(self, known: _Known) -> str:
        if known.usage is None:
            took = "It could not be measured in time"
        else:
            scarce, (*_, growth, size) = self._scarce(), self._guilt(known)
            least = "" if known.usage.complete else "at least "
            grown, whole = _text(growth, scarce), _text(size, scarce)
            took = f"It took {grown} there since it was last measured, {least}{whole} in all, more than any other"
        return f"{self._shortage()} {took}."


def reserve_of(room: Room, configured: int | None = None) -> Amount:
    """Return what jobs may never use of a file system.

    Unless configured, 5 % of the bytes, at least 2 GiB and at most 20 GiB: that keeps the engine, the keeper and the
    runner's logs going for a long time, and 5 % of a large disk would be wasteful. 2 % of the inodes.
    """
    usual = min(max(room.size.bytes // 20, 2 * _GIB), 20 * _GIB)
    return Amount(usual if configured is None else configured, room.size.files // 50)


def _is_due(known: _Known, now: float) -> bool:
    """Whether to measure a sandbox now.

    A lent one after `PERIOD`, or when the host has lost half of what the sandbox may still take; an idle one once.
    """
    if now < known.due:
        return False
    if not known.looked_at or known.usage is None:
        return True
    limit = known.watched.limit
    lost = sum(amount.bytes for amount in known.taken_since.values())
    nearing = lost >= (limit - known.usage.amount.bytes) / 2
    return known.watched.lent and (nearing or now >= known.due + PERIOD)


def _over_limit(usage: Usage, limit: int) -> str:
    least = "" if usage.complete else "at least "
    return (
        f"It takes {least}{_bytes(usage.amount.bytes)} on the host's disk, its Docker images included; its profile "
        f"allows {_bytes(limit)} (`disk`)."
    )


def _text(number: int, scarce: int) -> str:
    return f"{number} files" if scarce else _bytes(number)


def _bytes(number: int) -> str:
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / 1024**2:.0f} MiB"
