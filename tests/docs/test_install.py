"""The page about hosts, typed into a machine that systemd has booted, with a stand-in for the package of sysbox.

Other tests cover what sysbox does; this one checks that the page's commands fit the tools that it names.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.docs.machine import GIVEN, Machine, booted
from tests.docs.pages import block_of

VERSION: Final = "0.7.1"
PACKAGE: Final = f"sysbox-ce_{VERSION}.linux_amd64.deb"
ADDRESS: Final = f"https://github.com/nestybox/sysbox/releases/download/v{VERSION}/"
DAEMONS: Final = ("sysbox-mgr", "sysbox-fs")
PROGRAM: Final = f"""#!/bin/sh
if [ "$1" = --version ]; then printf '\\tedition: \\tCommunity Edition (CE)\\n\\tversion: \\t{VERSION}\\n'; exit; fi
exec sleep infinity
"""
UNIT: Final = "[Service]\nExecStart=/usr/bin/{name}\n"
REGISTERED: Final = """#!/usr/bin/python3
import json, pathlib, subprocess
file = pathlib.Path("/etc/docker/daemon.json")
settings = json.loads(file.read_text())
file.write_text(json.dumps({**settings, "runtimes": {"sysbox-runc": {"path": "/usr/bin/sysbox-runc"}}}))
subprocess.run("systemctl daemon-reload; systemctl start sysbox-mgr sysbox-fs; systemctl restart docker", shell=True)
"""


def stand_in(folder: Path) -> None:
    """Make a package that brings what sysbox's own does, as far as it can be looked at."""
    tree = folder / "package"
    for name in ("sysbox-runc", *DAEMONS):
        program = tree / "usr/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    for name in DAEMONS:
        unit = tree / "lib/systemd/system" / f"{name}.service"
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(UNIT.format(name=name))
    control = tree / "DEBIAN"
    control.mkdir()
    fields = {"Package": "sysbox-ce", "Version": VERSION, "Maintainer": "a test", "Description": "stands in for sysbox"}
    text = "".join(f"{name}: {value}\n" for name, value in {**fields, "Architecture": "all"}.items())
    (control / "control").write_text(text)
    (control / "postinst").write_text(REGISTERED)
    (control / "postinst").chmod(0o755)
    built = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(folder / PACKAGE)]
    subprocess.run(built, check=True, capture_output=True, timeout=60)


@pytest.mark.timeout(300)
def test_a_host_is_made_ready_as_written(tmp_path: Path) -> None:
    stand_in(tmp_path)
    with booted(tmp_path) as machine:
        machine.type(block_of("install", "install -d /etc/docker").text)
        machine.type("systemctl start docker")
        assert told(machine, "{{.Driver}}") == "overlay2"
        packages = block_of("install", "apt-get update").text
        offline = packages.replace("apt-get update", "true").replace("install -y", "install -y --simulate")
        assert "docker-compose" in machine.type(offline)
        sysbox = block_of("install", "curl -fLO").text
        assert f"curl -fLO {ADDRESS}{PACKAGE}" in sysbox
        shown = machine.type(sysbox.replace(f"curl -fLO {ADDRESS}", f"cp {GIVEN}/").replace(".deb\nsha", ".deb .\nsha"))
        assert '"sysbox-runc":' in shown
        assert shown.count(VERSION + "\n") == 3
        assert shown.endswith("active\nactive\n")


def told(machine: Machine, what: str) -> str:
    return machine.type(f"docker info --format '{what}'").strip()
