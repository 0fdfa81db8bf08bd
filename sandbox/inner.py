"""Runs inside a sandbox, sent over SSH by `readiness`: it answers a nonce, asks inner Docker, tries it, and cleans.

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
PROGRAM = "/bin/busybox"
"""A program that needs no other file."""
CALL_SECONDS = 10.0
MOST_ARGUMENTS = 1000
"""Names that one `rm` is given: even the longest fit in what the kernel takes. It starts sooner than `shutil`."""


def main() -> None:
    """Do what stdin says and print what came of it."""
    order = json.load(sys.stdin)
    deadline = time.monotonic() + order["seconds"]
    answer: dict[str, Any] = {"nonce": order["nonce"], "docker": None, "clock": 0.0, "error": None}
    try:
        info = _info_when_up(deadline)
        answer["docker"] = {"driver": info["Driver"], "version": info["ServerVersion"]}
        answer["clock"] = time.time()
        if order["container"]:
            _run_container()
        if order["clean"]:
            if info["Swarm"]["LocalNodeState"] != "inactive":  # it would start its services again
                _docker("POST", "/swarm/leave?force=1")
            _clean_docker(deadline, order["clean"]["build_cache"])
            for folder, kept in order["clean"]["folders"].items():
                _empty(folder, frozenset(kept))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    json.dump(answer, sys.stdout)


def _info_when_up(deadline: float) -> dict[str, Any]:
    """What inner Docker says of itself. It starts three programs for each such answer, so it is asked once."""
    while True:
        try:
            info = _docker("GET", "/info", max(0.1, min(CALL_SECONDS, deadline - time.monotonic())))
            return {name: info[name] for name in ("Driver", "ServerVersion", "Swarm")}
        except (OSError, ValueError, LookupError, TypeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # nothing tells when another process's socket starts to answer


def _run_container() -> None:
    """Make an image of one program, run it, and leave nothing: an engine that answers may be able to do no more."""
    import io  # noqa: PLC0415 - see above
    import tarfile  # noqa: PLC0415

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as layer:
        layer.add(PROGRAM, "busybox")
    image = _docker("POST", "/images/create?fromSrc=-", body=archive.getvalue())["status"]
    try:
        host = {"NetworkMode": "none", "LogConfig": {"Type": "none"}}
        settings = {"Image": image, "Cmd": ["/busybox", "true"], "HostConfig": host}
        container = _docker("POST", "/containers/create", body=json.dumps(settings).encode())["Id"]
        try:
            _docker("POST", f"/containers/{container}/start")
            if code := _docker("POST", f"/containers/{container}/wait")["StatusCode"]:
                raise ValueError(f"one that does nothing ended with {code}")
        finally:
            _docker("DELETE", f"/containers/{container}?force=1&v=1")
    finally:
        _docker("DELETE", f"/images/{image}")


class _BusyError(ValueError):
    """The inner Docker Engine is at it already, as with a `docker run --rm` whose process has just been ended."""


def _clean_docker(deadline: float, build_cache: int) -> None:
    """Remove what jobs leave in inner Docker; images stay, they are the next job's cache."""
    while containers := _docker("GET", "/containers/json?all=1"):
        for container in containers:
            try:
                _docker("DELETE", f"/containers/{_quoted(container['Id'])}?force=1&v=1")
            except _BusyError:
                continue
        if time.monotonic() > deadline:
            raise ValueError(f"{len(containers)} containers would not go")
        time.sleep(0.02)
    # By name and not by prune: with an argument that differs between versions, prune leaves named volumes alone.
    for volume in _docker("GET", "/volumes")["Volumes"] or []:
        _docker("DELETE", f"/volumes/{_quoted(volume['Name'])}?force=1")
    _docker("POST", "/networks/prune")
    _docker("POST", f"/build/prune?all=1&keep-storage={build_cache}")


def _quoted(name: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - see above; most jobs leave nothing that would have to be named

    return quote(name)


def _empty(folder: str, kept: frozenset[str]) -> None:
    if os.path.islink(folder):  # what it points at is not the job's, and the next job would follow it
        raise ValueError(f"{folder} is a link")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is no folder any more")
    left = [f"{folder}/{name}" for name in os.listdir(folder) if name not in kept]
    while left:
        some, left = left[:MOST_ARGUMENTS], left[MOST_ARGUMENTS:]
        if code := os.spawnv(os.P_WAIT, "/usr/bin/rm", ["rm", "-rf", "--", *some]):  # noqa: S606 - no shell needed
            raise ValueError(f"{folder} could not be emptied: rm ended with {code}")


def _docker(method: str, path: str, seconds: float = CALL_SECONDS, body: bytes = b"") -> Any:  # noqa: ANN401 - JSON
    """One request to the inner Docker Engine, and the last line of its answer.

    HTTP/1.0, so that the end of the answer is the end of the stream.
    """
    about = f"Host: docker\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(DOCKER_SOCKET)
        connection.sendall(f"{method} {path} HTTP/1.0\r\n{about}".encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, said = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status >= 400 and status != 404:
        kind = _BusyError if status == 409 else ValueError
        raise kind(f"{method} {path} was answered with {status}: {said[:200].decode(errors='replace')}")
    return json.loads(said.strip().splitlines()[-1]) if said.strip() else None


if __name__ == "__main__":
    main()
