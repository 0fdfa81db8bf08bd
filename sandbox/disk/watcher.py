"""Carries out what `watch` decides: looks at the host's file systems, measures, and tells the keeper. A thin shell.

The thread that looks and the threads that act never wait for each other; the latter may wait for the engine.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Protocol

from sandbox import child, processes
from sandbox.disk.watch import (
    MEASURE_TIME,
    NOTHING,
    Act,
    Amount,
    Condemn,
    DiskWatch,
    Evict,
    Freeze,
    Measure,
    Room,
    Thaw,
    Usage,
    Watched,
)
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.inspection.evidence import Baseline, Mount
from sandbox.inspection.places import IMPLICIT_FOLDERS
from sandbox.logs import Action, Events

events = Events("keeper")

LATE = 5.0
"""Seconds without a look after which nothing is lent: a file system of the host hangs."""
_ACTING = 32
_ANSWER_MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class Inside:
    """Folders of the host that only a sandbox's own mounts show: just the runtime knows where they are."""

    pid: int
    """The sandbox's first process."""
    start: int
    """The process's start time: process ids are used again."""
    mounts: tuple[Mount, ...]
    """The mounts at `ready`, before a job could mount something else there."""

    @classmethod
    def recorded(cls, baseline: Baseline) -> "Inside":
        """Return the mounts that sysbox makes by itself."""
        seen = baseline.evidence
        mounts = tuple(mount for mount in seen.mounts if mount.point in IMPLICIT_FOLDERS)
        return cls(baseline.init_pid, seen.init_start, mounts)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """One sandbox, as the keeper reports it for a look."""

    lent: bool
    """Whether somebody's processes run in it."""
    limit: int
    """`Profile.disk`."""
    container_id: str
    trees: tuple[str, ...]
    """The folders on the host with its files: the upper directory of its overlay, and its volumes."""
    inside: Inside | None = None


class Sandboxes(Protocol):
    """What the watcher needs of the keeper. Several of the watcher's threads call it at once."""

    def sandboxes(self) -> Mapping[str, OnDisk]:
        """Return every sandbox that is fit or lent, by name. Must be quick: every look asks."""

    def freeze(self, name: str) -> None:
        """Freeze a sandbox until `thaw`. Raises `SandboxFault` or `EngineError` when it cannot be frozen."""

    def thaw(self, name: str) -> None:
        """Thaw a sandbox; does nothing when it is not frozen, or gone. Raises `EngineError`."""

    def condemn(self, name: str, fault: Fault, sentence: str) -> None:
        """End a sandbox's job: it is unfit. A frozen one is not thawed again."""

    def evict(self, name: str, sentence: str) -> None:
        """Throw a sandbox away, unless it was lent in the meantime."""


class DiskWatcher:
    """Keeps the host's disk from running out. `run` takes a thread of its own until `stop`."""

    def __init__(
        self, watch: DiskWatch, keeper: Sandboxes, places: Sequence[Path], beside: Sequence[Path] = ()
    ) -> None:
        """`places`: where the engine keeps its files (`DockerRootDir`, and containerd's folder when that holds images).

        `beside`: see `follow`.
        """
        self._watch = watch
        self._keeper = keeper
        self._places = places
        self._beside = beside
        self._looked = threading.Condition()
        """Guards `watch`; notified after each look."""
        self._stopping = threading.Event()
        self._acting = ThreadPoolExecutor(_ACTING, thread_name_prefix="disk")
        self._last_look = time.monotonic()
        self._seen: Mapping[str, OnDisk] = {}
        self._held: set[str] = set()
        """The frozen sandboxes, from the request to freeze until the thaw is done."""

    def follow(self, beside: Sequence[Path]) -> None:
        """From the next look on, also watch the folders where the runtime keeps what sandboxes write, if they exist."""
        self._beside = beside

    @property
    def refusal(self) -> str | None:
        """Say why nothing may be lent or made now; None when it may."""
        if (late := time.monotonic() - self._last_look) > LATE:
            places = ", ".join(map(str, [*self._places, *self._beside]))
            return (
                f"The host's disk ({places}) has not told for {late:.0f} s how much of it is left. Does it still work?"
            )
        with self._looked:
            return self._watch.refusal

    def is_frozen(self, name: str) -> bool:
        """Whether a sandbox is frozen until the host's disk has room again: it can be neither cleaned nor proven."""
        with self._looked:
            return name in self._held

    def wait_while_frozen(self, name: str, deadline: float) -> None:
        """Wait until a sandbox can be cleaned or proven.

        Raises `SandboxFault` (`host-disk`) when it is still frozen at the monotonic `deadline`: its removal makes room.
        """
        with self._looked:
            if not self._looked.wait_for(lambda: name not in self._held, max(0.0, deadline - time.monotonic())):
                raise SandboxFault(
                    Fault.HOST_DISK, "It stood still since the host's disk is short, and could not be looked at."
                )

    @property
    def rooms(self) -> list[Room]:
        """The watched file systems, as of the last look."""
        with self._looked:
            return self._watch.rooms

    def usage(self, name: str) -> Usage | None:
        """Return what a sandbox took at its last measurement."""
        with self._looked:
            return self._watch.usage(name)

    def run(self) -> None:
        """Look until `stop` is called. A failing look is logged and does not end the loop."""
        trouble, refused = "", None
        while not self._stopping.is_set():
            try:
                self.look_once()
                trouble = ""
            except Exception as error:  # noqa: BLE001 - the next look may work
                if repr(error) != trouble:
                    events.error(Action.DEFECT, "cannot look after the host's disk", error=error)
                trouble = repr(error)
            if (refused is None) != ((refusal := self.refusal) is None):
                _tell(refusal)
            refused = refusal
            self._stopping.wait(self._watch.next_look)
        self._acting.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """End `run` soon. Frozen sandboxes stay frozen, for the caller to end or thaw."""
        self._stopping.set()

    def look_once(self) -> None:
        """Look once; other threads carry out what follows. Raises `OSError`."""
        found = rooms(self._places, self._beside)
        self._seen = self._keeper.sandboxes()
        watched = {name: Watched(sandbox.lent, sandbox.limit) for name, sandbox in self._seen.items()}
        with self._looked:
            actions = self._watch.look(time.monotonic(), found, watched)
            self._held &= watched.keys()
            self._held |= {action.name for action in actions if isinstance(action, Freeze)}
            self._looked.notify_all()
        self._last_look = time.monotonic()
        self._begin(actions)

    def _begin(self, actions: Iterable[Act]) -> None:
        for action in actions:
            if not self._stopping.is_set():
                self._acting.submit(self._do, action)

    def _do(self, action: Act) -> None:
        try:
            match action:
                case Measure(name):
                    self._measure(action, self._seen.get(name))
                case Freeze(name) | Thaw(name):
                    self._settle(name)
                case Condemn(name, fault, sentence):
                    with suppress(SandboxFault, EngineError):  # its removal ends it as well
                        self._keeper.freeze(name)
                    self._keeper.condemn(name, fault, sentence)
                case Evict(name, sentence):
                    self._keeper.evict(name, sentence)
        except (EngineError, SandboxFault) as error:
            what = type(action).__name__.lower()
            events.warning(Action.DISK_ACT_FAILED, f"{what} failed: {error}", sandbox=action.name)
            if isinstance(action, Freeze | Thaw):
                self._failed(action)
        except Exception as error:  # noqa: BLE001 - the others are still looked after
            events.error(Action.DEFECT, "a defect in the keeper", error=error, sandbox=action.name)

    def _settle(self, name: str) -> None:
        """Freeze or thaw a sandbox as is wanted by now: a slow engine may still be at an earlier request."""
        frozen: bool | None = None
        while frozen != (frozen := self._is_wanted_frozen(name)):
            (self._keeper.freeze if frozen else self._keeper.thaw)(name)
        if not frozen:
            with self._looked:
                self._held.discard(name)
                self._looked.notify_all()

    def _is_wanted_frozen(self, name: str) -> bool:
        with self._looked:
            return self._watch.is_frozen(name)

    def _failed(self, action: Freeze | Thaw) -> None:
        with self._looked:
            self._watch.failed(action)
            if isinstance(action, Freeze):
                self._held.discard(action.name)

    def _measure(self, action: Measure, sandbox: OnDisk | None) -> None:
        usage = None
        try:
            usage = measure(sandbox) if sandbox else None
        finally:  # whatever went wrong, the watch waits for an answer
            with self._looked:
                actions = self._watch.measured(action, time.monotonic(), usage)
            self._begin(actions)


def _tell(refusal: str | None) -> None:
    if refusal is None:
        events.info(Action.DISK_WELL, "The host's disk has room again.")
    else:
        events.warning(Action.DISK_SHORT, refusal)


def rooms(places: Sequence[Path], beside: Sequence[Path] = ()) -> list[Room]:
    """Return the file systems of these places, each once. Raises `OSError`, except for a missing one of `beside`."""
    found = {(device := place.stat().st_dev): _room(place, device) for place in places}
    for place in beside:
        with suppress(FileNotFoundError):  # sysbox removes its folder when it stops, with every sandbox's files
            device = place.stat().st_dev
            if device not in found:
                found[device] = _room(place, device)
    return list(found.values())


def _room(place: Path, device: int) -> Room:
    status = os.statvfs(place)
    # Space that the file system keeps for the host's root (as ext4 does) counts as taken, since no job gets it.
    return Room(
        str(place),
        size=Amount(status.f_blocks * status.f_frsize, status.f_files),
        free=Amount(status.f_bavail * status.f_frsize, status.f_favail),
        device=device,
    )


def measure(sandbox: OnDisk, seconds: float = MEASURE_TIME) -> Usage | None:
    """Measure what a sandbox takes on the host's disk; None when there is no answer within `seconds` and a little."""
    pids = [process.pid for process in processes.of_container(sandbox.container_id)]
    order = {"trees": sandbox.trees, "inside": _inside(sandbox.inside), "pids": pids, "seconds": seconds}
    try:
        answer = child.ask(
            "sandbox.disk.measure", json.dumps(order).encode(), time.monotonic() + seconds + _ANSWER_MARGIN
        )
    except child.NoAnswer as error:
        what = f"the disk usage of container {sandbox.container_id[:12]} is not known: {error}"
        events.warning(Action.DISK_UNKNOWN, what)
        return None
    found = json.loads(answer)
    parts = {device: Amount(size, files) for device, size, files in found["parts"]}
    return Usage(reduce(Amount.plus, parts.values(), NOTHING), found["complete"], parts)


def _inside(inside: Inside | None) -> dict[str, object] | None:
    if inside is None or not inside.mounts:
        return None
    return {"pid": inside.pid, "start": inside.start, "mounts": inside.mounts}
