"""The shipped rules, with their own times: promtool runs each over invented series."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.monitoring.site import EXAMPLES
from tests.monitoring.test_alerts import alerts

RUNNER = 'job="runner",instance="a"'


class Course(NamedTuple):
    """What is bad for half an hour from the tenth minute on: series, without `job` and `instance`, and their values."""

    bad: dict[str, str]
    quiet: int
    fires: int
    """Minutes after the beginning at which the alert is not there yet, and at which it is."""
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    """What the alert carries besides."""


def gauge(bad: int, good: int) -> str:
    return f"{good}x10 {bad}x30 {good}x100"


ONE, NONE = gauge(1, 0), gauge(0, 1)
PROFILE = {"profile": "default"}
COURSES = {
    "RunnerDown": Course({"up": NONE}, 12, 13),
    "RunnerNotReady": Course({'runner_unready{reason="store"}': ONE}, 15, 16, {"reason": "store"}),
    "RunnerStoreFailing": Course({"runner_store_errors_total": "0x10 1+1x30 32x100"}, 10, 12),
    "RunnerDiskLow": Course({'runner_unready{reason="disk"}': ONE}, 11, 12, {"reason": "disk"}),
    "RunnerQueueWaits": Course({"runner_queue_oldest_seconds": gauge(700, 5)}, 11, 12),
    "RunnerJobsBreak": Course({'runner_jobs_ended_total{outcome="sandbox_lost"}': "0x10 1+1x30 32x100"}, 11, 15),
    "RunnerWebhooksFail": Course(
        {'runner_webhook_tries_total{end="failed"}': "0x10 1+1x30 32x100"}, 11, 15, {"end": "failed"}
    ),
    "SandboxKeeperDown": Course({"sandbox_keeper_up": NONE}, 11, 12),
    "SandboxHostWedged": Course({'sandbox_host_state{state="wedged"}': ONE}, 11, 12, {"state": "wedged"}),
    "SandboxRuntimeDown": Course({'sandbox_runtime_down{profile="default"}': ONE}, 11, 12, PROFILE),
    "SandboxBreakerOpen": Course({'sandbox_breaker_open{profile="default"}': ONE}, 12, 13, PROFILE),
    "SandboxNoneFit": Course(
        {
            'sandbox_requests_waiting{profile="default"}': ONE,
            'sandbox_sandboxes{profile="default",state="booting"}': "2x140",
            'sandbox_sandboxes{profile="default",state="ready"}': gauge(0, 2),
        },
        12,
        13,
        PROFILE,
    ),
    "SandboxDamagedOften": Course(
        {'sandbox_condemned_total{fault="damaged"}': "0x10 1+1x30 32x100"}, 11, 15, {"fault": "damaged"}
    ),
    "SandboxDiskLow": Course({"sandbox_disk_refusing": ONE}, 11, 12),
    "SandboxWallsDown": Course({"sandbox_walls_standing": NONE}, 11, 12),
}
SILENT = {
    "RunnerQueueWaits": {
        "runner_queue_oldest_seconds": gauge(700, 5),
        'runner_unready{reason="draining"}': ONE,  # somebody knows
    },
    "SandboxNoneFit": {
        'sandbox_requests_waiting{profile="default"}': ONE,  # all of them are at work
        'sandbox_sandboxes{profile="default",state="leased"}': "2x140",
    },
    "RunnerJobsBreak": {  # users' own
        'runner_jobs_ended_total{outcome="script_failed"}': "0x10 1+1x30 32x100",
        'runner_jobs_ended_total{outcome="timed_out",which="job"}': "0x10 1+1x30 32x100",
    },
}
"""These tell of another thing, and are silent."""


def test_every_rule_waits_fires_and_clears_as_it_should(tmp_path: Path) -> None:
    assert set(COURSES) == set(alerts())
    tests = [_test(name, course) for name, course in COURSES.items()]
    tests += [_group(series, [_look(name, minute, None) for minute in (20, 30, 38)]) for name, series in SILENT.items()]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(EXAMPLES / "alerts.yml")], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(name: str, course: Course) -> dict[str, Any]:
    looks = [(course.quiet, None), (course.fires, course.labels), (38, course.labels), (135, None)]
    return _group(course.bad, [_look(name, minute, labels) for minute, labels in looks])


def _group(series: dict[str, str], looks: list[dict[str, Any]]) -> dict[str, Any]:
    inputs = [{"series": _instance(name), "values": values} for name, values in series.items()]
    # Of an alert only its being there and its labels are of interest here, and not its words.
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": looks}


def _look(name: str, minute: int, labels: dict[str, str] | None) -> dict[str, Any]:
    expression = f'count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}})'
    there = [] if labels is None else [{"labels": f'{{alertname="{name}"}}', "value": 1}]
    if labels:
        matchers = ",".join(f'{key}="{value}"' for key, value in labels.items())
        expression = expression.replace('alertstate="firing"', f'alertstate="firing",{matchers}')
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": there}


def _instance(series: str) -> str:
    name, _, labels = series.partition("{")
    return f"{name}{{{RUNNER}{',' + labels if labels else '}'}"
