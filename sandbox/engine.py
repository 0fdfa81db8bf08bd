"""The only module that talks to the Docker Engine.

Every call has a deadline that ends it for the caller, whatever the engine does: docker-py's own timeouts are per read,
so a call runs on a thread of its own and is given up when its time is over. What was given up may still happen in the
engine; names carry the generation, so a late create collides with nothing.
"""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, NotFound, StreamParseError
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit
from docker.utils import kwargs_from_env

from sandbox.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    Fault,
    ImageMissing,
    RuntimeMissing,
    SandboxFault,
)
from sandbox.template import (
    DOCKER_DATA,
    LABEL_INSTALLATION,
    LABEL_NAME,
    ContainerSpec,
    GivenFile,
    InstallationId,
)
from sandbox.text import one_line

_T = TypeVar("_T")

CALL_DEADLINE = 30.0
"""Seconds for a call that should be quick."""
START_DEADLINE = 90.0
"""Seconds for create and start: a loaded host under sysbox was seen to need 22 for a start that then failed."""
REMOVE_DEADLINE = 60.0
"""Seconds for a removal; longer means that the runtime hangs."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What the engine says about one container. It is no proof of health: a dead sandbox can read `running`."""

    id: str
    running: bool
    status: str
    runtime: str
    init_pid: int
    address: str | None


@dataclass(frozen=True, slots=True)
class Owned:
    """One container of an installation, as found by label."""

    name: str
    running: bool
    status: str


class Engine:
    """A Docker Engine, by its URL. `None` means what the environment says (`DOCKER_HOST`), as for any Docker tool."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._api_version = "auto"

    def check(self, runtime: str, image: str) -> None:
        """Raise unless the engine answers, knows `runtime` and has `image`."""
        registered = self._call("info", lambda api: sorted(api.info().get("Runtimes") or {}))
        if runtime not in registered:
            raise RuntimeMissing(_runtime_advice(runtime, registered))
        try:
            self._call("find image", lambda api: api.inspect_image(image))  # type: ignore[no-untyped-call]
        except _NotThere:
            raise ImageMissing(_image_advice(image)) from None

    def create_network(self, spec: ContainerSpec) -> None:
        """Create the sandbox's own bridge network."""
        self._call(
            "create network",
            lambda api: api.create_network(
                str(spec.name),
                driver="bridge",
                labels=dict(spec.labels),
                ipam=_ipam(spec.subnet),
                check_duplicate=True,
                options={
                    "com.docker.network.bridge.name": spec.name.bridge,
                    "com.docker.network.driver.mtu": str(spec.mtu),
                },
            ),
        )

    def create(self, spec: ContainerSpec) -> str:
        """Create volume and container and put the given files in. Nothing runs yet. Returns the id."""
        labels, name = dict(spec.labels), str(spec.name)
        self._call("create volume", lambda api: api.create_volume(name, labels=labels))
        container_id = self._call("create container", lambda api: _create_container(api, spec), START_DEADLINE)
        archive = _tar(spec.files)
        self._call("put files", lambda api: api.put_archive(container_id, "/", archive))
        return container_id

    def start(self, container_id: str) -> None:
        """Start a created container."""
        self._call("start", lambda api: api.start(container_id), START_DEADLINE)

    def facts(self, container: str) -> ContainerFacts:
        """Look at a container by id or name. Raises `SandboxFault` (`gone`) when there is none."""
        try:
            found = self._call("inspect", lambda api: api.inspect_container(container))
        except _NotThere:
            raise SandboxFault(Fault.GONE, "Its container is gone: somebody removed it.") from None
        state = found["State"]
        networks = found["NetworkSettings"]["Networks"].values()
        return ContainerFacts(
            id=found["Id"],
            running=state["Status"] == "running",
            status=_status(state),
            runtime=found["HostConfig"]["Runtime"],
            init_pid=state["Pid"],
            address=next((network["IPAddress"] for network in networks if network["IPAddress"]), None),
        )

    @contextmanager
    def paused(self, container_id: str) -> Iterator[None]:
        """Freeze every process of a container for the length of the block."""
        self._call("pause", lambda api: api.pause(container_id))
        try:
            yield
        finally:
            self._call("unpause", lambda api: api.unpause(container_id))

    def last_words(self, container_id: str) -> str:
        """The last lines of the container's log, for an error message. Never raises, bounded in size."""
        try:
            logs = self._call("logs", lambda api: api.logs(container_id, tail=3, stream=False))
        except EngineError:
            return ""
        text = logs[-600:].decode(errors="replace")
        return one_line(text).strip()

    def owned(self, installation: InstallationId) -> list[Owned]:
        """Every container that carries the installation's label, running or not."""
        found = self._call("list", lambda api: api.containers(all=True, filters=_by(installation)))
        return [Owned(c["Labels"].get(LABEL_NAME, ""), c["State"] == "running", c["Status"]) for c in found]

    def taken_subnets(self) -> list[IPv4Network]:
        """The subnets of every network of this engine, whoever made it."""
        networks = self._call("list networks", lambda api: api.networks())
        pools = [pool for network in networks for pool in (network["IPAM"]["Config"] or [])]
        return [IPv4Network(pool["Subnet"], strict=False) for pool in pools if ":" not in pool.get("Subnet", ":")]

    def remove(self, installation: InstallationId, name: str | None = None) -> int:
        """Remove an installation's containers, networks and volumes, or those of one sandbox.

        They are found by label, never by a name alone. Returns how many containers there were. Raises the first
        `EngineError` when something would not go; everything else is gone all the same.
        """
        filters = _by(installation, name)
        refusals: list[EngineError] = []

        def remove(kind: Literal["container", "network", "volume"], key: str, **options: bool) -> None:
            try:
                self._remove(kind, key, **options)
            except EngineError as error:  # one that hangs must not keep the others
                refusals.append(error)

        containers = self._call("list", lambda api: api.containers(all=True, filters=filters))
        for container in containers:
            remove("container", container["Id"], force=True, v=True)
        for network in self._call("list networks", lambda api: api.networks(filters=filters)):
            remove("network", network["Id"])
        for volume in self._call("list volumes", lambda api: api.volumes(filters=filters))["Volumes"] or []:
            remove("volume", volume["Name"])
        if refusals:
            raise refusals[0]
        return len(containers)

    def installations(self) -> set[InstallationId]:
        """Every installation that has containers, networks or volumes on this engine."""
        filters = {"label": [LABEL_INSTALLATION]}
        containers = self._call("list", lambda api: api.containers(all=True, filters=filters))
        networks = self._call("list networks", lambda api: api.networks(filters=filters))
        volumes = self._call("list volumes", lambda api: api.volumes(filters=filters))["Volumes"] or []
        return {InstallationId(item["Labels"][LABEL_INSTALLATION]) for item in [*containers, *networks, *volumes]}

    def _remove(self, kind: Literal["container", "network", "volume"], key: str, **options: bool) -> None:
        """Remove one thing; that it is not there any more is success."""
        with suppress(_NotThere):
            self._call(f"remove {kind}", lambda api: getattr(api, f"remove_{kind}")(key, **options), REMOVE_DEADLINE)

    def _call(
        self,
        what: str,
        act: Callable[[docker.APIClient], _T],
        deadline: float = CALL_DEADLINE,
    ) -> _T:
        outcome: list[_T | Exception] = []

        def run() -> None:
            try:
                with self._client(deadline) as api:
                    outcome.append(act(api))
            except Exception as error:  # noqa: BLE001 - carried over to the calling thread, which raises it
                outcome.append(error)

        thread = threading.Thread(target=run, name=f"engine {what}", daemon=True)
        thread.start()
        thread.join(deadline)
        if not outcome:
            raise EngineTimeout(f"The Docker Engine did not finish '{what}' within {deadline:.0f} s.")
        if isinstance(outcome[0], Exception):
            raise _translate(what, outcome[0], deadline) from outcome[0]
        return outcome[0]

    @contextmanager
    def _client(self, deadline: float) -> Iterator[docker.APIClient]:
        """A client for one call: a connection that was given up is never used again."""
        settings: dict[str, Any] = dict(kwargs_from_env())
        if self._url is not None:
            settings["base_url"] = self._url
        api = docker.APIClient(**settings, version=self._api_version, timeout=max(1, int(deadline)))
        self._api_version = api.api_version
        try:
            yield api
        finally:
            api.close()


class _NotThere(EngineError):
    """The thing asked about does not exist (any more)."""


def _translate(what: str, error: Exception, deadline: float) -> Exception:
    match error:
        case NotFound():
            return _NotThere(f"The Docker Engine could not '{what}': {_explanation(error)}")
        case APIError():
            return EngineError(f"The Docker Engine refused '{what}': {_explanation(error)}")
        case requests.exceptions.ReadTimeout() | TimeoutError():
            return EngineTimeout(f"The Docker Engine did not finish '{what}' within {deadline:.0f} s.")
        case StreamParseError() | DockerException() if type(error) is not DockerException:
            return EngineError(f"The Docker Engine could not '{what}': {error}")
        case DockerException() | requests.exceptions.RequestException() | OSError():
            return EngineUnreachable(_unreachable_advice(error))
        case _:
            return error


def _explanation(error: APIError) -> str:
    return str(error.explanation).strip()[:500]


def _unreachable_advice(error: Exception) -> str:
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return "No permission to use the Docker Engine's socket. Run this as root or as a member of the docker group."
    return (
        "No Docker Engine answers. Start it (systemctl start docker), set DOCKER_HOST to one that runs, "
        "or try `sandbox evaluation up` for a private one."
    )


def _runtime_advice(runtime: str, registered: Sequence[str]) -> str:
    known = f"it knows {', '.join(registered)}"
    if runtime == "sysbox-runc":
        return (
            f"The runtime sysbox-runc is not registered with the Docker Engine ({known}). "
            "Install sysbox 0.7.1 or newer (https://github.com/nestybox/sysbox) and restart the engine; "
            "to evaluate without it, see docs/userns-runc.md."
        )
    return (
        f"The runtime {runtime} is not registered with the Docker Engine ({known}). "
        'Add it under "runtimes" in the engine\'s daemon.json, or name another runtime in the profile.'
    )


def _image_advice(image: str) -> str:
    return f"The image {image} is not on the Docker Engine. Build it: docker compose build."


def _status(state: Mapping[str, Any]) -> str:
    if state["Status"] != "exited":
        return str(state["Status"])
    killed = ", killed for want of memory" if state["OOMKilled"] else ""
    return f"exited with code {state['ExitCode']}{killed}"


def _by(installation: InstallationId, name: str | None = None) -> dict[str, list[str]]:
    labels = [f"{LABEL_INSTALLATION}={installation}"]
    return {"label": labels if name is None else [*labels, f"{LABEL_NAME}={name}"]}


def _ipam(subnet: IPv4Network) -> IPAMConfig:
    return IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet), gateway=str(subnet.network_address + 1))])


def _create_container(api: docker.APIClient, spec: ContainerSpec) -> str:
    name = str(spec.name)
    host_config = api.create_host_config(
        runtime=spec.runtime,
        network_mode=name,
        mounts=[Mount(DOCKER_DATA, name, type="volume")],
        mem_limit=spec.memory,
        memswap_limit=spec.memory,
        pids_limit=spec.pids,
        cpuset_cpus=spec.cpuset,
        nano_cpus=spec.nano_cpus,
        ulimits=[Ulimit(name=limit.name, soft=limit.soft, hard=limit.hard) for limit in spec.ulimits],
        restart_policy={"Name": "no"},
        log_config=LogConfig(type="json-file", config={"max-size": "10m"}),
    )
    created = api.create_container(
        spec.image,
        name=name,
        hostname=name,
        labels=dict(spec.labels),
        host_config=host_config,
        # The keeper proves health from outside; a probe inside would be one more process to tell from a job's.
        healthcheck={"test": ["NONE"]},
    )
    return str(created["Id"])


def _tar(files: Sequence[GivenFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(str(PurePosixPath(file.path).relative_to("/")))
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
