"""Every alert fires by a real fault and clears afterwards, and every query of the dashboard has an answer."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import docker
import pytest
import yaml

from runner.outcome import NAMES
from runner.service.health import Reason
from tests.e2e.conftest import DEADLINE, left_of
from tests.faults.engine_proxy import Hold, Refuse
from tests.monitoring.site import EXAMPLES, Site, site
from tests.monitoring.source import ROOT
from tests.waiting import until

DAMAGE = "echo mallory | sudo tee -a /run/sandbox/authorized_keys >/dev/null"
"""It changes what decides who gets into the sandbox."""

LOSS = "sudo kill 1; sleep 600"
"""It has its sandbox stop."""


def alerts() -> dict[str, dict[str, Any]]:
    """The rules, by name."""
    groups = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    """What the panels of the dashboard ask."""
    panels = json.loads((EXAMPLES / "grafana.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_runtime: str,
    sandbox_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[Site]:
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    with site(tmp_path_factory.mktemp("site"), sandbox_runtime, sandbox_image, engine) as there:
        yield there
    assert left_of(docker_client, (there.keeper.folder / "home" / "installation").read_text().strip()) == []


@pytest.mark.timeout(600)
def test_every_alert_fires_by_a_real_fault_and_clears(watched: Site) -> None:
    a_full_disk_and_a_killed_keeper(watched)
    an_engine_that_makes_nothing_and_jobs_that_break(watched)
    with watched.receiving():
        a_host_that_hangs_and_a_service_that_cannot(watched)
        watched.clears()
    assert watched.fired == set(alerts())


def a_full_disk_and_a_killed_keeper(there: Site) -> None:
    """And a daemon of the runtime that has crashed."""
    there.keeper.kill()
    there.keeper.come_up('disk_reserve = "1EiB"\n')
    there.daemon.end()
    there.fires("SandboxDiskLow", "SandboxRuntimeDown")
    there.daemon.start()
    there.keeper.kill()
    there.fires("SandboxKeeperDown")
    there.keeper.come_up()
    there.clears()
    there.keeper.settle()


def an_engine_that_makes_nothing_and_jobs_that_break(there: Site) -> None:
    """Jobs lose their sandboxes; others damage theirs, and no new ones come.

    Nor is anybody there to be told that jobs have ended.
    """
    broken = [there.submit(LOSS) for _ in range(3)]
    assert there.finish(*broken) == ["sandbox_lost"] * 3
    there.keeper.settle()
    assert there.finish(there.submit(DAMAGE)) == ["succeeded"]
    refusal = there.proxy.misbehave("POST /containers/create", Refuse())
    assert there.finish(there.submit(DAMAGE)) == ["succeeded"]
    there.fires("RunnerJobsBreak", "RunnerWebhooksFail")
    # The first in the sandbox that was made in advance, if that came to be; the second has the only slot then.
    waiting = [there.submit(script) for script in (DAMAGE, "true", "true")]
    there.fires("SandboxBreakerOpen", "SandboxNoneFit", "RunnerQueueWaits")
    there.proxy.clear()
    refusal.release()
    assert there.finish(*waiting) == ["succeeded"] * 3
    there.fires("SandboxDamagedOften")
    there.keeper.settle()


def a_host_that_hangs_and_a_service_that_cannot(there: Site) -> None:
    hung = there.proxy.misbehave("GET /containers/json", Hold())
    with ExitStack() as faults:
        faults.enter_context(there.keeper.without_nft())
        faults.enter_context(there.full_state())
        there.fires("SandboxWallsDown", "RunnerDiskLow")
        with there.locked_store():
            there.fires("RunnerNotReady", "RunnerStoreFailing")
        with there.stopped_runner():
            there.fires("RunnerDown")
        there.fires("SandboxHostWedged")
    there.proxy.clear()
    hung.release()
    there.keeper.settle()


def test_every_query_of_the_dashboard_has_an_answer(watched: Site) -> None:
    left = {query.replace("$__rate_interval", "30s") for query in queries()}
    assert len(left) > 40

    def answered() -> bool:
        watched.finish(watched.submit("echo hello"), watched.submit(DAMAGE))  # a rate needs more than the first
        watched.hook()
        left.difference_update({query for query in left if any(map(math.isfinite, watched.query(query)))})
        return not left

    try:
        until("every query has an answer", answered, DEADLINE / 2)
    except AssertionError:
        pytest.fail(f"no answer to {sorted(left)}")


def test_the_dashboard_and_the_rules_ask_for_what_there_is() -> None:
    """The trap: a metric that was renamed, and an alert that is silent for ever."""
    known = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    asked = {
        name
        for text in [*queries(), *(rule["expr"] for rule in alerts().values())]
        for name in re.findall(r"\b((?:runner|sandbox)_\w+)", re.sub(r"_(bucket|count|sum)\b|\{.*?\}", "", text))
    }
    assert {name for name in asked if "process_" not in name} - known == set()


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "look")
    assert set(alerts()) <= set(headings)


def test_promtool_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", EXAMPLES / "alerts.yml"], check=True, timeout=30, capture_output=True)


def test_every_outcome_has_its_entry_in_the_runbook() -> None:
    _, _, outcomes = (ROOT / "docs/runbook.md").read_text().partition("## Outcomes")
    assert re.findall(r"^### (\w+)$", outcomes, re.MULTILINE) == list(NAMES)


def test_every_reason_not_to_be_ready_is_in_the_manual() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    assert [reason for reason in Reason if f"| `{reason}` |" not in page] == []
