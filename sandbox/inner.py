"""Runs inside a sandbox: answers a nonce, asks inner Docker, tries it, and cleans. `readiness` sends it over SSH.

A file of its own with only the standard library, as the sandbox has none of our packages. It runs under the sandbox's
own Python and root: its answer proves life, never innocence.

`readiness` appends a line that calls `main` with the order. Output: one JSON object on stdout.
"""

from __future__ import annotations

import _socket  # `socket` and `json` take longer to import than Python to start, and this runs after each job
import sys
import time

# Imports for the clean-up come only there: at boot, this competes with inner Docker's start for the processor.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_SOCKET = "/var/run/docker.sock"
PROGRAM = "/bin/busybox"
"""A program that needs no other file."""
CALL_SECONDS = 10.0
MOST_ARGUMENTS = 1000
"""Names for one `rm`: even the longest fit the kernel's limit. `rm` starts sooner than `shutil` imports."""


def main(order: dict[str, Any]) -> None:
    """Carry out the order and print the result."""
    deadline = time.monotonic() + order["seconds"]
    info, clock, error = b"null", 0.0, "null"
    try:
        info = _info_when_up(deadline)
        clock = time.time()
        if order["container"]:
            _run_container()
        if order["clean"]:
            if b'"LocalNodeState":"inactive"' not in info:  # leaving would start its services again
                _docker("POST", "/swarm/leave?force=1")
            _clean_docker(deadline, order["clean"]["build_cache"])
            for folder, kept in order["clean"]["folders"].items():
                _empty(folder, frozenset(kept))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as reason:
        import json  # noqa: PLC0415 - as above

        error = json.dumps(f"{type(reason).__name__}: {reason}")
    answer = f'{{"nonce": "{order["nonce"]}", "clock": {clock}, "error": {error}, "info": '
    sys.stdout.buffer.write(answer.encode() + info + b"}")


def _info_when_up(deadline: float) -> bytes:
    """Return inner Docker's description of itself. Asks only once, as each answer starts three programs."""
    while True:
        try:
            info = _docker("GET", "/info", max(0.1, min(CALL_SECONDS, deadline - time.monotonic())))
        except (OSError, ValueError, LookupError):
            if time.monotonic() > deadline:
                raise
        else:
            if b'"ServerVersion"' in info and info.endswith(b"}"):
                return info
            if time.monotonic() > deadline:
                raise ValueError(f"it says of itself only {info[:200].decode(errors='replace')}")
        time.sleep(0.02)  # nothing signals when another process's socket begins to answer


def _run_container() -> None:
    """Make an image of one program, run it and remove both: an engine that answers may still be unable to do that."""
    import io  # noqa: PLC0415 - see above
    import json  # noqa: PLC0415
    import tarfile  # noqa: PLC0415

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as layer:
        layer.add(PROGRAM, "busybox")
    image = _parsed(_docker("POST", "/images/create?fromSrc=-", body=archive.getvalue()))["status"]
    try:
        host = {"NetworkMode": "none", "LogConfig": {"Type": "none"}}
        settings = {"Image": image, "Cmd": ["/busybox", "true"], "HostConfig": host}
        container = _parsed(_docker("POST", "/containers/create", body=json.dumps(settings).encode()))["Id"]
        try:
            _docker("POST", f"/containers/{container}/start")
            if code := _parsed(_docker("POST", f"/containers/{container}/wait"))["StatusCode"]:
                raise ValueError(f"one that does nothing ended with {code}")
        finally:
            _docker("DELETE", f"/containers/{container}?force=1&v=1")
    finally:
        _docker("DELETE", f"/images/{image}")


def _clean_docker(deadline: float, build_cache: int) -> None:
    """Remove what jobs leave in inner Docker, except images: they are the next job's cache."""
    while (listed := _docker("GET", "/containers/json?all=1")) != b"[]":
        refusal = None
        for container in _parsed(listed):
            try:
                _docker("DELETE", f"/containers/{_quoted(container['Id'])}?force=1&v=1")
            except ValueError as error:
                # Its process was just ended from outside: with `docker run --rm` it is being removed already; with
                # `--restart` it is starting again and cannot be ended at the moment.
                refusal = error
        if time.monotonic() > deadline:
            raise refusal or ValueError("containers came again and again")
        time.sleep(0.02)
    # By name, not by prune: without an argument that differs between versions, prune leaves named volumes alone.
    listed = _docker("GET", "/volumes")
    for volume in _parsed(listed)["Volumes"] if b'"Name"' in listed else ():
        _docker("DELETE", f"/volumes/{_quoted(volume['Name'])}?force=1")
    _docker("POST", "/networks/prune")
    _docker("POST", f"/build/prune?all=1&keep-storage={build_cache}")


def _parsed(answer: bytes) -> Any:  # noqa: ANN401 - JSON
    import json  # noqa: PLC0415 - see above; after most jobs there is nothing to parse

    return json.loads(answer)


def _quoted(name: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - see above

    return quote(name)


def _empty(folder: str, kept: frozenset[str]) -> None:
    import os  # noqa: PLC0415 - see above

    if os.path.islink(folder):  # the job does not own its target, and the next job would follow it
        raise ValueError(f"{folder} is a link")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is no folder any more")
    left = [f"{folder}/{name}" for name in os.listdir(folder) if name not in kept]
    while left:
        some, left = left[:MOST_ARGUMENTS], left[MOST_ARGUMENTS:]
        if code := os.spawnv(os.P_WAIT, "/usr/bin/rm", ["rm", "-rf", "--", *some]):  # noqa: S606 - no shell needed
            raise ValueError(f"{folder} could not be emptied: rm ended with {code}")


def _docker(method: str, path: str, seconds: float = CALL_SECONDS, body: bytes = b"") -> bytes:
    """Send one request to the inner Docker Engine. Returns the last line of its answer: JSON, or nothing.

    HTTP/1.0, so that the end of the answer is the end of the stream.
    """
    about = f"Host: docker\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(DOCKER_SOCKET)
        connection.sendall(f"{method} {path} HTTP/1.0\r\n{about}".encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    finally:
        connection.close()
    head, _, said = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status >= 400 and status != 404:
        raise ValueError(f"{method} {path} was answered with {status}: {said[:200].strip().decode(errors='replace')}")
    return said.strip().rpartition(b"\n")[2]
