"""The page about systemd, typed into a machine that systemd has booted: install, jobs, reload, upgrade, stop."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.machine import GIVEN, Machine, booted
from tests.docs.pages import ROOT, block_of

ENGINE: Final = {
    "userns-remap": "default",
    "storage-driver": "overlay2",
    "exec-opts": ["native.cgroupdriver=cgroupfs"],
    "runtimes": {"userns-runc": {"path": "/usr/local/bin/userns-runc"}},
}
"""The engine of the machine: Docker's own unit, and the runtime that needs no sysbox."""
OFFLINE: Final = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{GIVEN}/wheels"}
"""The machine has no network: its pip finds everything here."""
SLOW: Final = "for second in 1 2 3 4 5 6; do echo $second; sleep 1; done; exit 7"
RUNNER: Final = "RUNNER_TOKEN=$(cat /var/lib/runner/token) /opt/sandbox-runner/bin/runner"
SUBMIT: Final = f"{RUNNER} submit"
LOGS: Final = f"{RUNNER} logs"


@pytest.fixture
def machine(tmp_path: Path, sandbox_image: str) -> Iterator[Machine]:
    """One with an engine that has the sandbox image, and with what pip would fetch."""
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--wheel-dir", wheels, ROOT, "hatchling"], check=True, timeout=300)
    with booted(tmp_path) as booted_machine:
        booted_machine.type(block_of("userns-runc", "cp sandbox/evaluation").text)
        (tmp_path / "daemon.json").write_text(json.dumps(ENGINE))
        booted_machine.type(f"mkdir -p /etc/docker; cp {GIVEN}/daemon.json /etc/docker/; systemctl start docker")
        with subprocess.Popen(["docker", "save", sandbox_image], stdout=subprocess.PIPE) as image:
            loaded = booted_machine.type("docker load", stdin=image.stdout)
        booted_machine.type(f"docker tag {loaded.split()[-1]} sandbox:latest")
        yield booted_machine


@pytest.mark.timeout(600)
def test_the_units_run_jobs_through_reload_and_upgrade(machine: Machine) -> None:
    installed(machine)
    opened_to_a_gitlab_runner(machine)
    assert "The script succeeded." in submitted(machine, "docker version")
    machine.type("systemctl reload sandbox-keeper && systemctl reload runner")
    upgraded_under_a_job(machine)
    wrecked_and_made_anew(machine)
    machine.type("systemctl stop runner sandbox-keeper")
    assert machine.type("docker ps --all --quiet") == ""
    assert "Failed" not in machine.type("systemctl show --property=Result sandbox-keeper runner")


def installed(machine: Machine) -> None:
    page = block_of("systemd", "apt-get install").text
    build = next(line for line in page.splitlines() if line.startswith("docker build "))
    runtime = """sed -i 's/^# runtime = "sysbox-runc"/runtime = "userns-runc" #/' /etc/sandbox/keeper.toml"""
    machine.type(page.replace(build, runtime), environment=OFFLINE)
    until_it_answers(machine)


def opened_to_a_gitlab_runner(machine: Machine) -> None:
    machine.type("useradd --system gitlab-runner")  # as its package does
    machine.type(block_of("gitlab", "install -d /etc/systemd").text)
    until_it_answers(machine)
    assert machine.type("stat -c %U /run/runner; id -nG gitlab-runner").split() == ["runner", "gitlab-runner", "runner"]


def until_it_answers(machine: Machine) -> None:
    machine.type("timeout 120 bash -c 'until /opt/sandbox-runner/bin/runner ping; do sleep 1; done'")


def submitted(machine: Machine, script: str) -> str:
    job = json.dumps({"script": script})
    return machine.type(f"{SUBMIT} --wait - <<'END' || true\n{job}\nEND")


def upgraded_under_a_job(machine: Machine) -> None:
    job = machine.type(f"{SUBMIT} - <<'END'\n{json.dumps({'script': SLOW})}\nEND").split()[-1]
    machine.type(f"timeout 60 bash -c 'until {LOGS} {job} | grep -q 1; do sleep 0.5; done'")
    before = pids(machine)
    page = block_of("upgrade", "python3 -m venv /opt").text
    machine.type(page.replace("NEW", "2"), environment=OFFLINE)
    assert machine.type("readlink /opt/sandbox-runner").strip().endswith("-2")
    until_it_answers(machine)
    log = machine.type(f"{LOGS} --follow {job} || [ $? = 7 ]")
    assert re.findall(r"^(\d)$", log, re.MULTILINE) == list("123456"), log
    assert "exit code 7" in log
    assert not set(before) & set(pids(machine))


def pids(machine: Machine) -> list[str]:
    return machine.type("systemctl show --property=MainPID --value sandbox-keeper runner").split()


def wrecked_and_made_anew(machine: Machine) -> None:
    assert "The sandbox was lost" in submitted(machine, "sudo pkill -9 sshd; sleep 60")
    assert "The script succeeded." in submitted(machine, "docker version")
