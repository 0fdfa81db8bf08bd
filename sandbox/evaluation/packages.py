"""Installing what the host lacks, on Debian and what descends from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sandbox.evaluation.errors import PackagesMissing
from sandbox.evaluation.host import Say, have, named, run

ENGINE = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
    "nsenter": "util-linux",
    "mount": "mount",
    "useradd": "passwd",
}
"""What the private engine and a keeper beside it need: the program, and Debian's package that has it."""

BASE_IMAGE = {"mmdebstrap": "mmdebstrap"}
"""What making a base image needs."""

INSTALL_SECONDS = 900.0
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# sandbox evaluation: a package being installed starts no service\nexit 101\n"


def missing(needed: Mapping[str, str]) -> list[str]:
    """The packages of which a program is missing on this host."""
    return sorted({package for program, package in needed.items() if have(program) is None})


def ensure(needed: Mapping[str, str], say: Say) -> None:
    """Install what is missing, and nothing when nothing is. Raises `PackagesMissing` where that cannot be done."""
    packages = missing(needed)
    if not packages:
        return
    if have("apt-get") is None:
        raise PackagesMissing(
            f"This host lacks {named(packages)} (by Debian's names), and only Debian's apt-get is known here. "
            "Install them with the host's own package manager and run this again."
        )
    say(f"installing {named(packages)} with apt-get; this takes a minute or two")
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    with no_service_starts():
        run("apt-get", "update", "-qq", deadline=INSTALL_SECONDS, env=quiet)
        options = ["-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
        run("apt-get", "install", *options, *packages, deadline=INSTALL_SECONDS, env=quiet)
    if still := missing(needed):
        raise PackagesMissing(f"apt-get ran, and yet {named(still)} did not bring what is needed. Install it by hand.")


@contextmanager
def no_service_starts(policy: Path = POLICY) -> Iterator[None]:
    """Keep packages from starting their services: the host gets no Docker Engine of its own because of us.

    A policy of the administrator's stays; one that we left behind when we were killed is taken away.
    """
    ours = not policy.exists() or policy.read_text(encoding="utf-8", errors="replace") == POLICY_TEXT
    if ours:
        policy.write_text(POLICY_TEXT, encoding="utf-8")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)
