"""Real sandboxes on the real engine, attacked from inside as root with anything that a job could bring along.

The same attempts are made before the walls are up, when the engine's own rules let most of them through.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from sandbox import host
from sandbox.engine import Engine
from sandbox.evaluation.layout import Layout
from sandbox.identity import new_identity
from sandbox.network import Policy, Refusal, Wall, Walls, WallState, free_subnet, require_bridge
from sandbox.profile import Network, Profile
from sandbox.template import InstallationId, SandboxName, container_spec
from tests.waiting import until
from tests.walls.namespaces import Namespace, new_namespace

RANGE = IPv4Network("10.213.0.0/16")
OUTSIDE_LINK, OUTSIDE = "198.51.100.1", "198.51.100.2"
INTERNET = "203.0.113.5"
# As link-local as a cloud's metadata and nobody's: the real one is never sent anything.
METADATA = "169.254.77.77"
SPOOFED = "198.51.100.200"
"""As `attack.py` has it."""
OPEN, SHUT = Policy(Network.INTERNET), Policy(Network.NONE)

ATTACK = (Path(__file__).parent / "attack.py").read_text()


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox of the image and runtime that is tested, made as the keeper makes it, without the keeper."""

    container: Container
    bridge: str
    subnet: IPv4Network
    address: str

    @property
    def gateway(self) -> str:
        return str(self.subnet[1])

    def run(self, script: str, *arguments: str) -> str:
        """Run a Python script inside, as root."""
        code, output = self.container.exec_run(["python3", "-c", script, *arguments], user="0")
        assert isinstance(output, bytes)
        assert code == 0, output.decode()
        return output.decode()


@dataclass(frozen=True)
class Site:
    """Two sandboxes, what is around them, and what to try."""

    engine: Namespace
    one: Sandbox
    two: Sandbox
    walls: Walls
    neighbours: list[IPv4Network]
    targets: dict[str, tuple[str, str, int]]

    def ensure(self, one: Policy = OPEN) -> WallState:
        self.walls.put(self.one.bridge, Wall(self.one.subnet, one))
        self.walls.put(self.two.bridge, Wall(self.two.subnet, OPEN))
        return self.engine.call(lambda: self.walls.ensure(self.neighbours))

    def reached(self, sandbox: Sandbox) -> set[str]:
        """What answers a root in this sandbox."""
        answered: list[str] = json.loads(sandbox.run(ATTACK, json.dumps(self.targets)))
        return set(answered)

    def refused(self) -> dict[Refusal, int]:
        return {why: count.packets for why, count in self.engine.call(self.walls.counters).items()}


@pytest.fixture(scope="module")
def site(docker_client: docker.DockerClient, sandbox_runtime: str, sandbox_image: str) -> Iterator[Site]:
    """Everything on the engine that is tested, and in its network namespace; gone at the end."""
    private = Layout()
    there = private.netns_file if os.environ.get("DOCKER_HOST") == private.url else Path("/proc/self/ns/net")
    installation = InstallationId(uuid.uuid4().hex[:8])
    profile = Profile(runtime=sandbox_runtime, image=sandbox_image)
    with ExitStack() as stack:
        engine = Namespace(there)
        stack.callback(engine.close)
        walls = Walls(installation)
        stack.callback(lambda: engine.call(walls.remove))
        stack.enter_context(outside_of(engine))
        stack.callback(Engine().remove, installation)
        one, two = (make(docker_client, SandboxName(installation, number), profile) for number in (1, 2))
        # A careless host would even route what a sandbox makes up; the route goes with the bridge.
        engine.ip(f"route add {SPOOFED}/32 via {one.address}")
        container = stack.enter_context(web_server(docker_client, sandbox_image))
        published = published_port(container)
        neighbour = str(container.attrs["NetworkSettings"]["IPAddress"])
        port = stack.enter_context(service(engine))
        link_local = link_local_of(engine, one.bridge)
        targets = {
            "the internet": ("tcp", INTERNET, 443),
            "the internet by udp": ("udp", INTERNET, 443),
            "the internet by ping": ("icmp", INTERNET, 0),
            "its own gateway by ping": ("icmp", one.gateway, 0),
            "a service of the host": ("tcp", one.gateway, port),
            "a service of the host by udp": ("udp", one.gateway, port),
            "a service of the host on its other address": ("tcp", OUTSIDE_LINK, port),
            "a service of the host over link-local IPv6": ("tcp", f"{link_local}%eth0", port),
            "a service of the host over IPv6 by udp": ("udp", f"{link_local}%eth0", port),
            "the host over link-local IPv6 by ping": ("icmp", f"{link_local}%eth0", 0),
            "a published port": ("tcp", one.gateway, published),
            "a published port on its other address": ("tcp", OUTSIDE_LINK, published),
            "another container": ("tcp", neighbour, 8000),
            "another sandbox": ("tcp", two.address, 22),
            "another sandbox by ping": ("icmp", two.address, 0),
            "metadata": ("tcp", METADATA, 80),
            "metadata by udp": ("udp", METADATA, 80),
            "metadata by ping": ("icmp", METADATA, 0),
            "a spoofed source": ("spoofed", INTERNET, 443),
        }
        yield Site(engine, one, two, walls, [IPv4Network(neighbour)], targets)


def make(client: docker.DockerClient, name: SandboxName, profile: Profile) -> Sandbox:
    engine = Engine()
    subnet = free_subnet(RANGE, engine.taken_subnets(), 4000 + name.generation)
    spec = container_spec(name, "walls", profile, new_identity(str(name)), subnet, host.look())
    engine.create_network(spec)
    container_id = engine.create(spec)
    engine.start(container_id)
    address = engine.facts(container_id).address
    assert address is not None
    return Sandbox(client.containers.get(container_id), name.bridge, subnet, address)


@contextmanager
def web_server(client: docker.DockerClient, image: str) -> Iterator[Container]:
    """Another container on the engine, with a port that the host publishes on every address; as the runner's API is."""
    container = client.containers.run(
        image,
        ["-m", "http.server", "8000"],
        entrypoint="python3",
        ports={"8000/tcp": None},
        healthcheck={"test": ["NONE"]},
        network="bridge",
        detach=True,
    )
    try:
        until("its port is published", lambda: published_port(container))
        yield container
    finally:
        container.remove(force=True, v=True)


def published_port(container: Container) -> int:
    """The host's port, or 0 as long as there is none."""
    container.reload()
    bindings = container.ports.get("8000/tcp")
    return int(bindings[0]["HostPort"]) if bindings else 0


@contextmanager
def outside_of(engine: Namespace) -> Iterator[None]:
    """A stand-in for everything beyond the host, reached by a route of the engine's namespace."""
    with new_namespace("outside") as outside:
        link = f"walls{uuid.uuid4().hex[:8]}"
        engine.ip(
            f"link add {link} type veth peer name eth0 netns {outside.file.name}\n"
            f"address add {OUTSIDE_LINK}/30 dev {link}\n"
            f"link set {link} up\n"
        )
        try:
            outside.ip(
                f"address add {OUTSIDE}/30 dev eth0\nlink set eth0 up\n"
                f"address add {INTERNET}/32 dev lo\naddress add {METADATA}/32 dev lo\n"
                f"route add default via {OUTSIDE_LINK}"
            )
            engine.ip(f"route add {INTERNET}/32 via {OUTSIDE}\nroute add {METADATA}/32 via {OUTSIDE}")
            with service(outside, 443, INTERNET), service(outside, 80, METADATA):
                yield
        finally:
            engine.ip(f"link delete {link}")


@contextmanager
def service(where: Namespace, port: int = 0, address: str = "::") -> Iterator[int]:
    """Answers over TCP and UDP, on every address of a namespace of either family unless told. Yields the port."""
    every = address == "::"
    family = socket.AF_INET6 if every else socket.AF_INET
    server = where.call(lambda: socket.create_server((address, port), family=family, dualstack_ipv6=every))
    datagrams = where.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    port = server.getsockname()[1]
    datagrams.bind((address, port))

    def greet() -> None:
        with suppress(OSError):
            while True:
                with server.accept()[0] as caller, suppress(OSError):
                    caller.sendall(b"hello")

    def echo() -> None:
        while (message := datagrams.recvfrom(2048))[1]:  # from nobody: it was shut down
            with suppress(OSError):
                datagrams.sendto(*message)

    threads = [threading.Thread(target=act, daemon=True) for act in (greet, echo)]
    for thread in threads:
        thread.start()
    try:
        yield port
    finally:
        for sock in (server, datagrams):
            with suppress(OSError):  # wakes the thread that waits in it
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        server.close()
        datagrams.close()


def link_local_of(engine: Namespace, bridge: str) -> str:
    # The engine switches IPv6 off on a bridge that it gives no IPv6 network, or not: some versions do.
    engine.sysctl(f"ipv6/conf/{bridge}/disable_ipv6", 0)

    def shown() -> list[str]:
        return engine.run("ip", "-6", "-brief", "address", "show", "dev", bridge, "scope", "link", "-tentative").split()

    until("the bridge has a link-local address", shown)
    return shown()[2].partition("/")[0]


SOCKETS = """
import socket
for file in ("mountinfo", "net/unix"):
    print(open(f"/proc/self/{file}").read())
engine = socket.socket(socket.AF_UNIX)
engine.settimeout(60)
try:
    engine.connect("/var/run/docker.sock")
    engine.sendall(b"GET /info HTTP/1.0\\r\\n\\r\\n")
    print(engine.makefile().read())
except OSError as error:
    print(error)
"""

WAY_OUT = {"the internet", "the internet by udp", "the internet by ping"}
# These the Docker Engine itself keeps apart, as long as nobody flushes its rules.
KEPT_BY_THE_ENGINE = {"another container", "another sandbox", "another sandbox by ping"}


def test_without_the_walls_nearly_everything_answers(site: Site) -> None:
    site.engine.call(site.walls.remove)
    until("the sandbox has its network", lambda: "the internet" in site.reached(site.one))
    assert site.reached(site.one) >= set(site.targets) - KEPT_BY_THE_ENGINE


def test_with_the_walls_only_the_way_out_answers_and_the_rest_is_counted(site: Site) -> None:
    site.ensure()
    before = site.refused()
    assert site.reached(site.one) == WAY_OUT
    after = site.refused()
    grown = {why for why in after if after[why] > before.get(why, 0)}
    assert grown >= {
        Refusal.HOST,
        Refusal.IPV6,
        Refusal.METADATA,
        Refusal.NEIGHBOUR,
        Refusal.SANDBOX,
        Refusal.SPOOFED,
    }


def test_without_network_nothing_answers(site: Site) -> None:
    site.ensure(SHUT)
    assert site.reached(site.one) == set()
    site.ensure(OPEN)
    assert site.reached(site.one) == WAY_OUT


def test_after_a_flush_everything_is_refused_again(site: Site) -> None:
    site.ensure()
    site.engine.run("nft", "flush", "table", "inet", site.walls._table)
    assert site.reached(site.one) > WAY_OUT
    assert site.ensure() is WallState.PUT_BACK
    assert site.reached(site.one) == WAY_OUT


def test_the_keeper_still_gets_in(site: Site) -> None:
    site.ensure(SHUT)
    for sandbox in (site.one, site.two):
        site.engine.call(partial(require_bridge, sandbox.bridge))
        until("sshd answers", partial(site.engine.call, partial(says_ssh, sandbox)), 60)


def says_ssh(sandbox: Sandbox) -> bool:
    with suppress(OSError), socket.create_connection((sandbox.address, 22), timeout=5) as call:
        return call.recv(4) == b"SSH-"
    return False


def test_neither_the_engines_nor_the_keepers_socket_is_there(site: Site, docker_client: docker.DockerClient) -> None:
    """A unix socket passes every wall: it must be neither mounted nor to be found in the abstract namespace."""
    seen = site.one.run(SOCKETS)
    assert "docker.sock /" not in seen
    assert "/run/sandbox" not in seen
    assert str(docker_client.info()["ID"]) not in seen
