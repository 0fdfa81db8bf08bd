"""Runs inside a sandbox that someone else started: lists the running processes, or ends what a job left there.

The runner sends this file over SSH; it needs only the standard library. It runs as root where `sudo` asks for no
password, else as the job's user. It is as trustworthy as the sandbox: a job that became root there can make it say
anything. Its findings protect against accidents only.

Input: one JSON object on stdin, see `main`. Output: one JSON object on stdout.
"""
# pathlib and friends cost milliseconds at every start
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_SOCKET = "/var/run/docker.sock"
CALL_SECONDS = 10.0
PAUSE = 0.02
MAX_LEFT = 5
KERNEL_THREADS = 2  # kthreadd, the parent of every kernel thread: proc(5)

Identity = tuple[int, int]


def main() -> None:
    """Answer `{"nonce", "before": result of an earlier look or null, "folders": to remove, "seconds"}`."""
    order = json.load(sys.stdin)
    deadline = time.monotonic() + order["seconds"]
    answer: dict[str, Any] = {"nonce": order["nonce"], "python": list(sys.version_info[:2]), "left": [], "error": ""}
    try:
        refuse_root()
        if order["before"] is not None:
            answer["left"] = sweep(order["before"], deadline)
            for folder in order["folders"]:
                remove(folder)
        answer["look"] = look()
    except (OSError, ValueError, LookupError, TypeError) as error:
        answer["error"] = str(error) or type(error).__name__
    json.dump(answer, sys.stdout)


def refuse_root() -> None:
    """Raise ValueError when the login was root's: the machine's own processes are root's too."""
    if int(os.environ.get("SUDO_UID", os.geteuid())) == 0:
        raise ValueError("its user is root, whose every process would be ended after a job")


def look() -> dict[str, Any]:
    """Return what runs now, except this program and its ancestors."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    spared = own_line()
    processes = [found.identity for found in all_processes() if found.pid not in spared]
    return {"boot_id": boot_id, "processes": sorted(processes), "docker": things_of_docker()}


# -- ending what a job left -------------------------------------------------------------------------------------------


def sweep(before: dict[str, Any], deadline: float) -> list[str]:
    """End what was not there before, and return what remains, in words. Raises ValueError when that cannot be known."""
    kept = {tuple(identity) for identity in before["processes"]}
    inits = {identity for identity in kept if identity[0] == 1}
    if inits and not inits & {found.identity for found in all_processes()}:
        raise ValueError("it was restarted since its job was sent")
    left = end_processes(kept, deadline)  # first: processes could make Docker start more
    if before["docker"] is not None:
        left += end_docker(set(before["docker"]), deadline)
        left += end_processes(kept, deadline)  # a container that restarts by itself has processes again
        left += end_docker(set(before["docker"]), deadline)  # and what Docker was just making exists by now
    return left


def end_processes(kept: set[Identity], deadline: float) -> list[str]:
    """Kill every process that is neither kept nor an ancestor of this one, until none is left."""
    spared = own_line()
    while strays := [found for found in all_processes() if found.is_stray(kept, spared)]:
        if time.monotonic() > deadline:
            return [f"process {found.pid} ({found.name})" for found in strays[:MAX_LEFT]]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # a stopped process starts no other meanwhile
            for found in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(found.pid, number)
        time.sleep(PAUSE)
    return []


class Process:
    """One process, as /proc shows it."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when the process is gone, or ends meanwhile."""
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            head, _, tail = file.read().rpartition(")")
        fields = tail.split()
        self.pid = pid
        self.name = head.partition("(")[2]
        self.state = fields[0]
        self.parent = int(fields[1])
        self.identity: Identity = (pid, int(fields[19]))
        # Not the owner of its folder in /proc: root owns the folder of every process that is not dumpable.
        with open(f"/proc/{pid}/status", errors="replace") as file:
            self.uid = next(int(line.split()[1]) for line in file if line.startswith("Uid:"))

    def is_stray(self, kept: set[Identity], spared: set[int]) -> bool:
        """Return whether to end the process: root ends everybody's, another user only its own."""
        if self.identity in kept or self.pid in spared or self.state in "ZX":
            return False
        if KERNEL_THREADS in (self.pid, self.parent) and not os.path.exists(f"/proc/{self.pid}/exe"):  # noqa: PTH110
            return False
        return os.geteuid() in (0, self.uid)


def all_processes() -> list[Process]:
    """Return every visible process that still exists."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                found.append(Process(int(name)))
    return found


def own_line() -> set[int]:
    """Return this process and its ancestors, among them its SSH server."""
    pid, line = os.getpid(), set()
    while pid and pid not in line:
        line.add(pid)
        try:
            pid = Process(pid).parent
        except OSError:
            break
    return line


def remove(folder: str) -> None:
    """Remove a folder of the attempt, even if the job replaced it with something else."""
    import shutil  # noqa: PLC0415 - costs milliseconds

    with contextlib.suppress(OSError):
        if os.path.islink(folder):  # noqa: PTH114 - see above
            os.unlink(folder)  # noqa: PTH108
        else:
            shutil.rmtree(folder)


# -- inner Docker -----------------------------------------------------------------------------------------------------


def things_of_docker() -> list[str] | None:
    """Return the containers, volumes and networks of the Docker Engine here, each as the API path that removes it."""
    try:
        containers = ["/containers/" + one["Id"] for one in docker("GET", "/containers/json?all=1")]
        volumes = ["/volumes/" + one["Name"] for one in docker("GET", "/volumes")["Volumes"] or []]
        networks = ["/networks/" + one["Id"] for one in docker("GET", "/networks")]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return containers + volumes + networks


def end_docker(kept: set[str], deadline: float) -> list[str]:
    """Remove what a job left in the Docker Engine, except images. Returns what remains, in words."""
    while True:
        things = things_of_docker()
        if things is None:
            return ["a Docker Engine that does not answer any more"]
        strays = [thing for thing in things if thing not in kept]
        if not strays or time.monotonic() > deadline:
            return [thing.lstrip("/") for thing in strays[:MAX_LEFT]]
        for thing in strays:
            with contextlib.suppress(OSError, ValueError):  # used by an object that is removed next, or being removed
                docker("DELETE", thing + "?force=1" + ("&v=1" if thing.startswith("/containers") else ""))
        time.sleep(PAUSE)


def docker(method: str, path: str) -> Any:  # noqa: ANN401 - JSON
    """Send one request. It uses HTTP/1.0, so that the end of the answer is the end of the stream."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CALL_SECONDS)
        connection.connect(DOCKER_SOCKET)
        connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if int(head.split(b" ", 2)[1]) >= 400:
        raise ValueError(f"{method} {path} was refused")
    return json.loads(body) if body.strip() else None


if __name__ == "__main__":
    main()
