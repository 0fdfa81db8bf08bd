"""Makes a job's services, waits for them, and prints their logs."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from runner.gitlab.containers.inside import engine

MAX_LOG = 64 * 1024
"""Bytes of each service's log that are printed, as in gitlab-runner's docker executor."""
MAX_PORTS = 20
"""Number of a service's ports that are tried; an image can expose thousands."""
_PAUSE = 0.1
_OWN_PORT = "HEALTHCHECK_TCP_PORT"
_ENGINE = re.compile(r"(.*/)?docker:[^/:@]*dind[^/:@]*(@.*)?")
"""Docker's own image of an engine, from any registry: `docker:dind`, `docker:28.0-dind-rootless`."""


def configuration(service: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that Docker gets to create the service."""
    image, network = service["image"], order["network"]
    return {
        "Image": image["name"],
        "Platform": image["platform"],
        "Entrypoint": image["entrypoint"],
        "User": image["user"],
        "Cmd": service["command"],
        "Env": [f"{name}={value}" for name, value in service["environment"].items()],
        "HostConfig": {
            "NetworkMode": network,
            "Binds": [f"{order['workspace']}:{order['workspace']}"],
            # It does not start otherwise. Privileges in the sandbox are less than the job has anyway.
            "Privileged": is_engine(image["name"]),
        },
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": service["aliases"]}}},
    }


def is_engine(image: str) -> bool:
    """Return whether a service is a Docker Engine of its own."""
    return _ENGINE.fullmatch(image) is not None


def wait(services: list[dict[str, Any]], seconds: float) -> None:
    """Wait until each service that exposes ports answers at one of them. Warns of silent services, with their logs."""
    waited = {service["container"]: ports(service) for service in services}
    if any(waited.values()):
        print(f"Waiting for services to be up and running (timeout {seconds:g} seconds)...", flush=True)
    deadline = time.monotonic() + seconds
    for service in services:
        why = _wait_for(service, waited[service["container"]], deadline)
        if why:
            print(f"\n*** WARNING: Service {service['image']['name']} probably didn't start properly.\n", flush=True)
            print(f"Health check error:\n{why}\n\nService container logs:", flush=True)
            tell(service["container"])
            print("\n*********\n", flush=True)


def ports(service: dict[str, Any]) -> list[int]:
    """Return the TCP ports at which a service is expected to answer."""
    config = engine.call("GET", engine.container(service["container"], "/json"))["Config"]
    for line in config.get("Env") or []:
        name, _, value = line.partition("=")
        if name.upper() == _OWN_PORT and value.isascii() and value.isdecimal():
            return [int(value)]
    exposed = [port.split("/") for port in config.get("ExposedPorts") or {}]
    return sorted(int(number) for number, protocol in exposed if protocol == "tcp")[:MAX_PORTS]


def _wait_for(service: dict[str, Any], wanted: list[int], deadline: float) -> str:
    """Return why a service is not up; empty if it is."""
    while True:
        seen = engine.call("GET", engine.container(service["container"], "/json"))
        if not seen["State"]["Running"] and (wanted or seen["State"]["ExitCode"] or seen["State"]["Error"]):
            return f"The container ended with exit code {seen['State']['ExitCode']} {seen['State']['Error']}".rstrip()
        if not wanted or any(_answers(_address(seen), port) for port in wanted):
            return ""
        if time.monotonic() > deadline:
            return f"Nothing answered at port {', '.join(map(str, wanted))} in time."
        time.sleep(_PAUSE)  # no event shows when a program in a container starts to listen


def _address(seen: dict[str, Any]) -> str:
    [network] = seen["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except (OSError, OverflowError):
        return False
    return True


def tell(container: str) -> None:
    """Print the end of a container's log."""
    try:
        query = {"stdout": 1, "stderr": 1, "tail": 500}
        log = engine.read("GET", engine.container(container, "/logs"), **query)[1]
    except (engine.Failed, OSError) as error:
        print(f"(not to be had: {error})", flush=True)
        return
    sys.stdout.buffer.write(_text(log)[-MAX_LOG:])
    sys.stdout.flush()


def _text(log: bytes) -> bytes:
    """Return a log without Docker's head before each piece of it: stream, three zeros, size."""
    pieces, start = [], 0
    while len(head := log[start : start + 8]) == 8:
        size = int.from_bytes(head[4:], "big")
        pieces.append(log[start + 8 : start + 8 + size])
        start += 8 + size
    return b"".join(pieces)


def write_hosts(services: list[dict[str, Any]], network: str, path: str) -> None:
    """Write a hosts file with the sandbox's own names and the services' names."""
    text = Path("/etc/hosts").read_text(errors="replace")
    for service in services:
        seen = engine.call("GET", engine.container(service["container"], "/json"))
        address = seen["NetworkSettings"]["Networks"][network]["IPAddress"]
        if address:
            text += f"{address} {' '.join(service['aliases'])}\n"
    Path(path).write_text(text)


def tell_all(order: dict[str, Any]) -> int:
    """Print each service's log."""
    for service in order["services"]:
        print(f"Service {service['image']['name']} wrote:", flush=True)
        tell(service["container"])
    return 0
