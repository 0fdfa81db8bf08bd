"""`runner run`: its streams, and a host without room for it."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner import run
from runner.errors import LogError
from runner.job import Job
from runner.outcome import ScriptFailed
from tests import programs
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


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (["--timeout", "0"], 64, "A timeout of 0 seconds is not possible"),
        (["--env", "NOT_SET_ANYWHERE"], 64, "there is no variable of that name"),
        (["--keeper", "/none/such", "--", "--timeout", "0"], 69, "There is no keeper socket at /none/such"),
        (["--fast"], 2, "No such option: --fast"),
        (["fast", "--timeout", "9"], 2, "there is more before any --: fast (arguments for the script come after --"),
    ],
)
def test_options_behind_the_script_are_ours_up_to_the_separator(
    tmp_path: Path, words: list[str], code: int, cause: str
) -> None:
    """The trap: `--timeout 600` behind the script was taken for the script's argument, and there was no timeout."""
    (tmp_path / "script").write_text("true")
    refused = programs.run(programs.runner, "run", str(tmp_path / "script"), *words)
    told = " ".join(refused.stderr.replace("│", " ").split())  # a usage error is told in a frame
    assert (refused.returncode, cause in told) == (code, True), refused.stderr
    assert ("arguments for the script come after --" in told) == (code == 2)
