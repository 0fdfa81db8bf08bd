"""The container template: the order to the engine for one sandbox. Pure; `engine` sends it.

What is *not* here matters as much: no privileged flag, no host mount, no device, no seccomp or AppArmor override, no
added capability. The runtime is the wall, and each of those would be a hole in it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, NewType

from sandbox.host import HostFacts
from sandbox.identity import Identity
from sandbox.profile import InnerDocker, Network, Profile

if TYPE_CHECKING:
    from jinja2 import Environment

InstallationId = NewType("InstallationId", str)
"""Eight hex digits for one keeper's state folder; every container, network and volume that it makes carries them."""

LABEL_INSTALLATION = "sandbox-runner.installation"
LABEL_NAME = "sandbox-runner.name"
LABEL_PROFILE = "sandbox-runner.profile"

GIVEN_FOLDER = "/etc/sandbox"
"""Where the image finds the files that its maker gives it before the start (contract: `docs/sandbox-image.md`)."""

DOCKER_DATA = "/var/lib/docker"
LOGIN_USER = "sandbox"
_NOWHERE = "127.0.0.1"
"""An address in the sandbox where no resolver listens."""
_NOFILE_HARD = 1024**2


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file put into the container between create and start. `mode` is octal permission bits; the owner is root."""

    path: str
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class SandboxName:
    """The names of one creation. All carry the generation, so that a late create collides instead of doubling."""

    installation: InstallationId
    generation: int

    def __str__(self) -> str:
        return f"sandbox-{self.installation}-{self.generation}"

    @classmethod
    def read(cls, text: str) -> "SandboxName | None":
        """Parse a name; None when no creation has such a name."""
        found = re.fullmatch("sandbox-([0-9a-f]{8})-([1-9][0-9]{0,17})", text)
        return cls(InstallationId(found[1]), int(found[2])) if found else None

    @property
    def bridge(self) -> str:
        """The bridge interface on the host: at most 15 characters, the kernel's limit."""
        return f"sbx{self.installation[:6]}{self.generation % 0xFFFFFF:x}"


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit, as `setrlimit(2)` knows it."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """The whole order to the engine for one sandbox. The name is also the network's and the volume's."""

    name: SandboxName
    image: str
    runtime: str
    labels: Mapping[str, str]
    subnet: IPv4Network
    mtu: int
    dns: Sequence[str]
    """The servers that the engine's resolver for this network asks; empty for the host's own."""
    ulimits: Sequence[Ulimit]
    memory: int
    pids: int
    cpuset: str | None
    nano_cpus: int | None
    docker: InnerDocker
    files: Sequence[GivenFile]


def container_spec(
    name: SandboxName,
    profile_name: str,
    profile: Profile,
    identity: Identity,
    subnet: IPv4Network,
    host: HostFacts,
    docker: InnerDocker = InnerDocker.EAGER,
) -> ContainerSpec:
    """Fill in the template. A profile that asks for more open files than the host can grant gets what it can."""
    most = host.nofile_ceiling
    return ContainerSpec(
        name=name,
        image=profile.image,
        runtime=profile.runtime,
        labels={
            LABEL_INSTALLATION: name.installation,
            LABEL_NAME: str(name),
            LABEL_PROFILE: profile_name,
        },
        subnet=subnet,
        mtu=host.mtu,
        # By default the engine asks the host's resolvers, from the host and so past every wall.
        dns=[_NOWHERE] if profile.network is Network.NONE else [],
        ulimits=[Ulimit("nofile", min(profile.nofile, most), min(max(profile.nofile, _NOFILE_HARD), most))],
        memory=int(profile.memory),
        pids=profile.pids,
        cpuset=profile.cpuset,
        nano_cpus=int(profile.cpus * 1e9) if profile.cpus is not None else None,
        docker=docker,
        files=given_files(identity, subnet, host, profile.registry_mirrors, profile.network),
    )


def given_files(
    identity: Identity,
    subnet: IPv4Network,
    host: HostFacts,
    mirrors: Sequence[str] = (),
    network: Network = Network.INTERNET,
) -> list[GivenFile]:
    """Return the files that make the sandbox this one: its keys, its services' configurations, and its resolvers."""
    files = [
        GivenFile(f"{GIVEN_FOLDER}/ssh_host_ed25519_key", identity.host.private.encode(), 0o600),
        GivenFile(f"{GIVEN_FOLDER}/authorized_keys", f"{identity.client.public}\n".encode(), 0o644),
        GivenFile(f"{GIVEN_FOLDER}/sshd_config", render_sshd_config().encode(), 0o644),
        GivenFile(f"{GIVEN_FOLDER}/daemon.json", render_daemon_json(subnet, host, mirrors).encode(), 0o644),
    ]
    # The engine's own resolver resolves names of others in a network, and a sandbox is alone. It consists of a few
    # rules in the sandbox's network namespace, which sysbox rewrites for inner containers (its own tests of that are
    # skipped as failing, nestybox/sysbox#929), and which a restarted engine breaks (live-restore, #270).
    if host.nameservers and network is not Network.NONE:
        lines = "".join(f"nameserver {address}\n" for address in host.nameservers)
        files.append(GivenFile(f"{GIVEN_FOLDER}/resolv.conf", lines.encode(), 0o644))
    return files


def render_sshd_config() -> str:
    """Render the sshd configuration of every sandbox. The image ships the same text for sandboxes started by hand."""
    return _templates().get_template("sshd_config.j2").render(user=LOGIN_USER)


def render_daemon_json(subnet: IPv4Network, host: HostFacts, mirrors: Sequence[str] = ()) -> str:
    """Render the inner Docker Engine's configuration; its networks do not shadow the sandbox's own `subnet`."""
    template = _templates().get_template("daemon.json.j2")
    text = template.render(
        inner_range=_inner_range(subnet), mtu=host.mtu, nameservers=host.nameservers, mirrors=mirrors
    )
    return json.dumps(json.loads(text), indent=2) + "\n"


def _inner_range(subnet: IPv4Network) -> IPv4Network:
    candidates = (IPv4Network("10.244.0.0/16"), IPv4Network("10.245.0.0/16"))
    return next(range_ for range_ in candidates if not range_.overlaps(subnet))


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - many import only names from here

    # Not HTML: it renders configuration, from values of ours.
    return Environment(
        loader=PackageLoader("sandbox"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
