"""The page about userns-runc, typed into a machine that has booted: its engine comes and goes with all it did."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.machine import CHECKOUT, GIVEN, Machine, booted
from tests.docs.pages import ROOT, block_of
from tests.engines import static_root

PAGE: Final = "userns-runc"
SANDBOX: Final = f"""\
#!/bin/sh
export PYTHONPATH={CHECKOUT}:{sysconfig.get_path("purelib").replace(str(ROOT), CHECKOUT)}
exec {Path(sys.executable).resolve()} -c 'from sandbox.entry import main; main()' "$@"
"""
MMDEBSTRAP: Final = f"""\
#!/bin/sh
for file do case $file in *.tar) cp {GIVEN}/root.tar "$file" ;; esac; done
"""
"""In place of Debian's, whose archive is out of reach."""
PREPARED: Final = f"""\
systemctl mask --now docker.socket docker.service
install -m 755 {GIVEN}/sandbox {GIVEN}/mmdebstrap /usr/local/bin
mkdir {GIVEN}/lib
mount --bind {GIVEN}/lib /var/lib
mkdir -p /run/containerd/s /run/docker/plugins
ip netns add internet
ip link add uplink type veth peer name downlink netns internet
ip -n internet address add 192.0.2.1/24 dev downlink
ip -n internet link set downlink up
ip address add 192.0.2.2/24 dev uplink
ip link set uplink up
ip route add default via 192.0.2.1
rm /etc/resolv.conf
echo nameserver 192.0.2.1 >/etc/resolv.conf
iptables --policy FORWARD DROP
echo 0 >/proc/sys/net/ipv4/ip_forward
"""
"""A host without an engine, with a firewall, and with an internet where nobody answers. What it keeps is on no overlay:
an engine lays its own on top of it."""
SEEN: Final = """\
ls -A /var/lib
find /run -path /run/systemd -prune -o -path /run/log -prune -o -print
ip -brief link | cut -d ' ' -f 1
ip route
iptables -S
iptables -t nat -S
cat /proc/sys/net/ipv4/ip_forward
find /sys/fs/cgroup -type d ! -name '*.*'
cat /proc/[0-9]*/comm | grep -E 'docker|container|sleep' || true
cat /proc/self/mounts
"""
USERS: Final = "cat /etc/passwd /etc/subuid /etc/subgid"
RUN: Final = """\
container=$(docker run --detach --runtime "$SANDBOX_RUNTIME" "$BASE_IMAGE" sleep infinity)
docker inspect --format '{{.State.Running}}' "$container"
"""
"""What the settings that were printed are for."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    for name, text in {"sandbox": SANDBOX, "mmdebstrap": MMDEBSTRAP}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "root.tar").write_bytes(static_root())
    with booted(tmp_path) as made:
        made.type(PREPARED)
        yield made


@pytest.mark.timeout(300)
def test_the_engine_comes_and_goes_as_written(machine: Machine) -> None:
    before = machine.type(SEEN)
    told = machine.type(block_of(PAGE, "sandbox evaluation up").text + RUN)
    assert [line for line in told.splitlines() if line.startswith("up: Docker")]
    assert told.endswith("true\n")
    assert "dockremap" in machine.type(USERS)
    machine.type(block_of(PAGE, "sandbox evaluation down").text)
    assert machine.type(SEEN) == before
    assert "dockremap" not in machine.type(USERS)
