"""Labs for the wall suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.walls.lab import Lab, new_lab

# Whether bridged packets pass the host's firewall a first time on the bridge: Docker switches that on, others do not.
_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with new_lab() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """The lab without walls."""
    shared_lab.reset()
    return shared_lab


@pytest.fixture(params=[0, 1] if _BRIDGE_NETFILTER.exists() else [None], ids="bridge-netfilter-{}".format)
def any_lab(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    """The lab with and without bridge netfilter, which the walls must not depend on."""
    if request.param is not None:
        lab.host.sysctl(f"bridge/{_BRIDGE_NETFILTER.name}", request.param)
    return lab
