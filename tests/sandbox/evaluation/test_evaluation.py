"""The evaluation engine's decisions and files."""

import json
import subprocess
import time
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandbox.config import KeeperConfig
from sandbox.engine import Engine
from sandbox.errors import StorageUnfit
from sandbox.evaluation import base_image, choose, cli, engine_api, host, network, packages, private_engine
from sandbox.evaluation.errors import CommandFailed, PackagesMissing
from sandbox.evaluation.layout import KEEPER_RANGE, Layout

LAYOUT = Layout()


def test_sysbox_is_used_wherever_it_is() -> None:
    chosen = choose.decide({"runc", "sysbox-runc"}, "unix:///private")
    assert (chosen.url, chosen.runtime, chosen.is_private) == (None, "sysbox-runc", False)


@pytest.mark.parametrize(
    ("runtimes", "because"), [(None, "no Docker Engine answers"), ({"runc"}, "has no sysbox-runc registered")]
)
def test_the_private_engine_is_chosen_otherwise_and_says_what_it_is_for(
    runtimes: set[str] | None, because: str
) -> None:
    chosen = choose.decide(runtimes, "unix:///private")
    assert (chosen.url, chosen.runtime, chosen.is_private) == ("unix:///private", "userns-runc", True)
    assert because in chosen.because
    assert "evaluation" in chosen.because


def test_prepare_prints_settings_for_a_shell_and_says_why_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_api, "runtimes", lambda url: None)
    monkeypatch.setattr(private_engine, "up", lambda layout, say: say("up"))
    monkeypatch.setattr(base_image, "ensure", lambda url, say: base_image.REFERENCE)
    monkeypatch.setattr(engine_api, "data_root", lambda url: "/srv/my engine")
    monkeypatch.setattr(Engine, "check_storage", lambda engine: None)
    result = CliRunner().invoke(cli.app, ["prepare", "--run", "/run/my engine"])
    assert result.stdout.splitlines() == [
        "SANDBOX_RUNTIME=userns-runc",
        "BASE_IMAGE=sandbox-base:trixie",
        "DOCKER_DATA='/srv/my engine'",
        "DOCKER_HOST='unix:///run/my engine/docker.sock'",
        "DOCKER_SOCKET='/run/my engine/docker.sock'",
        "DOCKER_NETNS=/run/netns/sandbox-evaluation",
    ]
    assert "no Docker Engine answers on this host" in result.stderr


def test_prepare_refuses_an_engine_that_no_keeper_uses_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trap: Docker 29 with sysbox. The images took minutes, and then the keeper did not come up."""

    def unfit(engine: Engine) -> None:
        raise StorageUnfit("Its storage driver is overlayfs.")

    monkeypatch.setattr(engine_api, "runtimes", lambda url: {"runc", "sysbox-runc"})
    monkeypatch.setattr(base_image, "ensure", lambda url, say: pytest.fail("a base image was made"))
    monkeypatch.setattr(Engine, "check_storage", unfit)
    result = CliRunner().invoke(cli.app, ["prepare"])
    assert isinstance(result.exception, StorageUnfit)
    assert result.stdout == ""


def test_prepare_leaves_a_host_with_sysbox_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_api, "runtimes", lambda url: {"runc", "sysbox-runc"})
    monkeypatch.setattr(private_engine, "up", lambda layout, say: pytest.fail("a private engine was started"))
    monkeypatch.setattr(base_image, "ensure", lambda url, say: base_image.REFERENCE)
    monkeypatch.setattr(engine_api, "data_root", lambda url: "/var/lib/docker")
    monkeypatch.setattr(Engine, "check_storage", lambda engine: None)
    result = CliRunner().invoke(cli.app, ["prepare"])
    assert result.stdout.splitlines() == [
        "SANDBOX_RUNTIME=sysbox-runc",
        "BASE_IMAGE=sandbox-base:trixie",
        "DOCKER_DATA=/var/lib/docker",
    ]


def test_addresses_do_not_overlap() -> None:
    bridge = IPv4Interface(LAYOUT.bridge_address).network
    parts = [bridge, LAYOUT.pool, LAYOUT.link]
    assert all(part.subnet_of(LAYOUT.addresses) for part in parts)
    assert not any(a.overlaps(b) for a in parts for b in parts if a is not b)
    assert LAYOUT.host_address in LAYOUT.link
    assert LAYOUT.engine_address in LAYOUT.link


def test_the_host_reaches_what_a_keeper_makes_by_default() -> None:
    assert KeeperConfig().network_range == KEEPER_RANGE


def test_the_engine_is_configured_apart_from_any_other() -> None:
    settings = json.loads(private_engine.daemon_json(LAYOUT, mtu=1400))
    assert settings["userns-remap"] == "default"
    assert settings["runtimes"] == {"userns-runc": {"path": "/var/lib/sandbox-evaluation/userns-runc"}}
    assert settings["mtu"] == 1400
    places = [settings[key] for key in ("data-root", "exec-root", "pidfile", "containerd")]
    assert all("sandbox-evaluation" in place for place in places)


def test_interfaces_have_names_that_the_kernel_takes() -> None:
    assert all(len(name) <= 15 for name in (LAYOUT.host_link, LAYOUT.engine_link))


def test_forwarding_is_opened_only_where_it_is_closed_and_only_to_the_uplink() -> None:
    assert len(network.host_rules(LAYOUT, "eth0", forward_is_open=True)) == 1
    rules = network.host_rules(LAYOUT, "eth0", forward_is_open=False)
    assert [chain for _, chain, _ in rules] == ["POSTROUTING", "FORWARD", "FORWARD"]
    assert all("eth0" in rule for _, chain, rule in rules if chain == "FORWARD")


@pytest.mark.parametrize(
    ("listing", "is_open"),
    [
        ("-P FORWARD ACCEPT", True),
        ("# Warning: iptables-legacy tables present\n-P FORWARD ACCEPT", True),
        ("-P FORWARD DROP", False),
        ("-P FORWARD ACCEPT\n-A FORWARD -j REJECT", False),
    ],
)
def test_a_closed_forward_chain_is_known(listing: str, is_open: bool) -> None:
    assert network.forward_is_open(listing) == is_open


STUB = "nameserver 127.0.0.53\noptions edns0\n"
UPSTREAM = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.test\n"


def test_name_servers_on_the_loopback_are_no_use_in_another_namespace() -> None:
    assert network.usable_resolvers([STUB, UPSTREAM]) == (["192.0.2.53"], ["search example.test"])
    assert network.usable_resolvers([STUB]) == ([], [])
    assert network.usable_resolvers(["nameserver nonsense\nnameserver\n"]) == ([], [])


def test_without_a_usable_name_server_it_says_what_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(STUB)
    monkeypatch.setattr(network, "RESOLVER_FILES", (file,))
    said: list[str] = []
    assert network.resolv_conf(said.append) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert "loopback" in said[0]


def test_packages_keep_services_from_starting_and_leave_no_trace(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with packages.no_service_starts(policy):
        assert policy.stat().st_mode & 0o111
        assert "exit 101" in policy.read_text()
        with packages.no_service_starts(policy):
            pass  # what a killed run left behind is taken for ours
    assert not policy.exists()


def test_an_administrators_policy_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    with packages.no_service_starts(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.exists()


def test_a_host_without_apt_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "have", lambda program: None)
    with pytest.raises(PackagesMissing, match=r"docker\.io and iproute2.*package manager"):
        packages.ensure({"dockerd": "docker.io", "ip": "iproute2"}, print)


def test_nothing_is_installed_when_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "run", lambda *_, **__: pytest.fail("apt-get was run"))
    packages.ensure({"sh": "dash"}, print)


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(CommandFailed, match="failed: too bad"):
        host.run("sh", "-c", "echo too bad; exit 3")
    with pytest.raises(CommandFailed, match="not installed"):
        host.run("no-such-program-here")
    with pytest.raises(CommandFailed, match="did not end within 0 s"):
        host.run("sleep", "5", deadline=0.1)


def test_only_a_process_of_ours_is_stopped(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{process.pid}\n")
        deadline = time.monotonic() + 5
        while host.pid_in(pid_file, "60") is None:  # for a moment after its start it has no arguments to see
            assert time.monotonic() < deadline
        assert host.pid_in(pid_file, "--config=ours") is None
        assert host.stop(process.pid, "--config=ours", 5)
        assert process.poll() is None, "another process took the pid and must live"
        assert host.stop(process.pid, "60", 5)
        assert process.wait(5) == -15
    assert host.pid_in(pid_file, "60") is None
    pid_file.write_text("nonsense")
    assert host.pid_in(pid_file, "60") is None


def test_networks_of_other_layouts_differ() -> None:
    other = Layout(addresses=IPv4Network("198.19.0.0/16"))
    assert not other.addresses.overlaps(LAYOUT.addresses)
    assert other.link != LAYOUT.link
