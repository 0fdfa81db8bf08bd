"""The checks, in the order in which to repair a host. Each judges only the facts. Pure.

`docs/doctor.md` has an entry for each, with the source of every minimum.
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Final

from sandbox import daemons, report
from sandbox.disk.watch import Room, reserve_of
from sandbox.doctor.facts import Canary, Facts
from sandbox.engine import EngineFacts, advice
from sandbox.errors import Fault
from sandbox.inspection.places import SYSBOX_DATA
from sandbox.network import SUBNET_PREFIX
from sandbox.profile import SYSBOX
from sandbox.report import Check, Found, Result, Unknown, bad, dubious, good, unchecked

PROGRAMS: Final = (SYSBOX, *daemons.SERVICES[SYSBOX].programs)
"""The programs of sysbox, which must be of one release."""
OLDEST_ENGINE: Final = (20, 10)
OLDEST_SYSBOX: Final = (0, 7, 1)
OLDEST_KERNEL: Final = (5, 19)
KERNEL_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "kernel.keys.maxkeys": 20_000,
        "kernel.keys.maxbytes": 400_000,
        "fs.inotify.max_user_instances": 1_048_576,
        "fs.inotify.max_user_watches": 1_048_576,
        "fs.inotify.max_queued_events": 1_048_576,
    }
)
"""The limits that sysbox asks for, since all sandboxes share them."""
CONTROLLERS: Final = frozenset({"cpu", "cpuset", "memory", "pids"})
ROOMY: Final = 10 * 1024**3
"""Bytes beyond the host's reserve, for a few jobs with images of their own."""
CLOCK: Final = 2.0
"""Seconds between the clocks that certificates and caches tolerate."""
_ASK_ON_HOST: Final = (
    f"Run on the host: {', '.join(f'`{program} --version`' for program in PROGRAMS)}. "
    f"Each must say {'.'.join(map(str, OLDEST_SYSBOX))} or newer."
)
_GIB: Final = 1024**3
_UNUSED: Final = unchecked("The sandbox was not fit to be asked.")
_NO_ENGINE: Final = unchecked("The engine has to answer first.")
_LOGIN_FAULTS: Final = frozenset({Fault.SSH_DEAD, Fault.HOST_KEY_CHANGED, Fault.LOGIN_REFUSED})
_DOCKER_FAULTS: Final = frozenset({Fault.DOCKER_DEAD, Fault.WRONG_STORAGE_DRIVER})
_INNER_FAULTS: Final = _DOCKER_FAULTS | {Fault.PROBE_FAILED}
"""Faults found after a login; the last one means that something could not be run."""


def run(facts: Facts) -> Iterator[Found]:
    """Yield every check with its result, in order."""
    return report.run(CHECKS, facts)


def _engine(facts: Facts) -> Result:
    match facts.engine:
        case Unknown(why):
            return bad(why, "Start the Docker Engine, or set DOCKER_HOST to the socket of one on this host.")
        case EngineFacts(version=version):
            return good(f"Docker Engine {version} answers.")


def _engine_version(facts: Facts) -> Result:
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    seen = f"It is version {facts.engine.version}."
    found = _version(facts.engine.version)
    if found is None:
        return dubious(f"{seen} That says nothing about its age.", _name(OLDEST_ENGINE, "Docker Engine"))
    return good(seen) if found >= OLDEST_ENGINE else bad(seen, _name(OLDEST_ENGINE, "Docker Engine"))


def _storage(facts: Facts) -> Result:
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    if facts.engine.driver == advice.STORAGE_DRIVER:
        return good(f"Its storage driver is {facts.engine.driver}.")
    return bad(advice.storage_unfit(facts.engine.driver, facts.engine.containerd_store), advice.STORAGE_FIX)


def _runtime(facts: Facts) -> Result:
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    wanted = sorted(facts.wanted.runtimes)
    if missing := [runtime for runtime in wanted if runtime not in facts.engine.runtimes]:
        known = ", ".join(sorted(facts.engine.runtimes))
        return bad(
            f"The engine does not know the runtime {', '.join(missing)}; it knows {known}.",
            "Install sysbox 0.7.1 or newer and restart the engine, or name another runtime (SANDBOX_RUNTIME, or the "
            "profile in the keeper's file).",
        )
    if others := [runtime for runtime in wanted if runtime != SYSBOX]:
        return dubious(
            f"The runtime is {', '.join(others)}, which is no wall for jobs that you do not trust.",
            "Use sysbox-runc for anything but evaluation.",
        )
    return good(f"The engine knows {', '.join(wanted)}.")


def _sysbox_running(facts: Facts) -> Result:
    if SYSBOX not in facts.wanted.runtimes:
        return unchecked("No profile uses sysbox-runc.")
    if isinstance(facts.daemons, Unknown):
        return unchecked(facts.daemons.why)
    service = daemons.SERVICES[SYSBOX]
    if missing := daemons.lacking(service, facts.daemons):
        return bad(missing, daemons.remedy(service))
    return good(f"{' and '.join(service.programs)} run.")


def _sysbox(facts: Facts) -> Result:
    if SYSBOX not in facts.wanted.runtimes:
        return unchecked("No profile uses sysbox-runc.")
    told = [(program, facts.sysbox[program]) for program in PROGRAMS]
    shown = {program: _shown(text) for program, text in told if not isinstance(text, Unknown)}
    seen = f"{', '.join(f'{program} is version {version}' for program, version in shown.items())}."
    versions = {program: _version(version) for program, version in shown.items()}
    if any(version and version < OLDEST_SYSBOX for version in versions.values()):
        return bad(seen, f"{_name(OLDEST_SYSBOX, 'sysbox')} Its programs belong together.")
    if unknown := [text.why for _, text in told if isinstance(text, Unknown)]:
        return dubious(" ".join(dict.fromkeys(unknown)), _ASK_ON_HOST)
    if odd := [program for program, version in versions.items() if version is None]:
        said = ", ".join(f"{program} says {shown[program]!r}" for program in odd)
        return dubious(f"That tells no version: {said}.", _name(OLDEST_SYSBOX, "sysbox"))
    return good(seen)


def _shown(text: str) -> str:
    """Return the version from the output of a sysbox program."""
    labelled = re.search(r"version:\s*(\S+)", text)
    return labelled[1] if labelled else text[:100].strip()


def _kernel(facts: Facts) -> Result:
    if SYSBOX not in facts.wanted.runtimes:
        return unchecked("No profile uses sysbox-runc, whose demand this is.")
    seen = f"The kernel is {facts.kernel}."
    found = _version(facts.kernel)
    if found is None:
        return dubious(seen, _name(OLDEST_KERNEL, "Linux"))
    if found >= OLDEST_KERNEL:
        return good(seen)
    return bad(
        f"{seen} It does not map the ids of overlays, so sysbox copies each sandbox's files to where the keeper cannot "
        "read what a job left.",
        f"Boot Linux {_dotted(OLDEST_KERNEL)} or newer.",
    )


def _cgroups(facts: Facts) -> Result:
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    version = f"The engine uses cgroup v{facts.engine.cgroup_version}"
    if isinstance(facts.controllers, Unknown):
        return unchecked(f"{version}. {facts.controllers.why}")
    if missing := sorted(CONTROLLERS - facts.controllers):
        return bad(
            f"{version}, and the kernel has no controller {', '.join(missing)}: limits would not hold.",
            "Switch it on at the kernel's command line (such as cgroup_enable=memory) and reboot.",
        )
    return good(f"{version}, with every controller that limits need.")


def _disk(facts: Facts) -> Result:
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    if isinstance(facts.room, Unknown):
        return unchecked(facts.room.why)
    return _room(
        facts.room,
        facts.wanted.disk_reserve,
        "Make room there (docker system prune), or give the engine's data root a larger file system.",
    )


def _sysbox_disk(facts: Facts) -> Result:
    if SYSBOX not in facts.wanted.runtimes:
        return unchecked("No profile uses sysbox-runc.")
    if isinstance(facts.engine, Unknown):
        return _NO_ENGINE
    if isinstance(facts.room, Unknown):
        return unchecked(facts.room.why)
    if isinstance(facts.sysbox_room, Unknown):
        return dubious(
            "Where sysbox keeps its data cannot be seen, so nobody watches what jobs take there. "
            f"{facts.sysbox_room.why}",
            f"Show it to the keeper at {SYSBOX_DATA}: by SYSBOX_DATA of compose.yaml, or by a link on this host.",
        )
    if facts.sysbox_room.device == facts.room.device:
        return good(f"{SYSBOX_DATA} is on the file system of the engine's data.")
    return _room(
        facts.sysbox_room,
        facts.wanted.disk_reserve,
        "Make room there, or put it on the file system of the engine's data.",
    )


def _room(room: Room, configured_reserve: int | None, fix: str) -> Result:
    reserve, free = reserve_of(room, configured_reserve), room.free
    seen = (
        f"{room.place} has {free.bytes / _GIB:.1f} GiB and {free.files} inodes free; "
        f"{reserve.bytes / _GIB:.1f} GiB and {reserve.files} are kept for the host."
    )
    # A file system without a fixed number of inodes reports 0 of 0.
    if free.bytes <= reserve.bytes or (room.size.files and free.files <= reserve.files):
        return bad(f"{seen} Nothing will be lent.", fix)
    return dubious(seen, fix) if free.bytes < reserve.bytes + ROOMY else good(seen)


def _kernel_limits(facts: Facts) -> Result:
    if isinstance(facts.kernel_limits, Unknown):
        return unchecked(facts.kernel_limits.why)
    low = {name: value for name, value in facts.kernel_limits.items() if value < KERNEL_LIMITS[name]}
    if not low:
        return good("The kernel grants the one user that every sandbox's root is as much as sysbox asks for.")
    values = ", ".join(f"{name} is {value}" for name, value in low.items())
    return dubious(
        f"{values}. All sandboxes share that: with many inner containers, none starts any more in any of them.",
        f"Write into a file in /etc/sysctl.d, then call sysctl --system: "
        f"{', '.join(f'{name} = {KERNEL_LIMITS[name]}' for name in low)}.",
    )


def _network_range(facts: Facts) -> Result:
    wanted = facts.wanted.network_range
    if isinstance(facts.subnets, Unknown):
        return _NO_ENGINE if isinstance(facts.engine, Unknown) else unchecked(facts.subnets.why)
    fix = "Give the keeper another `network_range`, or the other network other addresses."
    ours = [subnet for subnet in facts.subnets if _is_ours(subnet, wanted)]
    if taken := [subnet for subnet in facts.subnets if subnet.overlaps(wanted) and subnet not in ours]:
        return bad(f"The engine's network {taken[0]} overlaps with the sandboxes' range {wanted}.", fix)
    if len(ours) >= 1 << (SUBNET_PREFIX - wanted.prefixlen):
        return bad(f"Every subnet of the sandboxes' range {wanted} is taken.", "Give the keeper a larger one.")
    if isinstance(facts.routes, Unknown):
        return unchecked(facts.routes.why)
    elsewhere = [route for route in facts.routes if route.overlaps(wanted) and not _is_ours(route, wanted)]
    if elsewhere:
        return dubious(f"This host routes {elsewhere[0]}, which overlaps with the sandboxes' range {wanted}.", fix)
    return good(f"Nobody else uses {wanted}; {len(ours)} subnets of it are taken by sandboxes.")


def _is_ours(subnet: IPv4Network, wanted: IPv4Network) -> bool:
    return subnet.prefixlen == SUBNET_PREFIX and subnet.subnet_of(wanted)


def _walls(facts: Facts) -> Result:
    if isinstance(facts.walls, Unknown):
        return bad(facts.walls.why, "The keeper needs nftables, root and NET_ADMIN in the engine's network namespace.")
    return good("nft and the kernel take the table that makes the walls around sandboxes.")


def _image(facts: Facts) -> Result:
    if isinstance(facts.images, Unknown):
        return _NO_ENGINE if isinstance(facts.engine, Unknown) else unchecked(facts.images.why)
    if missing := sorted(set(facts.wanted.images) - facts.images):
        return bad(f"The engine has no image {', '.join(missing)}.", "Build it: sandbox images build.")
    return good(f"The engine has {', '.join(sorted(facts.images))}.")


def _canary_login(facts: Facts) -> Result:
    if isinstance(facts.canary, Unknown):
        return unchecked(facts.canary.why)
    if facts.canary.left:
        return bad(
            f"The throw-away sandbox could not be removed: {facts.canary.left}",
            f"Remove it: sandbox purge --installation {facts.canary.installation}.",
        )
    if facts.canary.fault is None or facts.canary.fault in _INNER_FAULTS:
        return good("A login with the pinned host key works.")
    what = "It cannot be logged in to" if facts.canary.fault in _LOGIN_FAULTS else "It could not be made"
    return bad(
        f"{what} ({facts.canary.fault}): {facts.canary.complaint}",
        "Look at the engine's log and at the checks above; a wrong runtime or a full disk is what it usually is.",
    )


def _canary_docker(facts: Facts) -> Result:
    canary = _logged_in(facts)
    if isinstance(canary, Unknown):
        return unchecked(canary.why)
    if canary.fault in _DOCKER_FAULTS:
        return bad(canary.complaint, "Its Docker Engine's reason is in the container's log: start the image by hand.")
    if not canary.docker_version:
        return _UNUSED
    return good(f"Its Docker Engine {canary.docker_version} answers, on overlay2.")


def _canary_clock(facts: Facts) -> Result:
    canary = _logged_in(facts)
    if isinstance(canary, Unknown):
        return unchecked(canary.why)
    if not canary.docker_version:
        return _UNUSED
    seen = f"Its clock is {abs(canary.clock):.1f} s {'ahead of' if canary.clock > 0 else 'behind'} ours."
    if abs(canary.clock) > CLOCK:
        return dubious(
            seen, "They are one clock of one kernel: something in between took that long, such as a busy host."
        )
    return good(seen)


def _canary_run(facts: Facts) -> Result:
    canary = _logged_in(facts)
    if isinstance(canary, Unknown):
        return unchecked(canary.why)
    if canary.fault in _DOCKER_FAULTS:
        return unchecked("Its Docker Engine has to answer first.")
    if canary.fault is not None:
        return bad(
            canary.complaint,
            "Compare the versions of sysbox and of the image (images/sandbox/README.md): runc needs both to fit.",
        )
    return good("A container in it was built and ran.") if canary.docker_version else _UNUSED


def _canary_inspection(facts: Facts) -> Result:
    canary = _logged_in(facts)
    if isinstance(canary, Unknown):
        return unchecked(canary.why)
    if canary.inspection:
        return bad(
            f"Every job would cost its sandbox: {canary.inspection}",
            "The keeper needs root, the host's process ids and cgroups, and the engine's data folder at the same path, "
            "as compose.yaml gives them; and nothing of the image may change files by itself.",
        )
    return good("It was recorded, used, cleaned, and judged clean.") if canary.docker_version else _UNUSED


def _logged_in(facts: Facts) -> Canary | Unknown:
    if isinstance(facts.canary, Unknown):
        return facts.canary
    if facts.canary.fault is not None and facts.canary.fault not in _INNER_FAULTS:
        return Unknown("The sandbox has to be logged in to first.")
    return facts.canary


def _version(text: str) -> tuple[int, ...] | None:
    """Return the numbers that a version begins with."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", text)
    return tuple(int(number) for number in found[1].split(".")[:3]) if found else None


def _name(version: tuple[int, ...], what: str) -> str:
    return f"Use {what} {_dotted(version)} or newer."


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


CHECKS: Final[tuple[Check[Facts], ...]] = (
    Check("engine", _engine),
    Check("engine-version", _engine_version),
    Check("storage-driver", _storage),
    Check("runtime", _runtime),
    Check("sysbox-running", _sysbox_running),
    Check("sysbox-version", _sysbox),
    Check("kernel", _kernel),
    Check("cgroups", _cgroups),
    Check("kernel-limits", _kernel_limits),
    Check("disk", _disk),
    Check("sysbox-disk", _sysbox_disk),
    Check("network-range", _network_range),
    Check("walls", _walls),
    Check("image", _image),
    Check("canary-login", _canary_login),
    Check("canary-docker", _canary_docker),
    Check("canary-clock", _canary_clock),
    Check("canary-run", _canary_run),
    Check("canary-inspection", _canary_inspection),
)
"""In order: repair the first that fails first."""
