"""The service's status as the command prints it for an operator."""

from __future__ import annotations

import time

import pytest

from runner.commands.operation import _tell

STATUS = {
    "version": "1", "mode": "working", "drained_by": None, "drained_since": None, "slots": 4, "running": 2,
    "gitlab_running": 0, "waiting": 7, "disk": "well", "disk_free": 5 * 1024**2, "held": "",
}  # fmt: skip
LINE = "runner 1 is working: 2 of 4 slots are taken, 7 jobs wait"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, f"{LINE}\n"),
        ({"gitlab_running": 3}, "runner 1 is working: 2 of 4 slots are taken, 3 jobs of GitLab run, 7 jobs wait\n"),
        (
            {"mode": "draining", "drained_by": "ops", "drained_since": 0.0, "held": "The runner is draining."},
            "runner 1 is draining by ops since 1970-01-01 00:00:00: 2 of 4 slots are taken, 7 jobs wait\n",
        ),
        ({"held": "No keeper answers."}, f"{LINE}\nNothing starts: No keeper answers.\n"),
        (
            {"disk": "low", "held": "The disk has 5 MiB."},
            f"{LINE}\ndisk-low: 5 MiB are free on the disk of the state folder. Make room there.\n",
        ),
    ],
)
def test_a_line_for_how_it_is_and_one_for_why_nothing_starts(
    changes: dict[str, object], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    _tell({**STATUS, **changes}, as_json=False)
    assert capsys.readouterr().out == said
