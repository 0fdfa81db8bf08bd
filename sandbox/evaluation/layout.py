"""The private engine's folders, and the names and addresses that it uses on the host."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

DEFAULT_STATE = Path("/var/lib/sandbox-evaluation")
DEFAULT_RUN = Path("/run/sandbox-evaluation")
RUNTIME = "userns-runc"

# Reserved for tests of networks (RFC 2544): no site routes it, so it hides nobody's addresses.
ENGINE_RANGE = IPv4Network("198.18.0.0/16")
# The range for sandboxes' networks that a keeper uses by default.
KEEPER_RANGE = IPv4Network("10.213.0.0/16")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths and names of one private engine. There is one per host unless a test makes another."""

    state: Path = DEFAULT_STATE
    run: Path = DEFAULT_RUN
    netns: str = "sandbox-evaluation"
    host_link: str = "sbxeval-host"
    engine_link: str = "sbxeval-engine"
    addresses: IPv4Network = ENGINE_RANGE

    @property
    def link(self) -> IPv4Network:
        """The network between host and engine."""
        return IPv4Network((self.addresses.broadcast_address - 3, 30))

    @property
    def host_address(self) -> IPv4Address:
        """The host's end of the link."""
        return self.link[1]

    @property
    def engine_address(self) -> IPv4Address:
        """The engine's end of the link."""
        return self.link[2]

    @property
    def bridge_address(self) -> str:
        """Address and size of the engine's default bridge."""
        return f"{self.addresses[1]}/24"

    @property
    def pool(self) -> IPv4Network:
        """The range for the engine's other networks, apart from bridge and link."""
        return list(self.addresses.subnets(prefixlen_diff=2))[1]

    @property
    def url(self) -> str:
        """The value for DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def socket(self) -> Path:
        """The engine's socket."""
        return self.run / "docker.sock"

    @property
    def netns_file(self) -> Path:
        """The network namespace, for `nsenter --net=`."""
        return Path("/run/netns", self.netns)

    @property
    def data(self) -> Path:
        """The engine's data root."""
        return self.state / "docker"

    @property
    def tools(self) -> Path:
        """The folder of programs that comes first in the engine's PATH."""
        return self.state / "bin"

    @property
    def daemon_json(self) -> Path:
        """The engine's configuration; its path on the command line identifies the process as ours."""
        return self.state / "daemon.json"

    @property
    def resolv_conf(self) -> Path:
        """The engine's and its containers' /etc/resolv.conf."""
        return self.state / "resolv.conf"

    @property
    def launcher(self) -> Path:
        """The program that the engine calls as its runtime."""
        return self.state / RUNTIME

    @property
    def wrapper(self) -> Path:
        """The copy of userns_runc.py, so that the runtime survives a move of the checkout."""
        return self.state / "userns_runc.py"

    @property
    def log(self) -> Path:
        """The output of dockerd and containerd."""
        return self.state / "engine.log"

    @property
    def changes(self) -> Path:
        """The record of changes to the host, which `down` undoes."""
        return self.state / "host-changes.json"

    @property
    def lock(self) -> Path:
        """Held while the engine is brought up or down."""
        return self.state / "lock"

    @property
    def docker_pid(self) -> Path:
        """dockerd's pid file."""
        return self.run / "docker.pid"

    @property
    def containerd_socket(self) -> Path:
        """The socket of the engine's own containerd; another engine on the host keeps its own."""
        return self.run / "containerd.sock"

    @property
    def containerd_toml(self) -> Path:
        """containerd's configuration."""
        return self.state / "containerd.toml"
