"""The keeper's calls to a Docker Engine."""

import itertools
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker
from docker.constants import DEFAULT_UNIX_SOCKET, MINIMUM_DOCKER_API_VERSION
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit

from sandbox.calls import CallBegan, CallEnded, End, Listed, Step
from sandbox.engine import archive
from sandbox.engine.advice import (
    STORAGE_DRIVER,
    STORAGE_FIX,
    image_missing,
    no_local_socket,
    runtime_missing,
    storage_unfit,
)
from sandbox.engine.call import Call
from sandbox.engine.facts import (
    ContainerFacts,
    EngineFacts,
    ImageFacts,
    Owned,
    container_facts,
    image_facts,
    owned_of,
)
from sandbox.engine.refusal import NotThere, RemovalUnderWay, in_our_words, items_of, understood
from sandbox.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    Fault,
    ImageMissing,
    RuntimeMissing,
    SandboxFault,
    StorageUnfit,
)
from sandbox.template import (
    DOCKER_DATA,
    LABEL_INSTALLATION,
    LABEL_NAME,
    LABEL_PROFILE,
    ContainerSpec,
    GivenFile,
    InstallationId,
)
from sandbox.text import one_line

_T = TypeVar("_T")

CALL_DEADLINE = 30.0
"""Seconds for a call that should be quick."""
START_DEADLINE = 90.0
"""Seconds for create and start: on a loaded host with sysbox, a start took 22 and then failed."""
REMOVE_DEADLINE = 150.0
"""Seconds for a removal. By then the runtime hangs, which `health.REMOVAL_HANGS` reports earlier."""
PROBE_DEADLINE = 10.0
"""Seconds for the runtime's answer to a harmless question; 50 ms is usual."""
_PEER = struct.Struct("3i")
"""Process id, user and group of the listening process: unix(7)."""
MOST_CALLS = 64
"""Most calls under way at once; each has a connection of its own."""

Watch = Callable[[CallBegan | Listed | CallEnded], None]
"""Hears of each call, in the thread that makes it. Must not raise or call the engine."""


class Engine:
    """A Docker Engine on this host, by its URL. `None` means `DOCKER_HOST`, as for any Docker tool."""

    def __init__(self, url: str | None = None, watch: Watch = lambda _: None) -> None:
        self._url = url
        self._watch = watch
        self._api_version: str | None = None
        self._numbers = itertools.count()
        self._room = threading.BoundedSemaphore(MOST_CALLS)

    def check(self, runtime: str, image: str) -> None:
        """Raise unless the engine answers, knows `runtime` and has `image`."""
        info = self._call(Step.INFO, lambda api: api.info())
        with understood(Step.INFO):
            registered = sorted(info.get("Runtimes") or {})
        if runtime not in registered:
            raise RuntimeMissing(runtime_missing(runtime, registered))
        if self.image_id(image) is None:
            raise ImageMissing(image_missing(image))

    def check_storage(self) -> None:
        """Raise `StorageUnfit` unless jobs' leftovers can be read on the host, which sandboxes' records need.

        Not part of `check`, since a sandbox that nobody judges works with any storage.
        """
        about = self.about()
        if about.driver != STORAGE_DRIVER:
            seen = storage_unfit(about.driver, about.containerd_store)
            raise StorageUnfit(f"The Docker Engine cannot be used here. {seen} {STORAGE_FIX}")

    def about(self) -> EngineFacts:
        """Ask the engine about itself."""
        info = self._call(Step.INFO, lambda api: api.info())
        with understood(Step.INFO):
            status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == 2)
            return EngineFacts(
                version=str(info["ServerVersion"]),
                driver=str(info["Driver"]),
                containerd_store=status.get("driver-type") == "io.containerd.snapshotter.v1",
                runtimes={name: str(runtime.get("path", "")) for name, runtime in (info["Runtimes"] or {}).items()},
                cgroup_version=str(info.get("CgroupVersion") or "1"),
                data_root=Path(info["DockerRootDir"]),
            )

    def image_id(self, image: str) -> str | None:
        """Return the id that an image's name or id stands for; None when there is none."""
        try:
            found = self._call(Step.FIND_IMAGE, lambda api: api.inspect_image(image))  # type: ignore[no-untyped-call]
        except NotThere:
            return None
        with understood(Step.FIND_IMAGE):
            return str(found["Id"])

    def image(self, name: str) -> ImageFacts:
        """Look at an image by name or id. Raises `ImageMissing`."""
        try:
            found = self._call(Step.FIND_IMAGE, lambda api: api.inspect_image(name))  # type: ignore[no-untyped-call]
        except NotThere:
            raise ImageMissing(image_missing(name)) from None
        with understood(Step.FIND_IMAGE):
            return image_facts(found["Config"] or {})

    def create_network(self, spec: ContainerSpec) -> None:
        """Create the sandbox's own bridge network. Raises `NameTaken` when the name is in use."""
        self._call(
            Step.CREATE_NETWORK,
            lambda api: api.create_network(
                str(spec.name),
                driver="bridge",
                labels=dict(spec.labels),
                ipam=_ipam(spec.subnet),
                check_duplicate=True,
                options={
                    "com.docker.network.bridge.name": spec.name.bridge,
                    "com.docker.network.driver.mtu": str(spec.mtu),
                    # The walls drop IPv6, and an engine may be configured to give IPv6 to every network that does not
                    # refuse it.
                    "com.docker.network.enable_ipv6": "false",
                },
            ),
        )

    def create(self, spec: ContainerSpec) -> str:
        """Create the volume and the container, put the given files in, and return the container's id. Nothing runs yet.

        Raises `NetworkMissing` when the engine wants the network to be there first (some engines ask for it only at the
        start), and `NameTaken` when the name is in use: a create that was given up can still finish.
        """
        labels, name = dict(spec.labels), str(spec.name)
        self._call(Step.CREATE_VOLUME, lambda api: api.create_volume(name, labels=labels))
        container_id = self._call(Step.CREATE, lambda api: _create_container(api, spec), START_DEADLINE)
        self.put_files(container_id, spec.files)
        return container_id

    def put_files(self, container_id: str, given: Sequence[GivenFile]) -> None:
        """Put files into a stopped container."""
        packed = archive.tar(given)
        self._call(Step.PUT_FILES, lambda api: api.put_archive(container_id, "/", packed), about=container_id)

    def files_in(self, container_id: str, folder: str) -> list[str]:
        """List the names directly below a small folder of a stopped container; empty when the folder is missing."""

        def read(api: docker.APIClient) -> bytes:
            chunks, _ = api.get_archive(container_id, folder)
            return b"".join(chunks)

        try:
            packed = self._call(Step.LIST_FILES, read, about=container_id)
        except NotThere:
            return []
        with understood(Step.LIST_FILES):
            return [path.name for path in archive.paths(packed) if len(path.parts) == 2]

    def start(self, container_id: str) -> None:
        """Start a created container. Raises `NetworkMissing` when its network is missing."""
        self._call(Step.START, lambda api: api.start(container_id), START_DEADLINE, container_id)

    def facts(self, container: str) -> ContainerFacts:
        """Look at a container by id or name. Raises `SandboxFault` (`gone`) when there is none."""
        try:
            found = self._call(Step.INSPECT, lambda api: api.inspect_container(container), about=container)
        except NotThere:
            raise SandboxFault(Fault.GONE, "Its container is gone: somebody removed it.") from None
        with understood(Step.INSPECT):
            return container_facts(found)

    def shows_its_host(self) -> bool:
        """Whether this process sees the processes of the engine's host, not only those of its own pid namespace.

        The kernel gives the id of the process that listens on the engine's socket, in our namespace: 0 when it is
        outside. A `/proc` with `hidepid=ptraceable` still hides it, like every process of a root with more rights than
        ours.
        """
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CALL_DEADLINE)
                connection.connect(_socket_path(self._url))
                told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError as error:
            raise EngineUnreachable(f"The Docker Engine's socket cannot be connected to: {error}.") from error
        pid, _, _ = _PEER.unpack(told)
        return pid != 0 and Path(f"/proc/{pid}").exists()

    def data_root(self) -> Path:
        """Return the engine's folder for containers and volumes on this host."""
        info = self._call(Step.INFO, lambda api: api.info())
        with understood(Step.INFO):
            return Path(info["DockerRootDir"])

    def volume_path(self, name: str) -> str:
        """Return a volume's folder on this host."""
        volume = self._call(Step.FIND_VOLUME, lambda api: api.inspect_volume(name))
        with understood(Step.FIND_VOLUME):
            return str(volume["Mountpoint"])

    def probe(self, container_id: str) -> None:
        """Ask the runtime a harmless question: for the processes of a running container. Raises `EngineError`.

        With a wedged sysbox-fs this hangs, as removals do. A host without `ps` refuses it.
        """
        self._call(Step.TOP, lambda api: api.top(container_id), PROBE_DEADLINE, container_id)

    def last_words(self, container_id: str) -> str:
        """Return the last lines of the container's log, for an error message. Never raises; limited in size."""
        try:
            with understood(Step.LOGS):
                logs = self._call(Step.LOGS, lambda api: api.logs(container_id, tail=3, stream=False))
        except EngineError:
            return ""
        return one_line(logs[-600:].decode(errors="replace")).strip()

    def owned(self, installation: InstallationId) -> list[Owned]:
        """Return every container with the installation's label, running or not."""
        found: list[Owned] = []

        def ask(api: docker.APIClient, number: int) -> None:
            containers = api.containers(all=True, filters=_by(installation))
            with understood(Step.LIST):
                found.extend(map(owned_of, items_of(containers)))
            self._watch(Listed(number, {container.id: container.running for container in found}))

        self._call_numbered(Step.LIST, ask)
        return found

    def names(self, installation: InstallationId) -> set[str]:
        """Return the names of sandboxes that have a container, a network or a volume left."""
        return set(self.profiles(installation))

    def profiles(self, installation: InstallationId) -> dict[str, str]:
        """Return the name of each such sandbox, with the name of its profile."""
        labels = self._labels(_by(installation))
        return {str(label.get(LABEL_NAME, "")): str(label.get(LABEL_PROFILE, "")) for label in labels}

    def taken_subnets(self, driver: str | None = None) -> list[IPv4Network]:
        """Return the subnets of all of this engine's networks, whoever made them, or of those with one driver."""
        filters = {"driver": [driver]} if driver else None
        networks = self._call(Step.LIST_NETWORKS, lambda api: api.networks(filters=filters))
        with understood(Step.LIST_NETWORKS):
            pools = [pool for network in items_of(networks) for pool in (network["IPAM"]["Config"] or [])]
            return [IPv4Network(pool["Subnet"], strict=False) for pool in pools if ":" not in pool.get("Subnet", ":")]

    def remove(self, installation: InstallationId, name: str | None = None) -> int:
        """Remove an installation's containers, networks and volumes, or those of one sandbox.

        Finds them by label, never by name alone. Returns how many containers there were. Tries everything, then raises
        the first `EngineError`.
        """
        filters = _by(installation, name)
        refusals: list[EngineError] = []

        def remove(kind: Literal["container", "network", "volume"], key: str, **options: bool) -> None:
            try:
                self._remove(kind, key, **options)
            except EngineError as error:  # one failure must not keep the others
                refusals.append(error)

        containers = self._listed("Id", Step.LIST, lambda api: api.containers(all=True, filters=filters))
        for container in containers:
            remove("container", container, force=True, v=True)
        for network in self._listed("Id", Step.LIST_NETWORKS, lambda api: api.networks(filters=filters)):
            remove("network", network)
        for volume in self._listed("Name", Step.LIST_VOLUMES, lambda api: api.volumes(filters=filters)["Volumes"]):
            remove("volume", volume)
        if refusals:
            raise refusals[0]
        return len(containers)

    def installations(self) -> set[InstallationId]:
        """Return every installation that has containers, networks or volumes on this engine."""
        return {InstallationId(labels[LABEL_INSTALLATION]) for labels in self._labels({"label": [LABEL_INSTALLATION]})}

    # -- inside --------------------------------------------------------------------------------------------------

    def _labels(self, filters: dict[str, list[str]]) -> list[dict[str, str]]:
        """Return the labels of every container, network and volume that the filters select."""
        return [
            *self._listed("Labels", Step.LIST, lambda api: api.containers(all=True, filters=filters)),
            *self._listed("Labels", Step.LIST_NETWORKS, lambda api: api.networks(filters=filters)),
            *self._listed("Labels", Step.LIST_VOLUMES, lambda api: api.volumes(filters=filters)["Volumes"]),
        ]

    def _listed(self, key: str, step: Step, act: Callable[[docker.APIClient], Any]) -> list[Any]:
        """Return the value of `key` in each item of a listing."""
        with understood(step):
            return [item[key] for item in items_of(self._call(step, act))]

    def _remove(self, kind: Literal["container", "network", "volume"], key: str, **options: bool) -> None:
        """Remove one thing; a missing one is a success."""
        step = {"container": Step.REMOVE, "network": Step.REMOVE_NETWORK, "volume": Step.REMOVE_VOLUME}[kind]
        with suppress(NotThere):
            try:
                self._call(step, lambda api: getattr(api, f"remove_{kind}")(key, **options), REMOVE_DEADLINE, key)
            except RemovalUnderWay:
                self._call(step, lambda api: api.wait(key, condition="removed"), REMOVE_DEADLINE, key)

    def _call(
        self,
        step: Step,
        act: Callable[[docker.APIClient], _T],
        deadline: float = CALL_DEADLINE,
        about: str | None = None,
    ) -> _T:
        return self._call_numbered(step, lambda api, _: act(api), deadline, about)

    def _call_numbered(
        self,
        step: Step,
        act: Callable[[docker.APIClient, int], _T],
        deadline: float = CALL_DEADLINE,
        about: str | None = None,
    ) -> _T:
        """Make one call and tell the watch. The call ends at the deadline (seconds), whatever the engine does."""
        if not self._room.acquire(timeout=deadline):
            raise EngineTimeout(
                f"More than {MOST_CALLS} calls to the Docker Engine are under way; '{step}' had to wait."
            )
        number, end = next(self._numbers), End.REFUSED
        try:
            self._watch(CallBegan(number, step, about))
            answer = self._ask(step, lambda api: act(api, number), deadline)
            end = End.ANSWERED
        except EngineTimeout:
            end = End.TIMED_OUT
            raise
        except EngineUnreachable:
            end = End.UNREACHABLE
            raise
        finally:
            self._room.release()
            self._watch(CallEnded(number, end))
        return answer

    def _ask(self, step: Step, act: Callable[[docker.APIClient], _T], deadline: float) -> _T:
        call = Call(_socket_path(self._url), deadline)
        try:
            version = self._api_version or self._negotiate(call)
            with call.client(version) as api:
                return act(api)
        except EngineError:
            raise
        except Exception as error:
            told = in_our_words(step, error, call, deadline)
            if isinstance(told, EngineUnreachable):
                self._api_version = None  # the next engine to answer may be another
            if told is error:
                raise
            raise told from error

    def _negotiate(self, call: Call) -> str:
        """Return the engine's API version."""
        with call.client(MINIMUM_DOCKER_API_VERSION) as api:
            answer = api.version(api_version=False)
        with understood(Step.VERSION):
            self._api_version = str(answer["ApiVersion"])
            return self._api_version


def _socket_path(url: str | None) -> str:
    """Return the path of the engine's socket. Raises `EngineUnreachable` when it is not on this host."""
    named = url or os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET
    scheme, _, path = named.rpartition("://")
    if scheme not in ("unix", "http+unix") or not path:
        raise EngineUnreachable(no_local_socket(named))
    return "/" + path.lstrip("/")


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
        dns=list(spec.dns),
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
        environment={"SANDBOX_DOCKER": spec.docker},
        host_config=host_config,
        # The keeper proves health from outside; a health check inside would add processes that look like a job's.
        healthcheck={"test": ["NONE"]},
    )
    with understood(Step.CREATE):
        return str(created["Id"])
