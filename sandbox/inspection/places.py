"""What each place in a sandbox decides, and so what a change there means. Data, and its look-up.

The longest matching path counts. The places that system services write to were found by experiment: by looking at what
real services left after builds, containers, compose, host networks, swarm, buildx containers, sudo and logins. Each
such place is as narrow as possible.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

JOB_FOLDERS = (
    "/home/sandbox",
    "/home/sandbox/workspace",
    "/root",
    "/root/.ssh",
    "/tmp",  # noqa: S108 - the sandbox's own
    "/var/tmp",  # noqa: S108
    "/dev/shm",  # noqa: S108
    "/dev/mqueue",
    "/var/lib/attempts",
)
"""A job's own places: after the job, everything is removed that was not there at `ready`."""

IMPLICIT_FOLDERS = (
    "/var/lib/kubelet",
    "/var/lib/k0s",
    "/var/lib/rancher/k3s",
    "/var/lib/rancher/rke2",
    "/var/lib/buildkit",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs",
)
"""Where sysbox mounts folders of the host (below `SYSBOX_DATA`) by itself, besides inner Docker's: see sysbox-runc,
libsysbox/syscont/spec.go. Our image leaves them empty, so that a job's files there always begin with something new."""

SYSBOX_DATA = "/var/lib/sysbox"
"""Sysbox's data folder on the host, which compose.yaml also shows to the keeper (`SYSBOX_DATA`)."""

LISTED_FOLDERS = (
    "/dev",
    "/dev/shm",  # noqa: S108
    "/dev/mqueue",
    "/var/lib/docker",
    "/var/lib/docker/containers",
    "/var/lib/docker/volumes",
    *IMPLICIT_FOLDERS,
)
"""Folders on mounts of their own, which the upper directory does not show; their first level is read. Where there is no
such mount, the upper directory shows all of it."""

COMMAND_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""Where programs are found by name, first match first; /bin and /sbin are links to two of them."""


class Meaning(StrEnum):
    """What a place is for."""

    JOB = "job"
    """The job's own place; emptied after it."""
    SERVICE = "service"
    """Sshd, containerd and dockerd keep their state here while they serve a job."""
    INNER = "inner"
    """Inner containers and volumes; removed after the job."""
    SYSTEM = "system"
    """Decides neither who gets in nor what runs."""
    PROGRAMS = "programs"
    """An addition changes no existing program; a change does."""
    LOGIN = "login"
    ACCOUNTS = "accounts"
    START_UP = "start-up"
    LIBRARIES = "libraries"
    SCHEDULED = "scheduled"
    INNER_DOCKER = "inner-docker"
    NAMES = "names"
    DEVICES = "devices"


class Place(NamedTuple):
    """The meaning of a path and everything below it."""

    meaning: Meaning
    additions_decide: bool = True
    """Whether an addition matters as much as a change."""


def _same(place: Place, *paths: str) -> dict[str, Place]:
    return dict.fromkeys(paths, place)


PLACES: Mapping[str, Place] = MappingProxyType(
    {
        "/": Place(Meaning.SYSTEM),
        **_same(Place(Meaning.JOB), *JOB_FOLDERS),
        # Containers' sockets, bundles and names; dockerd leaves some behind when it removes containers.
        **_same(
            Place(Meaning.SERVICE),
            "/run/containerd/s",  # one socket per shim
            "/run/containerd/state/io.containerd.runtime.v2.task",  # one bundle per container
            "/run/docker/containerd",  # one folder of FIFOs per container
            "/run/docker/netns",  # one name per network namespace
            "/run/docker/runtime-runc",  # runc's state per container
            "/run/docker/swarm",
            "/run/runc",  # made by runc when it starts the first container
        ),
        **_same(Place(Meaning.INNER), "/var/lib/docker/containers", "/var/lib/docker/volumes"),
        **_same(Place(Meaning.LOGIN), "/etc/ssh", "/etc/sandbox", "/run/sandbox", "/run/sshd", "/run/sshd.pid"),
        **_same(
            Place(Meaning.ACCOUNTS),
            "/etc/passwd", "/etc/passwd-", "/etc/shadow", "/etc/shadow-", "/etc/group", "/etc/group-", "/etc/gshadow",
            "/etc/gshadow-", "/etc/subuid", "/etc/subgid", "/etc/login.defs", "/etc/shells", "/etc/nologin",
            "/etc/securetty", "/etc/sudoers", "/etc/sudoers.d", "/etc/sudo.conf", "/etc/sudo_logsrvd.conf",
            "/etc/pam.conf", "/etc/pam.d", "/etc/security", "/etc/nsswitch.conf",
        ),
        **_same(
            Place(Meaning.START_UP),
            "/etc/environment", "/etc/environment.d", "/etc/profile", "/etc/profile.d", "/etc/bash.bashrc",
            "/etc/bash_completion.d", "/etc/inputrc", "/etc/gitconfig", "/etc/gitattributes", "/etc/tmpfiles.d",
            "/usr/share/git-core/templates",
        ),
        **_same(
            Place(Meaning.PROGRAMS, additions_decide=False),
            "/usr", "/bin", "/sbin", *COMMAND_FOLDERS,
        ),
        # A plugin runs as part of `docker`, whoever calls it.
        **_same(Place(Meaning.PROGRAMS), "/usr/libexec/docker", "/usr/local/lib/docker", "/usr/lib/docker"),
        **_same(Place(Meaning.LIBRARIES), "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
        **_same(
            Place(Meaning.LIBRARIES, additions_decide=False), "/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64",
        ),
        # Every package with a library rewrites it.
        "/etc/ld.so.cache": Place(Meaning.SYSTEM),
        **_same(
            Place(Meaning.SCHEDULED),
            "/etc/crontab", "/etc/anacrontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily",
            "/etc/cron.weekly", "/etc/cron.monthly", "/etc/cron.allow", "/etc/cron.deny", "/var/spool/cron",
            "/var/spool/at", "/etc/systemd",
        ),
        # A package with a service adds a script and links here; nothing in a sandbox starts them by itself.
        **_same(Place(Meaning.SCHEDULED, additions_decide=False), "/etc/init.d", "/usr/lib/systemd"),
        **_same(
            Place(Meaning.INNER_DOCKER),
            "/etc/sandbox/daemon.json", "/etc/docker", "/etc/containerd", "/etc/default/docker", "/run/docker.sock",
            "/run/docker.pid", "/run/containerd", "/run/docker", "/var/lib/docker", "/opt/containerd",
        ),
        **_same(
            Place(Meaning.NAMES),
            "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/host.conf", "/etc/gai.conf",
        ),
        **_same(Place(Meaning.DEVICES), "/dev", "/proc", "/sys"),
    }
)  # fmt: skip

_ANCESTORS = frozenset(
    parent
    for path, place in PLACES.items()
    if place.meaning is not Meaning.SYSTEM
    for parts in [path.split("/")]
    for parent in ["/", *("/".join(parts[:end]) for end in range(2, len(parts)))]
)


def place_of(path: str) -> Place:
    """Return the place of the longest path in `PLACES` that is `path` or above it."""
    while path not in PLACES:
        path = path.rpartition("/")[0] or "/"
    return PLACES[path]


def is_above_decisive(path: str) -> bool:
    """Whether a place that decides, or a job's own, lies below this folder."""
    return path in _ANCESTORS
