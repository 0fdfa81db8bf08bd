"""Installs what the host lacks, on Debian and its descendants."""

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
"""The programs that the private engine and a keeper need, each with its Debian package."""

BASE_IMAGE = {"mmdebstrap": "mmdebstrap"}
"""The program for making a base image, with its package."""

INSTALL_SECONDS = 900.0
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# sandbox evaluation: a package being installed starts no service\nexit 101\n"


def missing(needed: Mapping[str, str]) -> list[str]:
    """Return the packages whose program is missing on this host."""
    return sorted({package for program, package in needed.items() if have(program) is None})


def ensure(needed: Mapping[str, str], say: Say) -> None:
    """Install what is missing, if anything. Raises `PackagesMissing` where that is impossible."""
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
    """Keep packages from starting their services, so that we do not give the host a Docker Engine of its own.

    An administrator's policy stays; one that we left when we were killed is removed.
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
