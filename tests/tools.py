"""Installs the programs that tests start and the product does not need: `python -m tests.tools`."""

from __future__ import annotations

from typing import Final

from sandbox.evaluation import packages

TOOLS: Final = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "sshfs": "sshfs",
    "vim": "vim",
    "emacs": "emacs-nox",
    "prometheus": "prometheus",
    "docker-registry": "docker-registry",
    "systemd-analyze": "systemd",
}
"""Debian's packages, by the program that tests start."""

if __name__ == "__main__":
    packages.ensure(TOOLS, print)
