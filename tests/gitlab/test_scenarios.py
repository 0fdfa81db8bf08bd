"""Every scenario, with the hooks and a running service, against real sandboxes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sandbox.state import State
from tests.gitlab.conftest import HOOKS, Installation
from tests.gitlab.scenario import Scenario, load
from tests.waiting import until

SCENARIOS = list(load())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_scenario(scenario: Scenario, installation: Installation) -> None:
    scenario.run(installation.config, installation.actions, installation.settle)


@pytest.mark.parametrize("name", ["success", "exit_code", "cancel_silent", "cancel_ignores_term"])
def test_scenario_with_the_scripts_of_older_gitlab_runners(name: str, installation: Installation) -> None:
    for scenario in SCENARIOS:
        if scenario.name.partition("@")[0] == name:
            config = replace(installation.config, piped_scripts=True)
            scenario.run(config, installation.actions, installation.settle)


def test_a_killed_manager_s_job_is_swept(installation: Installation) -> None:
    """The manager is killed with -9: no hook is ever called again, and the sandbox comes back all the same."""
    script = ["echo it runs", "trap '' TERM; while :; do sleep 0.1; done"]
    job = {
        "variables": [{"key": "GIT_STRATEGY", "value": "none"}],
        "steps": [{"name": "script", "script": script}],
    }
    file = installation.folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "tests.gitlab.manager", str(file), "--", *HOOKS]
    environment = {**installation.config.environment, "TMPDIR": str(installation.folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as manager:
        assert manager.stdout is not None
        assert any(line == b"it runs\n" for line in manager.stdout)
        assert [sandbox.state for sandbox in installation.lent()] == [State.LEASED]
        manager.kill()
    until("its sandbox is given back", lambda: not installation.lent())
