"""Each check by tables of facts and results; and the page describes every check."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from sandbox.daemons import Daemon
from sandbox.disk.watch import Amount, Room
from sandbox.doctor import checks
from sandbox.doctor.facts import Canary, Facts, Wanted
from sandbox.engine import EngineFacts
from sandbox.errors import Fault
from sandbox.processes import Process
from sandbox.report import Result, Status, Unknown

PAGE = Path(__file__).parents[3] / "docs" / "doctor.md"
GIB = 1024**3
RANGE = IPv4Network("10.213.0.0/24")
ENGINE = EngineFacts(
    version="26.1.5+dfsg1",
    driver="overlay2",
    containerd_store=False,
    runtimes={"runc": "runc", "sysbox-runc": "/usr/bin/sysbox-runc"},
    cgroup_version="2",
    data_root=Path("/var/lib/docker"),
)
WANTED = Wanted(frozenset({"sysbox-runc"}), frozenset({"sandbox:latest"}), RANGE, None)
PRINTED = "sysbox-runc\n\tedition: \tCommunity Edition (CE)\n\tversion: \t0.7.1\n\tcommit: \tabc\n"
GOOD = Facts(
    wanted=WANTED,
    engine=ENGINE,
    images=frozenset({"sandbox:latest"}),
    daemons=frozenset({Daemon("sysbox-fs", Process(41, 7)), Daemon("sysbox-mgr", Process(40, 7))}),
    sysbox=dict.fromkeys(checks.PROGRAMS, PRINTED),
    kernel="6.12.48+deb13-amd64",
    controllers=frozenset({"cpu", "cpuset", "memory", "pids", "io"}),
    room=Room("/var/lib/docker", Amount(100 * GIB, 1000), Amount(50 * GIB, 900), device=7),
    sysbox_room=Room("/var/lib/sysbox", Amount(100 * GIB, 1000), Amount(50 * GIB, 900), device=7),
    kernel_limits=checks.KERNEL_LIMITS,
    subnets=(IPv4Network("172.17.0.0/16"), IPv4Network("10.213.0.8/29")),
    routes=(IPv4Network("192.0.2.0/24"), IPv4Network("10.213.0.8/29")),
    walls=True,
    canary=Canary(docker_version="26.1.5", clock=-0.1),
)
P, W, F, N = Status.PASS, Status.WARN, Status.FAIL, Status.NOT_CHECKED


def result(facts: Facts, name: str) -> Result:
    [found] = [found.result for found in checks.run(facts) if found.check == name]
    return found


def engine(**changes: object) -> dict[str, object]:
    return {"engine": replace(ENGINE, **changes)}  # type: ignore[arg-type]


def wanted(**changes: object) -> dict[str, object]:
    return {"wanted": replace(WANTED, **changes)}  # type: ignore[arg-type]


def room(free: int, files: int = 900, size_files: int = 1000) -> dict[str, object]:
    return {"room": Room("/", Amount(100 * GIB, size_files), Amount(free * GIB, files))}


def sysbox_room(free: int) -> dict[str, object]:
    """Sysbox's data on another file system than the engine's."""
    return {"sysbox_room": Room("/var/lib/sysbox", Amount(100 * GIB, 1000), Amount(free * GIB, 900), device=8)}


def limits(**changes: int) -> dict[str, object]:
    """Other kernel limits, by the last part of their names."""
    given = checks.KERNEL_LIMITS.items()
    return {"kernel_limits": {name: changes.get(name.rpartition(".")[2], value) for name, value in given}}


def canary(**changes: object) -> dict[str, object]:
    return {"canary": Canary(**changes)}  # type: ignore[arg-type]


def printed(text: str | Unknown, program: str = "", other: str | Unknown = "") -> dict[str, object]:
    """What all of sysbox's programs say, but for one."""
    said: dict[str, str | Unknown] = dict.fromkeys(checks.PROGRAMS, text)
    return {"sysbox": {**said, **({program: other} if program else {})}}


UNKNOWN = Unknown("Nobody knows.")
USERNS = wanted(runtimes=frozenset({"userns-runc"}))


@pytest.mark.parametrize(
    ("name", "changes", "status", "seen"),
    [
        ("engine", {"engine": UNKNOWN}, F, "Nobody knows."),
        ("engine-version", engine(version="20.10.24"), P, "20.10.24"),
        ("engine-version", engine(version="19.03.15"), F, "19.03.15"),
        ("engine-version", engine(version="library-import"), W, "nothing about its age"),
        ("storage-driver", engine(driver="vfs"), F, "is vfs, and"),
        ("storage-driver", engine(driver="overlayfs", containerd_store=True), F, "containerd's image store"),
        ("runtime", engine(runtimes={"runc": "runc"}), F, "does not know the runtime sysbox-runc; it knows runc"),
        ("runtime", {**engine(runtimes={"userns-runc": ""}), **USERNS}, W, "no wall"),
        ("sysbox-running", {"daemons": UNKNOWN}, N, "Nobody knows."),
        ("sysbox-running", {"daemons": frozenset()}, F, "sysbox-fs and sysbox-mgr do not run"),
        ("sysbox-running", {"daemons": frozenset({Daemon("sysbox-mgr", Process(1, 1))})}, F, "sysbox-fs does not run"),
        ("sysbox-running", {**USERNS, "daemons": frozenset()}, N, "No profile uses"),
        ("sysbox-version", printed(UNKNOWN), W, "Nobody knows."),
        ("sysbox-version", printed("version: v0.7.0"), F, "sysbox-runc is version v0.7.0"),
        ("sysbox-version", printed(PRINTED, "sysbox-fs", "version: 0.6.7"), F, "sysbox-fs is version 0.6.7"),
        ("sysbox-version", printed(UNKNOWN, "sysbox-fs", "version: 0.6.7"), F, "sysbox-fs is version 0.6.7"),
        ("sysbox-version", printed(PRINTED, "sysbox-mgr", UNKNOWN), W, "Nobody knows."),
        ("sysbox-version", printed("version: 0.10.0"), P, "is version 0.10.0"),
        ("sysbox-version", printed("0.8.1\n"), P, "is version 0.8.1"),
        ("sysbox-version", printed(PRINTED, "sysbox-mgr", "rubbish"), W, "sysbox-mgr says 'rubbish'"),
        ("sysbox-version", USERNS, N, "No profile uses"),
        ("kernel", {"kernel": "5.19.0"}, P, "5.19.0"),
        ("kernel", {"kernel": "5.15.0-139-generic"}, F, "where the keeper cannot read"),
        ("kernel", {"kernel": "odd"}, W, "odd"),
        ("kernel", USERNS, N, "No profile uses"),
        ("cgroups", {"controllers": frozenset({"cpu", "pids"})}, F, "no controller cpuset, memory"),
        ("cgroups", {"controllers": UNKNOWN}, N, "Nobody knows."),
        ("disk", room(free=5), F, "Nothing will be lent"),
        ("disk", room(free=14), W, "14.0 GiB"),
        ("disk", room(free=50, files=20), F, "20 inodes free"),
        ("disk", room(free=50, files=0, size_files=0), P, "50.0 GiB"),
        ("disk", {**room(free=50), **wanted(disk_reserve=60 * GIB)}, F, "60.0 GiB"),
        ("disk", {"room": UNKNOWN}, N, "Nobody knows."),
        ("sysbox-disk", sysbox_room(free=50), P, "/var/lib/sysbox has 50.0 GiB"),
        ("sysbox-disk", sysbox_room(free=14), W, "14.0 GiB"),
        ("sysbox-disk", sysbox_room(free=5), F, "Nothing will be lent"),
        ("sysbox-disk", {"sysbox_room": UNKNOWN}, W, "nobody watches what jobs take there. Nobody knows."),
        ("sysbox-disk", {"sysbox_room": UNKNOWN, **USERNS}, N, "No profile uses"),
        ("sysbox-disk", {"room": UNKNOWN}, N, "Nobody knows."),
        ("kernel-limits", limits(maxkeys=200, maxbytes=20000), W, "maxkeys is 200, kernel.keys.maxbytes is 20000. All"),
        ("kernel-limits", limits(max_user_instances=128), W, "fs.inotify.max_user_instances is 128. All"),
        ("kernel-limits", limits(maxkeys=30000), P, "as much as sysbox asks for"),
        ("kernel-limits", {**limits(maxkeys=200), **USERNS}, W, "maxkeys is 200. All"),
        ("kernel-limits", {"kernel_limits": UNKNOWN}, N, "Nobody knows."),
        ("network-range", {"subnets": (IPv4Network("10.0.0.0/8"),)}, F, "network 10.0.0.0/8 overlaps"),
        ("network-range", {"subnets": (IPv4Network("10.213.0.0/28"),)}, F, "network 10.213.0.0/28 overlaps"),
        ("network-range", {"subnets": tuple(RANGE.subnets(new_prefix=29))}, F, "Every subnet"),
        ("network-range", {"routes": (RANGE,)}, W, "routes 10.213.0.0/24"),
        ("network-range", {"routes": UNKNOWN}, N, "Nobody knows."),
        ("network-range", {"subnets": UNKNOWN}, N, "Nobody knows."),
        ("walls", {"walls": UNKNOWN}, F, "Nobody knows."),
        ("image", {"images": frozenset()}, F, "no image sandbox:latest"),
        ("image", {"images": UNKNOWN}, N, "Nobody knows."),
        ("canary-login", {"canary": UNKNOWN}, N, "Nobody knows."),
        ("canary-login", canary(fault=Fault.SSH_DEAD, complaint="No answer."), F, "cannot be logged in to (ssh-dead)"),
        ("canary-login", canary(fault=Fault.ENGINE_FAILED, complaint="No."), F, "could not be made (engine-failed)"),
        ("canary-login", canary(left="It hangs."), F, "could not be removed: It hangs."),
        ("canary-login", canary(fault=Fault.DOCKER_DEAD), P, "works"),
        ("canary-docker", canary(fault=Fault.DOCKER_DEAD, complaint="Its Docker is dead."), F, "Its Docker is dead."),
        ("canary-docker", canary(fault=Fault.WRONG_STORAGE_DRIVER, complaint="On vfs."), F, "On vfs."),
        ("canary-docker", canary(fault=Fault.STOPPED), N, "logged in to first"),
        ("canary-clock", canary(docker_version="26.1.5", clock=30.0), W, "30.0 s ahead of"),
        ("canary-clock", canary(fault=Fault.DOCKER_DEAD), N, "not fit"),
        ("canary-login", canary(fault=Fault.PROBE_FAILED), P, "works"),
        ("canary-docker", canary(fault=Fault.PROBE_FAILED), N, "not fit"),
        ("canary-run", canary(fault=Fault.PROBE_FAILED, complaint="unsafe procfs"), F, "unsafe procfs"),
        ("canary-run", canary(fault=Fault.DOCKER_DEAD), N, "answer first"),
        ("canary-inspection", {"canary": UNKNOWN}, N, "Nobody knows."),
        ("canary-inspection", canary(fault=Fault.PROBE_FAILED), N, "not fit"),
        ("canary-inspection", canary(fault=Fault.STOPPED), N, "logged in to first"),
        ("canary-inspection", canary(docker_version="26.1.5", inspection="/etc/x was added."), F, "/etc/x was added."),
        ("canary-inspection", canary(inspection="It could not be recorded."), F, "could not be recorded"),
        ("canary-login", canary(inspection="It could not be recorded."), P, "works"),
        ("canary-docker", canary(inspection="It could not be recorded."), N, "not fit"),
        ("canary-clock", canary(inspection="It could not be recorded."), N, "not fit"),
        ("canary-run", canary(inspection="It could not be recorded."), N, "not fit"),
    ],
)
def test_a_check_by_its_facts(name: str, changes: dict[str, Any], status: Status, seen: str) -> None:
    found = result(replace(GOOD, **changes), name)
    assert (found.status, seen in found.seen) == (status, True), found
    assert bool(found.fix) is (status in (W, F))


def test_a_good_host_passes_everything() -> None:
    assert [found.result.status for found in checks.run(GOOD)] == [P] * len(checks.CHECKS)


def test_without_an_engine_one_thing_fails_and_says_so() -> None:
    facts = replace(GOOD, engine=UNKNOWN, images=UNKNOWN, subnets=UNKNOWN, room=UNKNOWN)
    assert [found.check for found in checks.run(facts) if found.result.status is F] == ["engine"]


def test_each_check_has_its_entry_on_the_page_in_order_and_the_page_has_no_other() -> None:
    entries = re.findall(r"^### (\S+)$", PAGE.read_text(), re.MULTILINE)
    assert entries == [check.name for check in checks.CHECKS]


def test_the_fix_and_the_page_have_every_limit_of_the_kernel() -> None:
    fix = result(replace(GOOD, kernel_limits=dict.fromkeys(checks.KERNEL_LIMITS, 1)), "kernel-limits").fix
    entry = PAGE.read_text().partition("\n### kernel-limits\n")[2].partition("\n### ")[0]
    for name, value in checks.KERNEL_LIMITS.items():
        assert f"{name} = {value}" in fix
        assert f"{name} = {value}\n" in entry


@pytest.mark.parametrize(
    ("name", "minimum"),
    [
        ("engine-version", checks.OLDEST_ENGINE),
        ("sysbox-version", checks.OLDEST_SYSBOX),
        ("kernel", checks.OLDEST_KERNEL),
    ],
)
def test_the_page_states_the_minimum(name: str, minimum: tuple[int, ...]) -> None:
    entry = PAGE.read_text().partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    assert ".".join(map(str, minimum)) in entry
