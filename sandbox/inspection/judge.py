"""Judges a sandbox by its evidence. Pure: the same evidence gives the same verdict, and nothing is read here."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from types import MappingProxyType

from sandbox.inspection.evidence import Entry, Evidence, FileKind, Mount, Process
from sandbox.inspection.places import COMMAND_FOLDERS, JOB_FOLDERS, PLACES, Meaning, is_above_decisive, place_of
from sandbox.text import one_line

_SHOWN = 3
_LONGEST = 120


class VerdictKind(StrEnum):
    """What happens to a sandbox, from best to worst. The values are stable: logs and `--json` contain them."""

    CLEAN = "clean"
    """As it was at `ready`: it may serve the next job."""
    CLEANABLE = "cleanable"
    """What is left can be removed; the sandbox is looked at again afterwards."""
    USED = "used"
    """The job changed the system as jobs do: recreated, without a warning."""
    DAMAGED = "damaged"
    """Something that decides who gets in or what runs was changed, or the look failed: recreated, counted and
    logged."""


class ReasonKind(StrEnum):
    """Everything that can be said about a sandbox. The values are stable: logs, counters and `--json` contain them."""

    LOGIN = "login"
    ACCOUNTS = "accounts"
    START_UP = "start-up"
    PROGRAMS = "programs"
    LIBRARIES = "libraries"
    SCHEDULED = "scheduled"
    INNER_DOCKER = "inner-docker"
    NAMES = "names"
    DEVICES = "devices"
    SHADOWED = "shadowed"
    FOLDERS = "folders"
    JOB_FOLDERS = "job-folders"
    MOUNTS = "mounts"
    SERVICES = "services"
    NETWORK = "network"
    TOO_MUCH = "too-much"
    NOT_INSPECTED = "not-inspected"
    SYSTEM = "system"
    OTHER_MOUNTS = "other-mounts"
    OTHER_NETWORK = "other-network"
    LEFTOVERS = "leftovers"
    INNER_LEFTOVERS = "inner-leftovers"
    PROCESSES = "processes"
    OUT_OF_MEMORY = "out-of-memory"
    TOO_MANY_PROCESSES = "too-many-processes"


@dataclass(frozen=True, slots=True)
class Reason:
    """One observation. A `clean` reason is worth knowing and changes nothing."""

    kind: ReasonKind
    verdict: VerdictKind
    """The verdict that this reason alone would give."""
    sentence: str
    """What was seen, what was expected, and why it matters; one line, fit for a terminal."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict, with its reasons, worst first."""

    kind: VerdictKind
    reasons: tuple[Reason, ...]

    @property
    def causes(self) -> frozenset[ReasonKind]:
        """The kinds of the reasons for this verdict."""
        return frozenset(reason.kind for reason in self.reasons if reason.verdict is self.kind)

    def __str__(self) -> str:
        return " ".join(reason.sentence for reason in self.reasons if reason.verdict is self.kind)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a kind of reason means."""

    verdict: VerdictKind
    """The verdict from such a reason alone."""
    because: str
    """The end of the sentence, after the observation: what was expected and why that matters, or what is done about
    it."""


_NOTE, _LEFT, _USE, _DAMAGE = _FROM_BEST_TO_WORST = tuple(VerdictKind)

_REBUILD = "(a package that replaces one of the image's does so, too: build an image with the newer one)"

RULES: Mapping[ReasonKind, Rule] = MappingProxyType(
    {
        ReasonKind.LOGIN: Rule(_DAMAGE, "nothing there should change, since it decides who can log in"),
        ReasonKind.ACCOUNTS: Rule(
            _DAMAGE,
            "nothing there should change, since it decides who may do what "
            "(a package with a user of its own does so, too: build an image with it)",
        ),
        ReasonKind.START_UP: Rule(_DAMAGE, "nothing there should change, since the next job's programs read it"),
        ReasonKind.PROGRAMS: Rule(_DAMAGE, f"the next job would run something else than the image's {_REBUILD}"),
        ReasonKind.LIBRARIES: Rule(
            _DAMAGE, f"the next job's programs would be loaded with something else than the image's {_REBUILD}"
        ),
        ReasonKind.SCHEDULED: Rule(_DAMAGE, "nothing there should change, since it runs when its job is over"),
        ReasonKind.INNER_DOCKER: Rule(
            _DAMAGE, "nothing there should change, since it decides what the inner Docker Engine is and does"
        ),
        ReasonKind.NAMES: Rule(
            _DAMAGE, "nothing there should change, since it decides which machines the next job's names lead to"
        ),
        ReasonKind.DEVICES: Rule(_DAMAGE, "nothing there should change, since every program relies on it"),
        ReasonKind.SHADOWED: Rule(
            _DAMAGE, "the image has a program of that name, and the next job might run the job's instead"
        ),
        ReasonKind.FOLDERS: Rule(_DAMAGE, "it should be as in the image, since everything below depends on it"),
        ReasonKind.JOB_FOLDERS: Rule(_DAMAGE, "the next job should find the same folder there, and empty"),
        ReasonKind.MOUNTS: Rule(
            _DAMAGE, "the next job would see other files there than the image's, or the image's where others should be"
        ),
        ReasonKind.SERVICES: Rule(
            _DAMAGE, "it should run from start to end, since otherwise the sandbox is not the one that was proven"
        ),
        ReasonKind.NETWORK: Rule(
            _DAMAGE, "it should be as at the start, since the next job's connections would take another way"
        ),
        ReasonKind.TOO_MUCH: Rule(_DAMAGE, "that is more than is looked at, and nobody knows what else there is"),
        ReasonKind.NOT_INSPECTED: Rule(_DAMAGE, "what nobody could look at is not lent again"),
        ReasonKind.SYSTEM: Rule(_USE, "the next job should not find what an earlier one installed or wrote"),
        ReasonKind.OTHER_MOUNTS: Rule(_USE, "the next job should find the mount table as at the start"),
        ReasonKind.OTHER_NETWORK: Rule(
            _LEFT, "inner networks are removed after the job, and the next one should find no others either"
        ),
        ReasonKind.LEFTOVERS: Rule(_LEFT, "a job's own places are emptied after it"),
        ReasonKind.INNER_LEFTOVERS: Rule(_LEFT, "inner containers, volumes and networks are removed after the job"),
        ReasonKind.PROCESSES: Rule(_LEFT, "what a job leaves running is ended after it"),
        ReasonKind.OUT_OF_MEMORY: Rule(_NOTE, "the job may need a profile with more memory"),
        ReasonKind.TOO_MANY_PROCESSES: Rule(_NOTE, "the job may need a profile with more processes"),
    }
)

_INNER_MOUNTS = tuple(
    f"/var/lib/docker/{folder}/" for folder in ("buildkit", "containers", "overlay2", "tmp", "volumes")
)
"""Where inner Docker mounts file systems for containers, builds and volumes."""

Finding = tuple[ReasonKind, str, str]
"""The kind of the finding, the name of the thing, and what was done to it."""


def judge(then: Evidence, now: Evidence) -> Verdict:
    """Compare a sandbox's evidence now with that at `ready`."""
    findings: dict[ReasonKind, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for kind, name, what in _findings(then, now):
        findings[kind][what].append(name)
    reasons = [
        _reason(kind, f"{_names(names)} {'was' if len(names) == 1 else 'were'} {what}")
        for kind, by_what in findings.items()
        for what, names in by_what.items()
    ]
    return _verdict(reasons)


def not_inspected(why: str) -> Verdict:
    """Return the verdict for missing evidence. `why` is the rest of a sentence."""
    return _verdict([_reason(ReasonKind.NOT_INSPECTED, f"it could not be looked at from outside: {one_line(why)}")])


def _verdict(reasons: Sequence[Reason]) -> Verdict:
    worst_first = sorted(reasons, key=lambda reason: -_FROM_BEST_TO_WORST.index(reason.verdict))
    return Verdict(worst_first[0].verdict if reasons else VerdictKind.CLEAN, tuple(worst_first))


def _reason(kind: ReasonKind, seen: str) -> Reason:
    rule = RULES[kind]
    return Reason(kind, rule.verdict, f"{seen[0].upper()}{seen[1:]}; {rule.because}.")


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(_name(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return shown + more


def _name(name: str) -> str:
    text = one_line(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def _findings(then: Evidence, now: Evidence) -> Iterator[Finding]:
    if not now.complete:
        yield ReasonKind.TOO_MUCH, "more files than are looked at, or deeper ones,", "changed"
    yield from _mounts(then.mounts, now.mounts)
    yield from _files(then, now)
    yield from _processes(then.processes, now.processes)
    yield from _network(then, now)
    yield from _events(then, now)


# -- files -------------------------------------------------------------------------------------------------------------

_NEW, _CHANGED, _REMOVED, _REPLACED = "added", "changed", "removed", "replaced"
_RIGHTS = "given another owner or other permissions"


def _files(then: Evidence, now: Evidence) -> Iterator[Finding]:
    for path, entry in now.entries.items():
        before = then.entries.get(path)
        if (what := _change(before, entry)) and (kind := _file(then, path, entry, what)):
            yield kind, path, what
    if now.complete:
        yield from _vanished(then, now)
    for path in now.crowded:
        inner = place_of(path).meaning is Meaning.INNER
        yield ReasonKind.INNER_LEFTOVERS if inner else ReasonKind.LEFTOVERS, path, "filled"


def _vanished(then: Evidence, now: Evidence) -> Iterator[Finding]:
    """Find entries that the image did not have, were there at `ready` and have left no trace."""
    for path, before in then.entries.items():
        parent = _parent(path)
        # A missing parent, another mount on top, and a folder too large to read are findings of their own.
        is_told = parent in then.entries and parent not in now.entries
        unseen = parent in now.crowded or _mounts_above(path, then.mounts) != _mounts_above(path, now.mounts)
        if path in now.entries or before.kind is FileKind.DELETED or is_told or unseen:
            continue
        if kind := _file(then, path, before, _REMOVED):
            yield kind, path, _REMOVED


def _change(then: Entry | None, now: Entry) -> str | None:
    """Say what happened to an entry since `ready`; None for nothing."""
    before = then or now.image
    if now.kind is FileKind.DELETED:
        return _REMOVED if before and before.kind is not FileKind.DELETED else None
    if before is None or before.kind is FileKind.DELETED:
        return _NEW
    if now.kind is not before.kind:
        return _REPLACED
    if now.kind is FileKind.FOLDER:
        if (then and now.inode != then.inode) or (now.hides and not (then and then.hides)):
            return _REPLACED
        return None if (now.mode, now.uid, now.gid) == (before.mode, before.uid, before.gid) else _RIGHTS
    return None if then and (now.inode, now.ctime) == (then.inode, then.ctime) else _CHANGED


def _file(then: Evidence, path: str, now: Entry, what: str) -> ReasonKind | None:
    """Return the reason for a change, or None where changes are expected."""
    meaning = place_of(path).meaning
    if meaning is Meaning.JOB:
        return _job_file(path, what)
    if meaning in (Meaning.INNER, Meaning.SERVICE):
        return _service_file(meaning, path, now, what)
    if what is _NEW:
        return _added(then, path, now)
    is_top = path.count("/") == 1 and what in (_REMOVED, _REPLACED)
    return ReasonKind.FOLDERS if is_top or is_above_decisive(path) else _decided(meaning)


def _service_file(meaning: Meaning, path: str, now: Entry, what: str) -> ReasonKind | None:
    if path in PLACES and (what in (_REMOVED, _REPLACED) or now.kind is not FileKind.FOLDER):
        return ReasonKind.INNER_DOCKER
    is_left = meaning is Meaning.INNER and what is _NEW and path not in PLACES and now.kind is FileKind.FOLDER
    return ReasonKind.INNER_LEFTOVERS if is_left else None


def _job_file(path: str, what: str) -> ReasonKind:
    if what is _NEW:
        return ReasonKind.LEFTOVERS
    return ReasonKind.JOB_FOLDERS if path in JOB_FOLDERS else ReasonKind.START_UP


def _added(then: Evidence, path: str, now: Entry) -> ReasonKind:
    folder, _, name = path.rpartition("/")
    if folder in COMMAND_FOLDERS and name in then.commands:
        return ReasonKind.SHADOWED
    place = place_of(path)
    # Packages put links to their own units there; a plain file is somebody else's unit.
    is_link = place.meaning is Meaning.SCHEDULED and now.kind is not FileKind.FILE
    return _decided(place.meaning) if place.additions_decide and not is_link else ReasonKind.SYSTEM


def _decided(meaning: Meaning) -> ReasonKind:
    return ReasonKind(meaning)  # a place that decides has a reason of the same name


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


# -- mounts ------------------------------------------------------------------------------------------------------------


def _mounts(then: Sequence[Mount], now: Sequence[Mount]) -> Iterator[Finding]:
    before, after = Counter(map(_what, then)), Counter(map(_what, now))
    for mount in after - before:
        if (kind := _mounted(mount)) is not None:
            yield kind, f"{mount.type} on {mount.point}", "mounted"
    for mount in before - after:
        yield ReasonKind.MOUNTS, f"{mount.type} on {mount.point}", "unmounted, or mounted with other options"
    if not before - after and _propagation(then) - _propagation(now):
        yield ReasonKind.OTHER_MOUNTS, "the way in which mounts are shared with other namespaces", "changed"


def _what(mount: Mount) -> Mount:
    """Return a mount without the fields that may change by themselves: its number and its peers."""
    return mount._replace(id=0, propagation="")


def _propagation(mounts: Sequence[Mount]) -> set[tuple[str, str]]:
    return {(mount.point, mount.propagation) for mount in mounts}


def _mounted(mount: Mount) -> ReasonKind | None:
    """Return the reason for a new mount."""
    if mount.type == "nsfs" and mount.point.startswith("/run/docker/netns/"):
        return None  # inner Docker keeps the namespace of --network=host
    if mount.point.startswith(_INNER_MOUNTS):
        return ReasonKind.INNER_LEFTOVERS
    harmless = place_of(mount.point).meaning in (Meaning.JOB, Meaning.SYSTEM) and not is_above_decisive(mount.point)
    return ReasonKind.OTHER_MOUNTS if harmless else ReasonKind.MOUNTS


def _mounts_above(path: str, mounts: Sequence[Mount]) -> set[Mount]:
    """Return every mount that decides what a path shows; of two on one point, the later is on top."""
    points = {mount.point: mount for mount in mounts}
    return {mount for point, mount in points.items() if path == point or path.startswith(point.rstrip("/") + "/")}


# -- processes, network, limits ----------------------------------------------------------------------------------------


def _processes(then: Sequence[Process], now: Sequence[Process]) -> Iterator[Finding]:
    running = {(process.pid, process.start_time): process for process in now}
    for before in then:
        process = running.pop((before.pid, before.start_time), None)
        if process is None:
            yield ReasonKind.SERVICES, before.name, "ended"
        elif process.state in _STOPPED:
            yield ReasonKind.SERVICES, before.name, "stopped by a signal or a debugger"
        elif (process.program, process.mounts) != (before.program, before.mounts):
            yield ReasonKind.SERVICES, before.name, "turned into another program"
    for process in running.values():
        yield ReasonKind.PROCESSES, f"{process.name} ({process.pid})", "started"


_STOPPED = ("T", "t")


def _network(then: Evidence, now: Evidence) -> Iterator[Finding]:
    known = set(then.network.interfaces)
    for name in set(now.network.interfaces) - known:
        # Users choose the names of inner networks, and interfaces change names while they are made and unmade.
        yield ReasonKind.OTHER_NETWORK, f"interface {name}", "added"
    for name in known - set(now.network.interfaces):
        yield ReasonKind.NETWORK, f"interface {name}", "removed"
    before, after = (
        {route for route in look.network.routes if route[0] in known} for look in (then, now)
    )  # a new interface brings its own
    for routes, what in ((after - before, "added"), (before - after, "removed")):
        for interface, destination, *_ in sorted(routes):
            # Hexadecimal, in the host's byte order, as in /proc/net/route.
            network = IPv4Address(int.from_bytes(bytes.fromhex(destination), sys.byteorder))
            to = f"to {network}" if int(network) else "to everywhere"
            yield ReasonKind.NETWORK, f"the route {to} through {interface}", what


def _events(then: Evidence, now: Evidence) -> Iterator[Finding]:
    if now.events.out_of_memory > then.events.out_of_memory:
        yield ReasonKind.OUT_OF_MEMORY, "a process", "ended for want of memory"
    if now.events.too_many_processes > then.events.too_many_processes:
        yield ReasonKind.TOO_MANY_PROCESSES, "a process", "refused, since there were as many as allowed"
