"""What the engine is told about a sandbox, and above all what it is not told."""

import dataclasses
import json
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.host import HostFacts
from sandbox.identity import Identity, new_identity
from sandbox.profile import Network, Profile
from sandbox.template import (
    ContainerSpec,
    InstallationId,
    SandboxName,
    container_spec,
    given_files,
    render_daemon_json,
    render_sshd_config,
)

NAME = SandboxName(InstallationId("0123abcd"), 42)
SUBNET = IPv4Network("10.213.0.8/29")
HOST = HostFacts(1024**3, 1400, (IPv4Address("192.0.2.53"),))
PLENTY = 1024**3
RESOLVERS = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
HOST = HostFacts(nofile_ceiling=PLENTY, mtu=1400, nameservers=RESOLVERS)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return new_identity(str(NAME))


def spec_of(identity: Identity, profile: Profile, ceiling: int = PLENTY) -> ContainerSpec:
    return container_spec(NAME, "default", profile, identity, SUBNET, dataclasses.replace(HOST, nofile_ceiling=ceiling))


@pytest.fixture(scope="module")
def spec(identity: Identity) -> ContainerSpec:
    return spec_of(identity, Profile())


def test_there_is_no_field_that_could_open_the_wall() -> None:
    # A new field must be looked at by a person: each of those below was.
    assert {field.name for field in dataclasses.fields(ContainerSpec)} == {
        *(
            "name",
            "image",
            "runtime",
            "labels",
            "subnet",
            "mtu",
            "ulimits",
            "memory",
            "pids",
            "cpuset",
            "nano_cpus",
            "files",
            "dns",
            "docker",
        )
    }


def test_without_a_network_the_engine_asks_no_resolver_for_it(identity: Identity, spec: ContainerSpec) -> None:
    """The trap: the engine's resolver for a network asks from the host, where no wall stands."""
    assert spec_of(identity, Profile(network=Network.NONE)).dns == ["127.0.0.1"]
    assert spec.dns == []


def test_labels_say_whose_it_is(spec: ContainerSpec) -> None:
    assert spec.labels == {
        "sandbox-runner.installation": "0123abcd",
        "sandbox-runner.name": "sandbox-0123abcd-42",
        "sandbox-runner.profile": "default",
    }


def test_the_profile_is_what_is_asked_for(identity: Identity) -> None:
    spec = spec_of(identity, Profile(runtime="other", image="mine:1", pids=99, cpuset="0-1", cpus=1.5))
    assert (spec.runtime, spec.image, spec.pids, spec.cpuset) == ("other", "mine:1", 99, "0-1")
    assert (spec.nano_cpus, spec.memory) == (1_500_000_000, 4 * 1024**3)


def test_without_a_quota_there_is_none(spec: ContainerSpec) -> None:
    assert (spec.nano_cpus, spec.cpuset) == (None, None)


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.integers(1, 2**40))
def test_a_bridge_name_fits_into_the_kernels_15_characters(installation: str, generation: int) -> None:
    bridge = SandboxName(InstallationId(installation), generation).bridge
    assert len(bridge) <= 15
    assert bridge.startswith("sbx")


@pytest.mark.parametrize("generation", [1, 10**9])
def test_a_name_is_read_as_it_is_written(generation: int) -> None:
    name = SandboxName(InstallationId("0123abcd"), generation)
    assert SandboxName.read(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "somebody", "sandbox-0123abcd-", "sandbox-0123abcd-01", "sandbox-0123abcd-1\n", "sandbox-x-1"]
)
def test_no_other_name_is_read(text: str) -> None:
    assert SandboxName.read(text) is None


def test_two_generations_have_two_names_and_two_bridges() -> None:
    next_one = dataclasses.replace(NAME, generation=43)
    assert str(next_one) != str(NAME)
    assert next_one.bridge != NAME.bridge


@pytest.mark.parametrize(
    ("wanted", "ceiling", "limits"),
    [
        (65536, PLENTY, (65536, 1024**2)),
        (2 * 1024**2, PLENTY, (2 * 1024**2, 2 * 1024**2)),
        (65536, 4096, (4096, 4096)),
        (65536, 100_000, (65536, 100_000)),
    ],
)
def test_open_files_stay_below_what_the_host_can_grant(
    identity: Identity, wanted: int, ceiling: int, limits: tuple[int, int]
) -> None:
    [nofile] = spec_of(identity, Profile(nofile=wanted), ceiling).ulimits
    assert (nofile.name, nofile.soft, nofile.hard) == ("nofile", *limits)


def test_mirrors_are_asked_first_and_only_where_there_are_some() -> None:
    mirrors = ("http://10.0.0.5:5000", "https://mirror.example")
    assert json.loads(render_daemon_json(SUBNET, HOST, mirrors))["registry-mirrors"] == list(mirrors)
    assert "registry-mirrors" not in json.loads(render_daemon_json(SUBNET, HOST))


@pytest.mark.parametrize("mirror", ["mirror.example", 'https://a", "debug": true, "b": "', "https://a b", "ftp://a"])
def test_a_mirror_is_an_url_and_nothing_more(mirror: str) -> None:
    with pytest.raises(ValueError, match="registry_mirrors"):
        Profile.model_validate({"registry_mirrors": [mirror]})


def test_the_given_files_have_the_contracts_names_and_modes(spec: ContainerSpec) -> None:
    assert {file.path: oct(file.mode) for file in spec.files} == {
        "/etc/sandbox/ssh_host_ed25519_key": "0o600",
        "/etc/sandbox/authorized_keys": "0o644",
        "/etc/sandbox/sshd_config": "0o644",
        "/etc/sandbox/daemon.json": "0o644",
        "/etc/sandbox/resolv.conf": "0o644",
    }


def test_a_sandbox_asks_the_hosts_resolvers_itself(identity: Identity, spec: ContainerSpec) -> None:
    """The trap: the engine's resolver of its network is rules in its network namespace, which a restart loses."""
    [given] = [file for file in spec.files if file.path == "/etc/sandbox/resolv.conf"]
    assert given.content == b"nameserver 192.0.2.1\nnameserver 192.0.2.2\n"


def test_without_a_network_or_known_resolvers_it_is_left_to_the_engine(identity: Identity) -> None:
    offline = spec_of(identity, Profile(network=Network.NONE)).files
    unknown = given_files(identity, SUBNET, dataclasses.replace(HOST, nameservers=()))
    assert "resolv.conf" not in " ".join(file.path for file in [*offline, *unknown])


def test_the_sandbox_gets_its_host_key_and_only_the_public_half_of_the_clients(
    spec: ContainerSpec, identity: Identity
) -> None:
    content = {file.path.rpartition("/")[2]: file.content.decode() for file in spec.files}
    assert content["ssh_host_ed25519_key"] == identity.host.private
    assert content["authorized_keys"] == f"{identity.client.public}\n"
    secret = identity.client.private.splitlines()[2]
    assert not any(secret in text for text in content.values())


@given(st.integers(0, 2**29 - 1))
def test_inner_networks_never_shadow_the_sandboxs_own(number: int) -> None:
    subnet = IPv4Network((number * 8, 29))
    settings = json.loads(render_daemon_json(subnet, HOST))
    pools = [IPv4Network(pool["base"]) for pool in settings["default-address-pools"]]
    bip = IPv4Network(settings["bip"], strict=False)
    assert pools
    assert not any(network.overlaps(subnet) for network in [*pools, bip])
    assert IPv4Address(settings["bip"].split("/")[0]) in bip.hosts()


def test_the_inner_engine_is_on_overlay2_and_its_logs_are_bounded() -> None:
    settings = json.loads(render_daemon_json(SUBNET, HOST))
    assert settings["storage-driver"] == "overlay2"
    assert settings["log-opts"].keys() >= {"max-size", "max-file"}


@pytest.mark.parametrize("resolvers", [(), RESOLVERS[:1], RESOLVERS])
def test_the_inner_engine_follows_the_hosts_mtu_and_resolvers(resolvers: tuple[IPv4Address, ...]) -> None:
    settings = json.loads(render_daemon_json(SUBNET, dataclasses.replace(HOST, nameservers=resolvers)))
    assert settings["mtu"] == 1400
    assert settings["default-network-opts"] == {"bridge": {"com.docker.network.driver.mtu": "1400"}}
    assert settings.get("dns", []) == [str(address) for address in resolvers]


def test_the_sandboxs_network_follows_the_hosts_mtu(spec: ContainerSpec) -> None:
    assert spec.mtu == 1400


def test_the_sshd_configuration_lets_in_the_sandbox_user_with_a_key_and_nobody_else() -> None:
    lines = [line.split(maxsplit=1) for line in render_sshd_config().splitlines() if line and not line.startswith("#")]
    settings = {line[0].lower(): line[1] for line in lines}
    assert settings["allowusers"] == "sandbox"
    assert settings["permitrootlogin"] == "no"
    assert settings["authenticationmethods"] == "publickey"
    assert settings["passwordauthentication"] == settings["permituserenvironment"] == "no"


def test_the_image_ships_the_same_sshd_configuration() -> None:
    assert (Path(__file__).parents[2] / "images/sandbox/sshd_config").read_text() == render_sshd_config()


@pytest.mark.skipif(which("sshd", path="/usr/sbin:/usr/bin") is None, reason="no OpenSSH server on this machine")
def test_openssh_takes_the_sshd_configuration(tmp_path: Path, spec: ContainerSpec) -> None:
    key = tmp_path / "key"
    key.write_bytes(next(file.content for file in spec.files if file.path.endswith("host_ed25519_key")))
    key.chmod(0o600)
    configuration = tmp_path / "sshd_config"
    # Known to OpenSSH 9.8 and newer only, such as the image's.
    text = "".join(line for line in render_sshd_config().splitlines(True) if "PerSourcePenalties" not in line)
    configuration.write_text(text)
    found = subprocess.run(
        ["/usr/sbin/sshd", "-t", "-f", configuration, "-h", key],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
