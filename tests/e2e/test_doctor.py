"""`runner doctor` beside a real service with a real keeper: a job goes the whole way, and the host's checks follow."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests import programs
from tests.e2e.conftest import DEADLINE, Keeper
from tests.e2e.test_service import Service, new_service

__all__ = ["new_service"]


def test_a_runner_that_works_passes_with_a_job_and_the_checks_of_its_host(
    keeper: Keeper,
    new_service: Callable[[], Service],
) -> None:
    service = new_service()
    options = service.words[1:]
    ran = programs.run(
        programs.runner, "doctor", "--canary", "--json", *options,
        environment=keeper.environment, timeout=2 * DEADLINE,
    )  # fmt: skip
    found = {one["check"]: one for one in json.loads(ran.stdout)["checks"]}
    assert ran.returncode == 0, found
    ours = ("configuration", "state-disk", "store", "keeper", "pool", "api", "canary-job", "host")
    assert {name: found[name]["status"] for name in ours} == dict.fromkeys(ours, "pass")
    assert found["walls"] == {**found["walls"], "status": "pass", "page": "docs/doctor.md#walls"}
    [job] = service.api.get("/v1/jobs").json()["jobs"]
    assert (job["trust_key"], job["outcome"]["outcome"]) == ("doctor", "succeeded")
