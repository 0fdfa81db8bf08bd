"""Keeps the host's disk from running out: the keeper's side of `sandbox.disk`."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.config import KeeperConfig
from sandbox.disk.watch import DiskWatch, Room
from sandbox.disk.watcher import DiskWatcher, Inside, OnDisk
from sandbox.engine import Engine
from sandbox.errors import EngineError, Fault
from sandbox.inspection.places import SYSBOX_DATA
from sandbox.keeper.builder import Builder
from sandbox.keeper.stock import Stock
from sandbox.profile import SYSBOX
from sandbox.state import State

_AT_WORK: Final = frozenset({State.LEASED, State.ORPHANED, State.HELD})
_WATCHED: Final = _AT_WORK | {State.READY, State.INSPECTING}


class Storage:
    """Watches the disk in a thread of its own from `start` to `stop`. Any thread may call the other methods."""

    def __init__(self, config: KeeperConfig, stock: Stock, engine: Engine, builder: Builder) -> None:
        self._stock = stock
        self._engine = engine
        self._builder = builder
        self._watch = DiskWatch()
        self._watcher: DiskWatcher | None = None
        self.follow(config)

    def follow(self, config: KeeperConfig) -> None:
        """From the next look on, keep this configuration's reserve wherever its runtimes take space."""
        reserve = None if config.disk_reserve is None else int(config.disk_reserve)
        self._watch.follow(int(config.disk_fastest), reserve)
        uses_sysbox = any(profile.runtime == SYSBOX for profile in config.profiles.values())
        self._beside = [Path(SYSBOX_DATA)] if uses_sysbox else []
        if self._watcher:
            self._watcher.follow(self._beside)

    def start(self) -> None:
        """Begin, after the sandboxes of an earlier life were taken over. Raises `EngineError`."""
        self._watcher = DiskWatcher(self._watch, self, [self._engine.data_root()], self._beside)
        threading.Thread(target=self._watcher.run, name="disk", daemon=True).start()

    def stop(self) -> None:
        """End, before sandboxes are removed or left for another keeper. Thaws every frozen sandbox."""
        if self._watcher is None:
            return
        self._watcher.stop()
        for name in self.sandboxes():
            if self._watcher.is_frozen(name):
                with suppress(EngineError):  # its removal, or the next keeper, thaws it
                    self.thaw(name)

    @property
    def refusal(self) -> str | None:
        """Say why nothing may be lent or made now; None when it may."""
        return self._watcher.refusal if self._watcher else None

    @property
    def rooms(self) -> list[Room]:
        """The file systems that hold sandboxes, as of the last look."""
        return self._watcher.rooms if self._watcher else []

    @property
    def taken(self) -> Mapping[str, int]:
        """Bytes taken by each profile's sandboxes, by their last measurements."""
        if self._watcher is None:
            return {}
        with self._stock.changed:
            profiles = {sandbox.name: sandbox.profile for sandbox in self._stock.pool}
        taken = dict.fromkeys(profiles.values(), 0)
        for name, profile in profiles.items():
            if usage := self._watcher.usage(name):
                taken[profile] += usage.amount.bytes
        return taken

    def wait_while_frozen(self, name: str, deadline: float) -> None:
        """Wait until a sandbox may be cleaned or proven. Raises `SandboxFault` as the watcher does."""
        if self._watcher:
            self._watcher.wait_while_frozen(name, deadline)

    # -- what the watcher asks for (`sandbox.disk.watcher.Sandboxes`) ------------------------------------------------

    def sandboxes(self) -> Mapping[str, OnDisk]:
        """Return every sandbox that is fit or lent, by name."""
        with self._stock.changed:
            return {
                sandbox.name: OnDisk(
                    lent=sandbox.state in _AT_WORK,
                    limit=int(built.profile.disk),
                    container_id=built.container_id,
                    trees=built.trees,
                    inside=Inside.recorded(built.evidence),
                )
                for sandbox in self._stock.pool
                if sandbox.state in _WATCHED and (built := self._stock.built.get(sandbox.name))
            }

    def freeze(self, name: str) -> None:
        """Freeze a sandbox. Raises `SandboxFault` or `EngineError`."""
        if built := self._stock.built.get(name):
            self._builder.freeze(built)

    def thaw(self, name: str) -> None:
        """Thaw a sandbox. Raises `EngineError`."""
        if built := self._stock.built.get(name):
            self._builder.thaw(built)

    def condemn(self, name: str, fault: Fault, sentence: str) -> None:
        """Condemn a sandbox, which ends its job."""
        self._stock.condemn(name, fault, sentence)

    def evict(self, name: str, sentence: str) -> None:
        """Throw a sandbox away, unless it has been lent or is being inspected."""
        with self._stock.changed:
            sandbox = self._stock.pool.get(name)
            if sandbox and sandbox.state is State.READY:
                self._stock.condemn(name, Fault.HOST_DISK, sentence)
