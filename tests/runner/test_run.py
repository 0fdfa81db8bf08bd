"""`runner run`: its streams, and a host that has no room for it."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack

import pytest

from runner import run
from runner.errors import LogError
from runner.job import Job
from runner.outcome import ScriptFailed
from tests.runner.conftest import Bench


@pytest.mark.anyio
async def test_the_log_is_live_and_the_outcome_one_object(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = await run.run_script(bench.leases, Job(b"echo hi; exit 3"), bench.settings, as_json=True)
    assert outcome == ScriptFailed(3)
    out, err = capfd.readouterr()
    assert json.loads(out) == {
        "outcome": "script_failed",
        "code": 3,
        "exit_code": 3,
        "message": "The script failed with exit code 3.",
        "log_bytes": 3,
        "log_dropped": 0,
    }
    assert "hi\n" in err.splitlines(keepends=True)


def test_no_place_for_the_log_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/none/such")
    with pytest.raises(LogError, match="Set TMPDIR"):
        run._new_log(ExitStack())
