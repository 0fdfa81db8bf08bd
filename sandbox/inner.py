"""Runs inside a sandbox, sent over SSH by `readiness`: it answers a nonce, asks the inner Docker Engine, and cleans.

A file of its own with nothing but the standard library, since the sandbox has none of our packages. It runs the
sandbox's own Python under the sandbox's own root: what it says is proof of life, never proof of innocence.

Input: one JSON object on stdin. Output: one JSON object on stdout.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

# What only a clean-up needs is imported there: at boot this competes with inner Docker's start for the processor.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_SOCKET = "/var/run/docker.sock"
CALL_SECONDS = 10.0


def main() -> None:
    """Do what stdin says and print what came of it."""
    order = json.load(sys.stdin)
    deadline = time.monotonic() + order["seconds"]
    answer: dict[str, Any] = {"nonce": order["nonce"], "docker": None, "error": None}
    try:
        answer["docker"] = _docker_when_up(deadline)
        if order["clean"]:
            _clean_docker(deadline, order["clean"]["build_cache"])
            for folder, kept in order["clean"]["folders"].items():
                _empty(folder, frozenset(kept))
        if greeting := order.get("greeting"):
            answer["printed"] = _run_container(greeting, deadline)
            answer["clock"] = time.time()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    json.dump(answer, sys.stdout)


def _docker_when_up(deadline: float) -> dict[str, str]:
    while True:
        try:
            info = _docker("GET", "/info", max(0.1, min(CALL_SECONDS, deadline - time.monotonic())))
            return {"driver": info["Driver"], "version": info["ServerVersion"]}
        except (OSError, ValueError, LookupError, TypeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # nothing tells when another process's socket starts to answer


# This machine's own shell is all that the image needs; nothing is pulled.
_CONTAINER = """
exec 2>&1; set -e; cd "$(mktemp -d)"; trap 'cd /; rm -rf "$OLDPWD"' EXIT
cp -L --parents /bin/sh $(ldd "$(readlink -f /bin/sh)" | grep -o '/[^ :]*' | sort -u) .
tar -c . | docker import - sandbox-canary >/dev/null
docker run --rm sandbox-canary /bin/sh -c 'echo "$0"' "$1"
docker image rm sandbox-canary >/dev/null
"""


def _run_container(greeting: str, deadline: float) -> str:
    """Make an image, and return what a container of it printed, or why there was none."""
    import subprocess  # noqa: PLC0415 - see above

    left = max(0.1, deadline - time.monotonic())
    command = ["/bin/sh", "-c", _CONTAINER, "sh", greeting]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left)
    except subprocess.TimeoutExpired:
        return "nothing in time"
    return ran.stdout[:1000].strip()


class _BusyError(ValueError):
    """The inner Docker Engine is at it already, as with a `docker run --rm` whose process has just been ended."""


def _clean_docker(deadline: float, build_cache: int) -> None:
    """Remove what jobs leave in inner Docker; images stay, they are the next job's cache."""
    from urllib.parse import quote  # noqa: PLC0415 - see above

    if _docker("GET", "/info")["Swarm"]["LocalNodeState"] != "inactive":  # it would start its services again
        _docker("POST", "/swarm/leave?force=1")
    while containers := _docker("GET", "/containers/json?all=1"):
        for container in containers:
            try:
                _docker("DELETE", f"/containers/{quote(container['Id'])}?force=1&v=1")
            except _BusyError:
                continue
        if time.monotonic() > deadline:
            raise ValueError(f"{len(containers)} containers would not go")
        time.sleep(0.02)
    # By name and not by prune: with an argument that differs between versions, prune leaves named volumes alone.
    for volume in _docker("GET", "/volumes")["Volumes"] or []:
        _docker("DELETE", f"/volumes/{quote(volume['Name'])}?force=1")
    _docker("POST", "/networks/prune")
    _docker("POST", f"/build/prune?all=1&keep-storage={build_cache}")


def _empty(folder: str, kept: frozenset[str]) -> None:
    import shutil  # noqa: PLC0415 - see above

    if os.path.islink(folder):  # what it points at is not the job's, and the next job would follow it
        raise ValueError(f"{folder} is a link")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is no folder any more")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in kept:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _docker(method: str, path: str, seconds: float = CALL_SECONDS) -> Any:  # noqa: ANN401 - JSON
    """One request to the inner Docker Engine. HTTP/1.0, so that the end of the answer is the end of the stream."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(DOCKER_SOCKET)
        connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status >= 400 and status != 404:
        kind = _BusyError if status == 409 else ValueError
        raise kind(f"{method} {path} was answered with {status}: {body[:200].decode(errors='replace')}")
    return json.loads(body) if body.strip() else None


if __name__ == "__main__":
    main()
