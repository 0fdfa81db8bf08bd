"""The daemons on the host that a container runtime needs: when one ends, all sandboxes started under it are dead.

Without its sysbox-fs, a sandbox still reads as `running`, but cannot start a container, even after the daemon is back.
So the keeper records the very processes that a sandbox was started under, and checks that they are there.

A job may name a process of its own `sysbox-fs`. It does not count here: see `processes.of_host`.
"""

import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from sandbox import processes
from sandbox.errors import Fault, SandboxFault
from sandbox.processes import Process
from sandbox.profile import SYSBOX

SEARCH_INTERVAL = 1.0
"""Seconds between two searches for a missing daemon: each goes through every process of the host."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service that a runtime needs."""

    unit: str
    """Its name in systemd."""
    programs: tuple[str, ...]
    """The programs of its daemons, which must all run."""


@dataclass(frozen=True, slots=True, order=True)
class Daemon:
    """One daemon, as one process."""

    program: str
    process: Process


SERVICES: Mapping[str, Service] = MappingProxyType({SYSBOX: Service("sysbox", ("sysbox-fs", "sysbox-mgr"))})
"""By the runtime's name. No other runtime needs a daemon."""


def lost(rests_on: Iterable[Daemon], there: Container[Process]) -> SandboxFault | None:
    """Return the fault of a sandbox that was started under these daemons, given the running processes. Pure."""
    ended = [daemon.program for daemon in sorted(rests_on) if daemon.process not in there]
    if not ended:
        return None
    return SandboxFault(
        Fault.RUNTIME_LOST,
        f"Its container runtime was stopped or restarted under it: the {' and the '.join(ended)} that it was started "
        "with has ended, and nothing in it works any more.",
    )


def lacking(service: Service, running: Iterable[Daemon]) -> str | None:
    """Say which daemons of a service do not run; None when all do. Pure."""
    there = {daemon.program for daemon in running}
    missing = [program for program in service.programs if program not in there]
    if not missing:
        return None
    return f"{' and '.join(missing)} {'does' if len(missing) == 1 else 'do'} not run, without which no sandbox works."


def remedy(service: Service) -> str:
    """Say how to start a service, and how to find out why it ended."""
    return f"Start it: `systemctl start {service.unit}`. Why it ended: `journalctl -u '{service.unit}*'`."


def check(rests_on: Iterable[Daemon]) -> SandboxFault | None:
    """Check a sandbox that was started under these daemons. Asks only the kernel."""
    return lost(rests_on, still_there(rests_on))


def still_there(daemons: Iterable[Daemon]) -> frozenset[Process]:
    """Return those daemons' processes not seen to have ended: only an end that was seen ends jobs."""
    return frozenset(process for process in {daemon.process for daemon in daemons} if _may_be_there(process))


def running(programs: Iterable[str]) -> frozenset[Daemon]:
    """Return which of these programs run on the host. Raises `OSError` when that cannot be seen.

    Of several processes with one name, the oldest is the daemon: the others are its helpers.
    """
    found = processes.of_host(programs)
    return frozenset(
        Daemon(program, min(them, key=lambda one: (one.start_time, one.pid))) for program, them in found.items()
    )


class Daemons:
    """The running daemons, as of the last look. One thread looks; any thread may ask the rest.

    A daemon is missed only after it was seen to run: another installation of the runtime may use other names.
    """

    def __init__(self, sees_host: Callable[[], bool], services: Mapping[str, Service] | None = None) -> None:
        """`sees_host` returns whether the host's processes are visible; otherwise nothing is known."""
        self._sees_host = sees_host
        self._services = SERVICES if services is None else services
        self._sees: bool | None = None
        self._running: frozenset[Daemon] | None = None
        self._seen: frozenset[str] = frozenset()
        self._search_again = 0.0

    def look(self, runtimes: Iterable[str]) -> None:
        """Look for the daemons that these runtimes need. Raises `EngineError`."""
        services = [self._services[runtime] for runtime in set(runtimes) if runtime in self._services]
        programs = {program for service in services for program in service.programs}
        if not programs or not self._can_see():
            self._running = None
            return
        if self._running is not None:
            there = still_there(self._running)
            self._running = frozenset(daemon for daemon in self._running if daemon.process in there)
        now, known = time.monotonic(), {daemon.program for daemon in self._running or ()}
        if not programs <= known and now >= self._search_again:
            self._search_again = now + SEARCH_INTERVAL
            with suppress(OSError):  # then the earlier knowledge stays
                self._running = running(programs)
        self._seen |= {daemon.program for daemon in self._running or ()}

    def of(self, runtime: str) -> frozenset[Daemon]:
        """Return the daemons that a sandbox of this runtime would start under now; empty if none is needed or known."""
        service = self._services.get(runtime)
        known = self._running or frozenset()
        return frozenset(daemon for daemon in known if service and daemon.program in service.programs)

    def refusal(self, runtimes: Iterable[str]) -> str | None:
        """Say why nothing may be lent or made under one of these runtimes now; None when it may."""
        known = self._running
        if known is None:
            return None
        for service in (self._services[runtime] for runtime in runtimes if runtime in self._services):
            seen = replace(service, programs=tuple(filter(self._seen.__contains__, service.programs)))
            if missing := lacking(seen, known):
                then = "Nothing is lent or made meanwhile; work goes on by itself when it runs."
                return f"The host: {missing} {remedy(service)} {then}"
        return None

    def _can_see(self) -> bool:
        if self._sees is None:
            self._sees = self._sees_host()
        return self._sees


def _may_be_there(process: Process) -> bool:
    try:
        return processes.is_there(process)
    except OSError:
        return True
