"""Who is measured, stopped and condemned so that the host's disk never runs out. Pure: no I/O, no clock.

Everything follows from one number, the *seconds left*: how long it takes at least until the host's reserve is touched,
if everything that runs writes as fast as this host can. The next look comes before that time is over. When there is no
time for another look, everything lent is frozen first and measured then; the one that grew most is condemned, and the
others go on when its space has come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple

from sandbox.errors import Fault

FREEZE_TIME = 1.0
"""Seconds from a look that says so until nothing lent writes any more, with a late thread and a slow engine included: a
pause takes 0.05 to 0.1."""
SHORTEST_LOOK = 0.1
LONGEST_LOOK = 1.0
ALARM = FREEZE_TIME + SHORTEST_LOOK
"""Seconds left below which there is no time for another look."""
RELIEF = 2 * ALARM
"""Seconds left above which frozen sandboxes go on, and below which nothing new is lent or made."""
RELIEF_TIME = 10.0
"""Seconds in which the space of a condemned sandbox should come back. A runner misses a frozen one after 20."""
MEASURE_TIME = 5.0
"""Seconds for measuring a sandbox: what was counted until then is its least."""
PERIOD = 30.0
"""Seconds between two measurements of a lent sandbox, even when the host's disk does not tell that anybody wrote."""
REST = 4
"""A sandbox that took long to measure is left alone for this many times as long."""
FASTEST = 2 * 1024**3
"""Bytes that a host's disk takes in a second, unless configured: what a fast SSD does, and less than the fastest."""
FASTEST_FILES = 250_000
"""Files that can be made in a second by everything that runs. One process made 120,000 (ext4)."""
CACHE = 256 * 1024**2
"""Bytes in an idle sandbox that are worth recreating it when the disk is short. A fresh one takes a few MiB."""

_GIB = 1024**3


class Amount(NamedTuple):
    """Of disk: bytes, and files (inodes)."""

    bytes: int
    files: int

    def minus(self, other: "Amount") -> "Amount":
        """What is left of it, at least nothing."""
        return Amount(max(0, self.bytes - other.bytes), max(0, self.files - other.files))

    def plus(self, other: "Amount") -> "Amount":
        """Both together."""
        return Amount(self.bytes + other.bytes, self.files + other.files)


NOTHING = Amount(0, 0)


class Room(NamedTuple):
    """A file system of the host that sandboxes take space on. No files at all means that they are not limited."""

    place: str
    size: Amount
    free: Amount
    """As a process sees it that is not the host's root: a sandbox's root is none."""
    device: int = 0
    """Which one it is, by the kernel's number."""


class Watched(NamedTuple):
    """What the watcher has to know of one sandbox."""

    lent: bool
    """Whether somebody's processes run in it; if not, only its caches are of interest."""
    limit: int
    """Bytes that its profile allows it."""


class Usage(NamedTuple):
    """What one sandbox takes."""

    amount: Amount
    complete: bool
    """False when there was more than could be counted in time."""
    parts: Mapping[int, Amount] = MappingProxyType({})
    """By file system (`Room.device`)."""


class Measure(NamedTuple):
    """Measure this sandbox and tell (`measured`), within `MEASURE_TIME` and a little."""

    name: str
    asked: float


class Freeze(NamedTuple):
    """Stop every process of this sandbox, within `FREEZE_TIME`."""

    name: str


class Thaw(NamedTuple):
    """Let it go on."""

    name: str


class Condemn(NamedTuple):
    """End its job and throw it away. Frozen first, since a removal may take long."""

    name: str
    fault: Fault
    sentence: str


class Evict(NamedTuple):
    """Throw it away for its caches, unless it was lent meanwhile."""

    name: str
    sentence: str


Act = Measure | Freeze | Thaw | Condemn | Evict


@dataclass(slots=True)
class _Known:
    """What is known of one sandbox."""

    watched: Watched
    usage: Usage | None = None
    before: Usage | None = None
    """What it took at the measurement before."""
    taken_since: dict[str, Amount] = field(default_factory=dict)
    """What the host lost since its last measurement began, by `Room.place`."""
    due: float = 0.0
    """Not to be measured before, while all is well."""
    looked_at: bool = False
    """Since it was lent or came back; in an alarm, since it was frozen."""
    asked: float | None = None
    """When the measurement that is under way was asked for."""
    frozen: bool = False


class DiskWatch:
    """The watcher of one keeper. Not thread-safe: `watcher` serialises."""

    def __init__(self, fastest: int = FASTEST, reserve: int | None = None) -> None:
        """`fastest`: bytes that this host's disk can take in a second; `reserve`: bytes that jobs may never use."""
        self.follow(fastest, reserve)
        self._sandboxes: dict[str, _Known] = {}
        self._condemned: set[str] = set()
        """On their way out, and perhaps still in the next listing."""
        self._rooms: dict[str, Room] = {}
        self._alarm: float | None = None
        """Since when everything lent is frozen."""
        self._patience = 0.0
        """Until when the space of what was thrown away is waited for."""
        self._most_left = 0.0
        """The most seconds left since the alarm began: while that rises, space is coming back."""

    def follow(self, fastest: int, reserve: int | None) -> None:
        """Go by other numbers from the next look on. Safe in any thread."""
        self._fastest = Amount(fastest, FASTEST_FILES)
        self._reserve = reserve

    # -- what is asked -------------------------------------------------------------------------------------------

    @property
    def refusal(self) -> str | None:
        """Why nothing may be lent or made now, as a sentence; None when it may."""
        if self._alarm is None and self._seconds_left() >= RELIEF:
            return None
        return f"{self._shortage()} Nothing is lent until there is more; free some (docs/limits.md)."

    @property
    def next_look(self) -> float:
        """Seconds until `look` must be called again."""
        return max(SHORTEST_LOOK, min(LONGEST_LOOK, self._seconds_left() - FREEZE_TIME))

    @property
    def rooms(self) -> list[Room]:
        """The file systems, as they were at the last look."""
        return list(self._rooms.values())

    def is_frozen(self, name: str) -> bool:
        """Whether it should stand still: until it is told to go on, or for good when it is condemned."""
        return name in self._condemned or (name in self._sandboxes and self._sandboxes[name].frozen)

    def usage(self, name: str) -> Usage | None:
        """What it took when it was last measured."""
        return self._sandboxes[name].usage if name in self._sandboxes else None

    # -- what happened -------------------------------------------------------------------------------------------

    def look(self, now: float, rooms: Sequence[Room], sandboxes: Mapping[str, Watched]) -> list[Act]:
        """The host as it is now: what should be done."""
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
        """What came of a measurement; None: there was no answer."""
        name, asked = measure
        known = self._sandboxes.get(name)
        if known is None or known.asked != asked:  # an alarm wants another one
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
        """It could not be done: the next look asks for it again."""
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
        """One at a time while all is well, so that it costs a part of one processor at most."""
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
        """Freeze what is lent, then measure it: what is frozen does not change while it is counted."""
        actions: list[Act] = []
        for name, known in self._sandboxes.items():
            if known.watched.lent and not known.frozen:
                known.frozen = True
                actions.append(Freeze(name))
            if known.frozen and not known.looked_at and known.asked is None:
                actions.append(self._measure(name, now))
        return actions

    def _blame(self, now: float) -> list[Act]:
        """Condemn one of the frozen ones when all are measured, and the next when its space did not come back."""
        frozen = {name: known for name, known in self._sandboxes.items() if known.frozen}
        if not frozen or now < self._patience or any(known.asked is not None for known in frozen.values()):
            return []
        worst = max(frozen, key=lambda name: self._guilt(frozen[name]))
        return [self._condemn(worst, Fault.HOST_DISK, self._filled_by(frozen[worst]), now)]

    def _evict(self, now: float) -> list[Act]:
        """While the disk is short, and nobody waits for it frozen: throw away the idle one with the largest caches."""
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
        """What of it is on the file system that is short. What is on none that is watched is on the first one.

        (Its parts may be told by other numbers: subvolumes of btrfs are, and deleted files of an overlay.)
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
        """The one to blame has the most: who took half of what is gone; else who hides how much; else who took most."""
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
    """What jobs may never use of a file system.

    Unless configured 5 %, at least 2 GiB, at most 20 GiB: the engine, the keeper and the runner's logs go on with that
    for a long time, and 5 % of a large disk would be wasted. Of the inodes 2 %.
    """
    usual = min(max(room.size.bytes // 20, 2 * _GIB), 20 * _GIB)
    return Amount(usual if configured is None else configured, room.size.files // 50)


def _is_due(known: _Known, now: float) -> bool:
    """A lent one after `PERIOD`, or when the host has lost half of what it may still take; an idle one once."""
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
