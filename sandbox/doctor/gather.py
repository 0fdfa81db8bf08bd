"""Gathers the facts of a host. Each has a deadline of its own, so that one that hangs does not end the others."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, TypeVar

from sandbox import child, daemons
from sandbox.config import KeeperConfig
from sandbox.daemons import Daemon
from sandbox.disk.watch import Amount, Room
from sandbox.doctor.checks import KERNEL_LIMITS, PROGRAMS
from sandbox.doctor.facts import Canary, Facts, Wanted
from sandbox.engine import Engine, EngineFacts
from sandbox.errors import SandboxError
from sandbox.inspection.places import SYSBOX_DATA
from sandbox.network import walls_fit
from sandbox.profile import SYSBOX
from sandbox.report import Unknown

DEADLINE: Final = 5.0
"""Seconds for a program to print its version, and for a file system to report its free space."""
_MAX_PRINTED: Final = 4096
_MAX_FILE: Final = 4 * 1024 * 1024

_T = TypeVar("_T")


def wanted(config: KeeperConfig) -> Wanted:
    """Return what a keeper with this configuration needs of the host."""
    profiles = config.profiles.values()
    return Wanted(
        runtimes=frozenset(profile.runtime for profile in profiles),
        images=frozenset(profile.image for profile in profiles),
        network_range=config.network_range,
        disk_reserve=None if config.disk_reserve is None else int(config.disk_reserve),
    )


def gather(want: Wanted, engine: Engine, canary: Canary | Unknown) -> Facts:
    """Look at this host. Never raises."""
    about = _told(engine.about)
    if isinstance(about, Unknown):  # asking again would only wait again
        images: frozenset[str] | Unknown = about
        subnets: tuple[IPv4Network, ...] | Unknown = about
        room: Room | Unknown = about
    else:
        images = _told(lambda: frozenset(image for image in want.images if engine.image_id(image)))
        subnets = _told(lambda: tuple(engine.taken_subnets()))
        room = _told(lambda: _room(about.data_root))
    return Facts(
        wanted=want,
        engine=about,
        images=images,
        daemons=_told(lambda: _daemons(engine)),
        sysbox={program: _told(partial(_version_of, program, about)) for program in PROGRAMS},
        kernel=platform.release(),
        controllers=_told(lambda: controllers(Path("/sys/fs/cgroup/cgroup.controllers"), Path("/proc/cgroups"))),
        room=room,
        sysbox_room=_told(lambda: _room(Path(SYSBOX_DATA))),
        kernel_limits=_told(lambda: kernel_limits(Path("/proc/sys"))),
        subnets=subnets,
        routes=_told(lambda: routes(Path("/proc/net/route"))),
        walls=_told(walls_fit),
        canary=canary,
    )


def _told(ask: Callable[[], _T]) -> _T | Unknown:
    try:
        return ask()
    except SandboxError as error:
        return Unknown(str(error))
    except (OSError, ValueError, LookupError) as error:
        return Unknown(f"It could not be found out: {error}.")


def controllers(unified: Path, table: Path) -> frozenset[str]:
    """Return the enabled cgroup controllers: cgroups(7).

    Version 2 has its own list; a kernel without version 1 leaves that version's controllers (cpu, memory) out of the
    table. In a cgroup namespace, the list is that of the container's own group, to which the engine gives every
    controller.
    """
    if unified.exists():
        return frozenset(_read(unified).split())
    rows = [line.split() for line in _read(table).splitlines() if not line.startswith("#")]
    return frozenset(row[0] for row in rows if row[3] == "1")


def kernel_limits(settings: Path) -> dict[str, int]:
    """Return the kernel's limits for each user, by their names in sysctl(8)."""
    # Not by `_read`: the kernel refuses large reads of files in /proc/sys.
    return {name: int((settings / name.replace(".", "/")).read_text()) for name in KERNEL_LIMITS}


def routes(table: Path) -> tuple[IPv4Network, ...]:
    """Return the destinations of the host's routes, without the default: proc_net(5), in the host's byte order."""
    rows = [line.split() for line in _read(table).splitlines()[1:]]
    pairs = [(_address(row[1]), _address(row[7])) for row in rows]
    return tuple(IPv4Network(f"{target}/{mask}") for target, mask in pairs if int(mask))


def _address(text: str) -> IPv4Address:
    return IPv4Address(int(text, 16).to_bytes(4, "little"))


def _room(folder: Path) -> Room:
    try:
        answer = json.loads(child.ask("sandbox.doctor.room", str(folder).encode(), time.monotonic() + DEADLINE))
    except child.NoAnswer as error:
        raise OSError(f"{folder}: {error}") from error
    return Room(str(folder), Amount(*answer["size"]), Amount(*answer["free"]), answer["device"])


def _daemons(engine: Engine) -> frozenset[Daemon]:
    if not engine.shows_its_host():
        raise OSError("the host's processes are not to be seen here, without `pid: host`")
    return daemons.running(daemons.SERVICES[SYSBOX].programs)


def _version_of(program: str, about: EngineFacts | Unknown) -> str:
    """Ask an installed program. The running ones do not help in a container, which may not look into them."""
    registered = "" if isinstance(about, Unknown) else about.runtimes.get(SYSBOX, "")
    beside = f"{Path(registered).parent}:" if Path(registered).is_absolute() else ""
    found = shutil.which(program, path=f"{beside}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise OSError(f"there is no program {program} to be asked here")
    return printed([found, "--version"])


def printed(command: list[str]) -> str:
    """Return a program's output within the deadline. A hanging program is killed; if that fails, it is left."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1.0)
        raise OSError(f"{command[0]} did not answer within {DEADLINE:g} s") from None
    return output[:_MAX_PRINTED].decode(errors="replace")


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_FILE).decode(errors="replace")
