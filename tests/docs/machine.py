"""A copy of this machine, booted by systemd: its files, with changes kept apart, in namespaces of its own.

The programs that are installed here are installed there. The copy has no network but its loopback, and sees no device;
only programs started in it run there. It takes the host's cgroups as they are, of either version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from tests.docs.pages import ROOT

DEADLINE: Final = 120
CHECKOUT: Final = "/srv/checkout"
GIVEN: Final = "/srv/given"
"""Where the machine has the checkout, and the folder that it was given."""
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MOUNT_FLAGS: Final = frozenset({"rw", "relatime", "nosuid", "nodev", "noexec"})
_POLL: Final = 0.1

# Goes into these cgroups, and on with the command after the dashes.
_ENTER: Final = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'

# Runs as the first process of the namespaces, with the machine's root as $1, the checkout as $2, what was given as $3,
# and a line for each cgroup hierarchy (its file system type, its options, its place) in $4.
_BOOT: Final = """\
set -e
root=$1 checkout=$2 given=$3 hierarchies=$4
mount --make-rprivate /
mount -t tmpfs written "$root"
mkdir "$root/merged"
kept_apart() { mkdir "$root/$1" "$root/$1/upper" "$root/$1/work"
  mount -t overlay -o "lowerdir=$2,upperdir=$root/$1/upper,workdir=$root/$1/work" "$1" "$3"; }
kept_apart machine / "$root/merged"
cd "$root/merged"
mkdir -p srv/checkout srv/given var/lib/docker old
kept_apart checkout "$checkout" srv/checkout
mount --bind "$given" srv/given
mkdir -p "$given/docker"
mount --bind "$given/docker" var/lib/docker
for folder in run tmp; do mount -t tmpfs $folder $folder; done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty fuse; do
  if [ -e "/dev/$device" ]; then touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"; fi
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
while read -r type options place; do
  if [ "$place" != . ]; then mkdir -p "sys/fs/cgroup/$place"; fi
  mount -t "$type" -o "$options" cgroup "sys/fs/cgroup/$place"
done <<<"$hierarchies"
ip link set lo up
pivot_root . old
umount -l /old
# Of the host's own services none is started, and nothing that would set up the host's kernel and devices once more.
masked=
for unit in udevd.service udevd-kernel.socket udevd-control.socket udev-trigger.service sysctl.service \
  binfmt.service modules-load.service; do masked+=" systemd.mask=systemd-$unit"; done
exec /lib/systemd/systemd --unit=basic.target --log-target=journal $masked
"""


class Machine:
    """One that has booted."""

    def __init__(self, init: int) -> None:
        self._init = init

    def type(self, text: str, *, stdin: IO[bytes] | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Type a text into root's shell, in the checkout, and return what was printed."""
        limited = ("timeout", "--kill-after", "5", str(DEADLINE), "bash", "-euo", "pipefail", "-c")
        done = subprocess.run(
            self._within(*limited, f"cd {CHECKOUT}\n{text}"),
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})},
            stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=DEADLINE + 10, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}: {done.stdout}{self._journal()}"
        return done.stdout

    def wait(self) -> None:
        """Wait until it has booted."""
        end = time.monotonic() + DEADLINE
        while self._run("systemctl", "is-active", "basic.target") != "active":
            assert time.monotonic() < end, f"It did not boot. {self._journal()}"
            time.sleep(_POLL)  # nobody tells before its systemd listens

    def _journal(self) -> str:
        return self._run("journalctl", "--no-pager", "--lines", "60")

    def _run(self, *words: str) -> str:
        done = subprocess.run(self._within(*words), capture_output=True, text=True, timeout=DEADLINE, check=False)
        return done.stdout.strip()

    def _within(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--all", *words]


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot a machine that is given a folder, as `GIVEN`; its engine's data are kept there, too."""
    hierarchies = list(_hierarchies())
    groups = [_CGROUPS / place / f"machine-{os.getpid()}" for _, _, place in hierarchies]
    root = folder / "root"
    root.mkdir()
    lines = "\n".join(f"{kind} {options} {place}" for kind, options, place in hierarchies)
    for group in groups:
        _make(group)
    namespaces = ("--mount", "--pid", "--cgroup", "--ipc", "--uts", "--net")
    enter = ["bash", "-euc", _ENTER, "enter", *map(str, groups), "--"]
    unshare = ["unshare", *namespaces, "--fork", "--kill-child"]
    process = subprocess.Popen(
        [*enter, *unshare, "bash", "-c", _BOOT, "boot", str(root), str(ROOT), str(folder), lines],
        env={"PATH": os.environ["PATH"], "container": "namespaces"},
        stdin=subprocess.DEVNULL,
    )
    try:
        machine = Machine(_child_of(process))
        machine.wait()
        yield machine
    finally:
        process.kill()
        process.wait(DEADLINE)
        for group in groups:
            _remove(group)
        shutil.rmtree(folder / "docker", ignore_errors=True)  # pytest would keep it for three more runs


def _hierarchies() -> Iterator[tuple[str, str, str]]:
    """Of each cgroup hierarchy here: its file system, the options that mount it again, its place below `_CGROUPS`."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2") and Path(place).is_relative_to(_CGROUPS):
            own = [word for word in options.split(",") if word not in _MOUNT_FLAGS] if kind == "cgroup" else []
            none = ["none"] if any(word.startswith("name=") for word in own) else []
            yield kind, ",".join(["rw", *none, *own]), str(Path(place).relative_to(_CGROUPS))


def _make(group: Path) -> None:
    group.mkdir()
    if group.parent.name == "cpuset":  # the first version begins with no processor, and lets nobody in
        for name in ("cpuset.cpus", "cpuset.mems"):
            (group / name).write_text((group.parent / name).read_text())


def _remove(group: Path) -> None:
    """Remove a cgroup and those below it, as soon as the last of their processes is gone."""
    end = time.monotonic() + DEADLINE
    while group.exists() and time.monotonic() < end:
        for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                below.rmdir()
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(_POLL)  # the kernel ends a namespace's processes by and by


def _child_of(process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + DEADLINE
    while not (found := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        assert process.poll() is None, "The namespaces could not be made."
        assert time.monotonic() < end
        time.sleep(_POLL)
    return int(found[0])
