"""A Docker Engine of our own next to the host's, with userns-runc registered.

It has its own network namespace, socket, data, containerd and addresses, with user-namespace remapping on. The host's
engine, its containers and its firewall stay as they are.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sandbox import durable
from sandbox.evaluation import engine_api, network, packages, userns_runc
from sandbox.evaluation.errors import EngineNotUp
from sandbox.evaluation.host import (
    SYSTEM_PATH,
    Say,
    have,
    log_tail,
    must_be_root,
    pid_in,
    pids_with,
    run,
    stop,
    wait_until,
)
from sandbox.evaluation.layout import RUNTIME, Layout

UP_SECONDS = 60.0
STOP_SECONDS = 40.0
LOCK_SECONDS = 180.0
LOG_BYTES = 16 * 1024 * 1024
GOGC = "400"
"""Per cent by which the engine's heap may grow between two garbage collections, unless the environment says otherwise.
With Go's default of 100, collections took a third of each start of the engine's program, which starts itself four times
per container."""

# In a mount namespace of the engine's own, so that only the engine sees this resolv.conf. containerd is started beside
# dockerd, as dockerd would otherwise use the host's, together with the host's containers.
START = """
mount --bind "$RESOLV_CONF" /etc/resolv.conf || exit
containerd --config "$CONTAINERD_TOML" &
exec dockerd --config-file "$1"
"""


@dataclass(frozen=True, slots=True)
class Status:
    """The present state of the private engine."""

    up: bool
    url: str
    version: str
    running: int
    detail: str


def up(layout: Layout, say: Say) -> None:
    """Bring the engine up, unless it is. Raises `EvaluationError` with the reason when it does not come up."""
    must_be_root()
    packages.ensure(packages.ENGINE, say)
    _make_folders(layout)
    with _locked(layout):
        running = engine_api.answers(layout.url)
        network.ensure(layout, say)
        changed = _write_files(layout, say)
        if running:
            say(f"the private engine is up at {layout.url}")
            if changed:
                say("its configuration has changed since; `down` and `up` apply that")
            return
        _clear_remains(layout, say)
        _start(layout, say)
        say(f"the private engine (Docker {engine_api.version(layout.url)}) answers at {layout.url}")


def down(layout: Layout, say: Say, purge: bool = False) -> None:
    """Stop the engine and undo the changes to the host; with `purge`, also remove its images and data."""
    must_be_root()
    if not layout.state.exists() and not layout.run.exists():
        say("there is no private engine here")
        return
    _make_folders(layout)
    with _locked(layout):
        pid = pid_in(layout.docker_pid, str(layout.daemon_json))
        if pid is not None:
            say(f"stopping the private engine (pid {pid}) and its containers")
            if not stop(pid, str(layout.daemon_json), STOP_SECONDS):
                say(f"it did not stop within {STOP_SECONDS:.0f} s and was killed")
        _stop_containerd(layout)
        _end_containers(layout)
        network.remove(layout, say)
        _remove_cgroups(layout)
        shutil.rmtree(layout.run, ignore_errors=True)
        if purge:
            say(f"removing the engine's images and data in {layout.state}")
            shutil.rmtree(layout.state)
    say("the private engine is down" + ("" if purge else f"; its images stay in {layout.state}"))


def status(layout: Layout) -> Status:
    """Look, and change nothing."""
    pid = pid_in(layout.docker_pid, str(layout.daemon_json))
    if engine_api.answers(layout.url):
        running = engine_api.running_containers(layout.url)
        return Status(True, layout.url, engine_api.version(layout.url), running, f"dockerd is pid {pid}")
    if pid is not None:
        return Status(False, layout.url, "", 0, f"dockerd (pid {pid}) runs and does not answer; see {layout.log}")
    return Status(False, layout.url, "", 0, "it is not running; `sandbox evaluation up` starts it")


def daemon_json(layout: Layout, mtu: int) -> str:
    """Write the engine's configuration."""
    settings = {
        "hosts": [layout.url],
        "data-root": str(layout.data),
        "exec-root": str(layout.run / "exec"),
        "pidfile": str(layout.docker_pid),
        "containerd": str(layout.containerd_socket),
        "userns-remap": "default",
        "runtimes": {RUNTIME: {"path": str(layout.launcher)}},
        "live-restore": False,
        # The host's systemd knows nothing of this engine.
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{layout.netns}",
        "storage-driver": "overlay2",
        "log-opts": {"max-size": "20m", "max-file": "2"},
        "bip": layout.bridge_address,
        "default-address-pools": [{"base": str(layout.pool), "size": 26}],
        "mtu": mtu,
        "shutdown-timeout": 12,
    }
    return json.dumps(settings, indent=2) + "\n"


def containerd_toml(layout: Layout) -> str:
    """Write containerd's configuration, without the part that serves Kubernetes."""
    return (
        "version = 2\n"
        f'root = "{layout.state}/containerd"\n'
        f'state = "{layout.run}/containerd"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{layout.containerd_socket}"\n'
    )


def launcher(layout: Layout, runc: str) -> str:
    """Write the engine's runc. Commands that the wrapper does not edit go to runc without waiting for Python."""
    # Not a virtual environment's link, which disappears with the checkout.
    python = str(Path(sys.executable).resolve())
    wrapper = shlex.join([python, "-I", "-S", str(layout.wrapper)])
    return (
        "#!/bin/sh\n"
        "for word do\n"
        f'    case $word in create | exec | run) exec {wrapper} "$@" ;; esac\n'
        "done\n"
        f'exec {shlex.quote(runc)} "$@"\n'
    )


def _make_folders(layout: Layout) -> None:
    for folder in (layout.state, layout.run, layout.tools):
        folder.mkdir(parents=True, exist_ok=True)
    # The containers' remapped root must reach its files through these folders, and nothing else.
    layout.state.chmod(0o711)
    layout.run.chmod(0o711)


def _write_files(layout: Layout, say: Say) -> bool:
    """Write the engine's files. Returns whether any changed that the engine reads only at its start."""
    inside = [have("nsenter") or "nsenter", f"--net={layout.netns_file}"]
    iptables = have(network.working_iptables(inside))
    for name in ("iptables", "ip6tables"):
        link = layout.tools / name
        link.unlink(missing_ok=True)
        if iptables is not None:
            link.symlink_to(iptables.replace("iptables", name))
    _write(layout.wrapper, Path(userns_runc.__file__).read_text(encoding="utf-8"))
    _write(layout.launcher, launcher(layout, have("runc") or "runc"), mode=0o755)
    return any(
        [
            _write(layout.resolv_conf, network.resolv_conf(say)),
            _write(layout.containerd_toml, containerd_toml(layout)),
            _write(layout.daemon_json, daemon_json(layout, network.uplink_mtu())),
        ]
    )


def _write(file: Path, text: str, mode: int = 0o644) -> bool:
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return False
    # Renamed into place, since a running engine may be about to call it.
    durable.replace(file, text.encode(), mode)
    return True


def _clear_remains(layout: Layout, say: Say) -> None:
    """Remove a killed engine's pid files, sockets and containerd. The next engine ends its containers at its start."""
    pid = pid_in(layout.docker_pid, str(layout.daemon_json))
    if pid is not None:
        say(f"an earlier engine (pid {pid}) does not answer and is stopped")
        stop(pid, str(layout.daemon_json), STOP_SECONDS)
    _stop_containerd(layout)
    for remains in (layout.docker_pid, layout.socket, layout.containerd_socket):
        remains.unlink(missing_ok=True)


def _stop_containerd(layout: Layout) -> None:
    for pid in pids_with(str(layout.containerd_toml)):
        stop(pid, str(layout.containerd_toml), STOP_SECONDS)


def _end_containers(layout: Layout) -> None:
    """End what a killed engine left running: each container's first process is a child of a shim."""
    for shim in pids_with(str(layout.containerd_socket)):
        children = _children(shim)
        stop(shim, str(layout.containerd_socket), 2)
        for child in children:
            run("kill", "-KILL", str(child), check=False)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _remove_cgroups(layout: Layout) -> None:
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")]
    for folder in (root / layout.netns for root in roots):
        below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
        for group in [*below, folder] if folder.is_dir() else []:
            wait_until(partial(_rmdir, group), deadline=2)


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # its processes are still ending
    return True


def _start(layout: Layout, say: Say) -> None:
    say(f"starting a private Docker Engine; its log is {layout.log}")
    enter = [have("nsenter") or "nsenter", f"--net={layout.netns_file}"]
    own_mounts = ["unshare", "--mount", "--propagation", "slave"]
    environment = {
        "GOGC": GOGC,
        **os.environ,
        "PATH": f"{layout.tools}{os.pathsep}{SYSTEM_PATH}",
        "RESOLV_CONF": str(layout.resolv_conf),
        "CONTAINERD_TOML": str(layout.containerd_toml),
    }
    mode = "wb" if layout.log.exists() and layout.log.stat().st_size > LOG_BYTES else "ab"
    # The configuration's path is an argument of every step up to dockerd itself, and so identifies the process.
    known_by = str(layout.daemon_json)
    command = ["setsid", "--fork", *enter, *own_mounts, "sh", "-c", START, "sandbox-evaluation", known_by]
    with layout.log.open(mode) as log:
        subprocess.run(
            command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=10
        )
    came_up = wait_until(lambda: engine_api.answers(layout.url) or _is_gone(known_by), UP_SECONDS)
    if _is_gone(known_by):
        _stop_containerd(layout)
        raise EngineNotUp(f"The private engine ended at its start: {log_tail(layout.log)} (log: {layout.log})")
    if not came_up:
        raise EngineNotUp(
            f"The private engine did not answer within {UP_SECONDS:.0f} s: {log_tail(layout.log)} (log: {layout.log})"
        )


def _is_gone(known_by: str) -> bool:
    # One look is not enough: during an exec, a process shows no arguments for a moment.
    return not wait_until(lambda: bool(pids_with(known_by)), deadline=0.5)


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Allow one `up` or `down` at a time."""
    descriptor = durable.lock(layout.lock, LOCK_SECONDS)
    if descriptor is None:
        raise EngineNotUp(f"Another `up` or `down` holds {layout.lock} for longer than {LOCK_SECONDS:.0f} s.")
    try:
        yield
    finally:
        os.close(descriptor)
