"""userns-runc: stock runc, with what a system container needs inside its user namespace.

The engine calls this instead of runc. It edits the container's specification as sysbox-runc would, as far as a user
namespace alone permits, lets runc create the container, and gives the container's cgroups to the container's root.
Every other command goes to runc unchanged. docs/userns-runc.md says what this is worth, and what sysbox adds.

This file is copied beside the engine and runs as `python -I -S userns_runc.py …`: with the standard library only, and
nothing of ours imported. It runs at every container's start and every `docker exec`; importing pathlib, subprocess and
typing would take longer than its whole run.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn, TypeAlias

    Spec: TypeAlias = dict[str, Any]

CAPABILITY_NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
CAPABILITIES = ["CAP_" + name for name in CAPABILITY_NAMES]

# Calls of an inner container engine that the engine's profile denies to a container without CAP_SYS_ADMIN. None newer
# than mount_setattr (442): runc answers ENOSYS, which makes programs fall back, only for calls newer than the newest
# named one, and EPERM for older ones.
SYSCALLS = [
    "add_key",
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_mempolicy",
    "kcmp",
    "keyctl",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pidfd_getfd",
    "pivot_root",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
]

# The only cgroup files that delegation needs; the limits themselves stay with the host.
DELEGATED_FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cgroup.clone_children", "tasks")

PSEUDO_FILE_SYSTEMS = ("proc", "sysfs", "cgroup", "cgroup2")
RUNC_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# runc's flags without a value; every other flag takes the next word.
BARE_FLAGS = {"debug", "systemd-cgroup", "no-pivot", "no-new-keyring", "tty", "t", "detach", "d", "no-new-privs"}


class RefusedError(Exception):
    """The container would not be confined; the text is the sentence for the user."""


class Call:
    """A parsed runc command line."""

    def __init__(self, words: list[str]) -> None:
        self.options, rest = _flags(words)
        """The global options."""
        self.command = rest[0] if rest else ""
        self.arguments, self.operands = _flags(rest[1:])
        """The command's own options."""


def _flags(words: list[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    position = 0
    while position < len(words) and words[position].startswith("-"):
        name, given, value = words[position].lstrip("-").partition("=")
        position += 1
        if not given and name not in BARE_FLAGS and position < len(words):
            value = words[position]
            position += 1
        found[name] = value
    return found, words[position:]


def mapped_root(spec: Spec) -> tuple[int, int]:
    """Return the host's user and group id of the container's root; refuse a container that would hold real root."""
    linux = spec.get("linux") or {}
    namespaces = [space for space in linux.get("namespaces") or [] if space.get("type") == "user"]
    if not namespaces:
        raise RefusedError(
            "userns-runc gives a container all capabilities and starts none outside a user namespace: "
            'set "userns-remap" in the engine\'s daemon.json, and do not use --userns=host'
        )
    if any(space.get("path") for space in namespaces):
        raise RefusedError(
            "userns-runc gives every container a user namespace of its own and cannot share another's: "
            "give this container its own network, without --network=container:…"
        )
    return _root_of(linux.get("uidMappings"), "uid"), _root_of(linux.get("gidMappings"), "gid")


def _root_of(mappings: list[dict[str, int]] | None, kind: str) -> int:
    root = None
    for mapping in mappings or []:
        inside, outside, size = (mapping.get(key, 0) for key in ("containerID", "hostID", "size"))
        if size > 0 and outside <= 0:
            raise RefusedError(f"userns-runc refuses a container whose {kind} map reaches the host's {kind} 0")
        if size > 0 and inside == 0:
            root = outside
    if root is None:
        raise RefusedError(f"userns-runc refuses a container whose {kind} map has no root")
    return root


def edit_spec(spec: Spec) -> Spec:
    """Return the specification as sysbox would have it. A second edit changes nothing."""
    mapped_root(spec)
    linux = dict(spec["linux"])
    linux["maskedPaths"] = linux["readonlyPaths"] = []
    if not any(space.get("type") == "cgroup" for space in linux["namespaces"]):
        linux["namespaces"] = [*linux["namespaces"], {"type": "cgroup"}]
    if linux.get("seccomp"):
        linux["seccomp"] = edit_seccomp(linux["seccomp"])
    return spec | {"linux": linux, "mounts": edit_mounts(spec.get("mounts") or []), "process": edit_process(spec)}


def edit_process(spec: Spec) -> Spec:
    """Give root every capability inside its user namespace, and anyone else none, as on a real host."""
    # AppArmor's profile for ordinary containers forbids mounts; a mapped root may not lower an oom score.
    process = {key: value for key, value in spec["process"].items() if key not in ("apparmorProfile", "oomScoreAdj")}
    is_root = process.get("user", {}).get("uid", 0) == 0
    held = CAPABILITIES if is_root else []
    process["capabilities"] = {"bounding": CAPABILITIES, "ambient": []} | dict.fromkeys(
        ("effective", "permitted", "inheritable"), held
    )
    return process


def edit_mounts(mounts: list[Spec]) -> list[Spec]:
    """Make the kernel's own file systems writable; the host's files in them are protected by their owner."""
    edited = [_writable(mount) if mount.get("type") in PSEUDO_FILE_SYSTEMS else mount for mount in mounts]
    if not any(mount.get("destination") == "/sys/fs/cgroup" for mount in edited):
        options = ["nosuid", "noexec", "nodev", "relatime", "rw"]
        cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}
        edited.append(cgroup)
    return edited


def _writable(mount: Spec) -> Spec:
    return mount | {"options": [option for option in mount.get("options") or [] if option not in ("ro", "rw")] + ["rw"]}


def edit_seccomp(profile: Spec) -> Spec:
    """Allow our calls, and remove them from the engine's rules that mask or deny them (clone, clone3)."""
    rules = []
    for rule in profile.get("syscalls") or []:
        others = [name for name in rule.get("names") or [] if name not in SYSCALLS]
        if others:
            rules.append(rule | {"names": others})
    return profile | {"syscalls": [*rules, {"names": SYSCALLS, "action": "SCMP_ACT_ALLOW"}]}


def cgroup_folders(memberships: Iterable[str], mountinfo: Iterable[str]) -> Iterator[str]:
    """Yield a process's cgroups as folders on this host, from its /proc/<pid>/cgroup and our own mountinfo.

    Leaves out a hierarchy in which the process is at the root, without a folder of its own.
    """
    mounts = [mount for line in mountinfo if (mount := _cgroup_mount(line))]
    for line in memberships:
        _, controllers, path = line.rstrip("\n").split(":", 2)
        wanted = {""} if not controllers else set(controllers.split(","))
        for root, point, provided in mounts:
            if wanted & provided and path.startswith(root.rstrip("/") + "/") and path != root:
                yield os.path.join(point, path.removeprefix(root).lstrip("/"))
                break  # the same hierarchy may be mounted at several places


def _cgroup_mount(line: str) -> tuple[str, str, set[str]] | None:
    """Return a mount's root, point and controllers: {""} for the unified hierarchy, as in /proc/<pid>/cgroup."""
    before, _, after = line.partition(" - ")
    fields, (kind, _, options) = before.split(), after.split()[:3]
    if kind not in ("cgroup", "cgroup2"):
        return None
    return fields[3], fields[4], {""} if kind == "cgroup2" else set(options.split(","))


def delegate_cgroups(pid: int, uid: int, gid: int) -> None:
    """Give the container's root its cgroup folders, so that an inner engine can make its own below them."""
    memberships = _read(f"/proc/{pid}/cgroup").splitlines()
    mountinfo = _read("/proc/self/mountinfo").splitlines()
    for folder in cgroup_folders(memberships, mountinfo):
        os.chown(folder, uid, gid)
        for file in (os.path.join(folder, name) for name in DELEGATED_FILES):
            if os.path.exists(file):
                os.chown(file, uid, gid)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def create(runc: str, words: list[str], call: Call) -> int:
    """Edit the bundle, let runc create the container and hand over its cgroups; undo it when that fails."""
    spec_file = os.path.join(call.arguments.get("bundle") or call.arguments.get("b") or ".", "config.json")
    spec = json.loads(_read(spec_file))
    uid, gid = mapped_root(spec)
    _write(spec_file, json.dumps(edit_spec(spec)))
    # It inherits the container's terminal and preserved descriptors. The engine has its own deadline.
    status = os.spawnv(os.P_WAIT, runc, [runc, *words])  # noqa: S606 - nothing to quote, and no shell
    if status:
        return status if status > 0 else 128 - status
    try:
        delegate_cgroups(int(_read(call.arguments["pid-file"])), uid, gid)
    except (OSError, KeyError, ValueError):
        _undo(runc, call)
        raise
    return 0


def _undo(runc: str, call: Call) -> None:
    root = ["--root", call.options["root"]] if "root" in call.options else []
    os.spawnv(os.P_WAIT, runc, [runc, *root, "delete", "--force", *call.operands[:1]])  # noqa: S606 - as above


def edit_exec(call: Call) -> None:
    """Edit `docker exec`'s own process description, made from the engine's unedited specification."""
    given = call.arguments.get("process") or call.arguments.get("p")
    if given:
        _write(given, json.dumps(edit_process({"process": json.loads(_read(given))})))


def report(message: str, log_file: str | None) -> None:
    """Print a message for people, and write it to runc's log, from which the engine takes what it shows."""
    print(message, file=sys.stderr)
    if log_file:
        import time  # noqa: PLC0415 - most calls report nothing

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(log_file, "a", encoding="utf-8") as log:
            log.write(json.dumps({"level": "error", "msg": message, "time": now}) + "\n")


def find_runc() -> str:
    """Return the host's stock runc."""
    for folder in f"{os.environ.get('PATH', '')}:{RUNC_PLACES}".split(":"):
        if folder and os.access(runc := os.path.join(folder, "runc"), os.X_OK):
            return runc
    raise RefusedError("userns-runc needs runc, and there is none on this host: install the package runc")


def become(runc: str, words: list[str]) -> NoReturn:
    """Replace this process with runc."""
    os.execv(runc, [runc, *words])  # noqa: S606 - nothing to quote, and no shell


def run(words: list[str], call: Call) -> int:
    """Run one runc command line; everything but `create` ends in runc itself."""
    runc = find_runc()
    if call.command == "run":
        raise RefusedError("userns-runc knows `create` and `start`, which engines use, and not `run`")
    if call.command == "create":
        return create(runc, words, call)
    if call.command == "exec":
        edit_exec(call)
    become(runc, words)


def main(words: list[str]) -> int:
    """Run one runc command line and turn errors into a sentence."""
    call = Call(words)
    try:
        return run(words, call)
    except RefusedError as refusal:
        report(str(refusal), call.options.get("log"))
    except (OSError, ValueError, KeyError) as error:
        report(
            f"userns-runc could not {call.command} the container: {type(error).__name__}: {error}",
            call.options.get("log"),
        )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
