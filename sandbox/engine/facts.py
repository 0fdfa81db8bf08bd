"""Facts about a Docker Engine, its images and its containers, read from the engine's answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.engine.advice import status_of
from sandbox.template import LABEL_NAME

_RUNNING = ("running", "paused")
"""States of a container that has processes."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container, as the engine reports it. This proves no health: a dead sandbox can read `running`."""

    id: str
    running: bool
    status: str
    runtime: str
    init_pid: int
    address: str | None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image, as it describes itself: how its containers start, and what it is for."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    ports: tuple[str, ...]
    stop_signal: str
    labels: Mapping[str, str]
    environment: tuple[str, ...]
    """The names of its environment variables."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine, as it describes itself."""

    version: str
    driver: str
    containerd_store: bool
    """Whether images are in containerd's store; then `driver` is a snapshotter."""
    runtimes: Mapping[str, str]
    """The program of each runtime, by name; empty where the engine does not say."""
    cgroup_version: str
    data_root: Path


@dataclass(frozen=True, slots=True)
class Owned:
    """One container of an installation, as found by label."""

    id: str
    name: str
    running: bool
    status: str


def container_facts(found: dict[str, Any]) -> ContainerFacts:
    """Read the answer to `inspect` for a container."""
    state = found["State"]
    networks = found["NetworkSettings"]["Networks"].values()
    return ContainerFacts(
        id=found["Id"],
        running=state["Status"] in _RUNNING,
        status=status_of(state),
        runtime=found["HostConfig"]["Runtime"],
        init_pid=state["Pid"],
        address=next((network["IPAddress"] for network in networks if network["IPAddress"]), None),
    )


def image_facts(config: dict[str, Any]) -> ImageFacts:
    """Read an image's configuration from the answer to `inspect`."""
    return ImageFacts(
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        user=config.get("User") or "",
        ports=tuple(config.get("ExposedPorts") or ()),
        stop_signal=config.get("StopSignal") or "",
        labels=config.get("Labels") or {},
        environment=tuple(variable.partition("=")[0] for variable in config.get("Env") or ()),
    )


def owned_of(container: dict[str, Any]) -> Owned:
    """Read one entry of a listing."""
    name = container["Labels"].get(LABEL_NAME, "")
    return Owned(container["Id"], name, container["State"] in _RUNNING, container["Status"])
