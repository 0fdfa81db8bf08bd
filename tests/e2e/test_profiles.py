"""The choice of a profile by a job: by labels, or by a name that may be wrong."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.e2e.conftest import DEADLINE, Keeper
from tests.e2e.test_service import Service

CONFIG = """
[profiles.default]
warm = 1
[profiles.big]
warm = 1
pids = 4321
labels = ["large"]
"""
SHOW_PIDS = "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max"


@pytest.fixture(scope="module")
def two(new_keeper: Callable[..., Keeper]) -> Keeper:
    keeper = new_keeper(warm=1, config=CONFIG)
    keeper.start()
    return keeper


@pytest.fixture
def service(two: Keeper, tmp_path: Path) -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = Service(two, tmp_path / "state", port)
    service.start()
    yield service
    assert service.process is not None
    service.process.kill()
    service.wait()
    service.api.close()


def test_a_job_comes_where_its_labels_are(service: Service) -> None:
    job = service.submit(SHOW_PIDS, labels=["large"])
    assert service.log(job).splitlines()[0] == "4321"
    assert service.outcome(job)["outcome"] == "succeeded"
    elsewhere = service.submit(SHOW_PIDS)
    assert service.log(elsewhere).splitlines()[0] == "8192"


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ({"labels": ["gpu"]}, "the label gpu, and this one has: none; profile big has large."),
        ({"profile": "default", "labels": ["large"]}, "the label large, and this one has: none"),
        ({"profile": "bgi"}, "There is no profile bgi here, but: default, big. Did you mean big?"),
    ],
)
def test_what_no_profile_has_is_refused_at_once(service: Service, asks: dict[str, object], told: str) -> None:
    answer = service.api.post("/v1/jobs", json={"script": "true", **asks})
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_a_wrong_profile_of_a_run_is_bad_input_and_nobodys_fault(two: Keeper) -> None:
    words = ["run", "--keeper", str(two.socket), "--profile", "bgi", "--json", "-"]
    process = programs.start(programs.runner, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said, _ = process.communicate("true", timeout=DEADLINE)
    assert process.returncode == 64
    outcome = json.loads(said)
    assert (outcome["outcome"], outcome["log_bytes"]) == ("bad_request", 0)
    assert "Did you mean big?" in outcome["message"]
