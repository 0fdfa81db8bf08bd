"""A folder on its way to a real sandbox and back, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests import programs
from tests.e2e.conftest import DEADLINE
from tests.e2e.test_service import Service, command, known, new_service
from tests.runner.test_progress import Terminal

__all__ = ["new_service"]

JOB = """\
script: |
  bin/make && sudo chown -R root dist && sleep 600
timeout: 2
artifacts:
- {paths: [dist], when: on_failure}
"""


def test_a_folder_goes_in_and_its_artifacts_come_out_even_after_a_timeout(
    new_service: Callable[[], Service], tmp_path: Path
) -> None:
    """The trap: all of the job's processes are ended from outside at its timeout, and the way in with them."""
    service = new_service()
    folder, out = tmp_path / "folder", tmp_path / "out"
    (folder / "bin").mkdir(parents=True)
    make = folder / "bin" / "make"
    make.write_text(
        "#!/bin/sh\nmkdir dist; seq 1000 >dist/numbers; ln -s numbers dist/latest; ln -s /etc/passwd dist/p\n"
    )
    make.chmod(0o755)
    (tmp_path / "job.yaml").write_text(JOB)
    done = command(service, "submit", "--wait", "--json", "--upload", str(folder), str(tmp_path / "job.yaml"))
    job = json.loads(done.stdout)
    assert (done.returncode, job["outcome"]["outcome"]) == (124, "timed_out"), done.stderr
    assert "runner: An artifact is not kept: dist/p: it is a link that leads elsewhere." in done.stderr
    assert "dist/numbers" in command(service, "artifacts", job["id"]).stdout
    terminal = Terminal()
    words = ("artifacts", job["id"], "-o", str(out))
    environment = {**known(service), "TERM": "xterm"}
    program = programs.start(
        programs.runner, *words, stdout=programs.PIPE, stderr=terminal.theirs, environment=environment
    )
    assert program.communicate(timeout=DEADLINE) == (f"2 artifacts are in {out}.\n", "")
    terminal.close()
    assert (b"downloading" in terminal.shown, b"unpacking" in terminal.shown) == (True, True)
    assert (out / "dist" / "latest").read_text().split() == [str(number) for number in range(1, 1001)]
    assert sorted(path.name for path in (out / "dist").iterdir()) == ["latest", "numbers"]
    again = command(service, *words)
    assert (again.returncode, "something in" in again.stderr) == (66, True)
    copied = command(service, "artifacts", job["id"], "-o", str(tmp_path / "copied"))
    assert copied.stderr == "runner: not kept: dist/p: it is a link that leads elsewhere\n"
    assert list((service.state / "uploads").iterdir()) == []

    source = {"kind": "git", "url": "http://127.0.0.1:9/app.git", "commit": "0" * 40}
    (tmp_path / "git.json").write_text(json.dumps({"script": "true", "source": source}))
    done = command(service, "submit", "--wait", "--json", str(tmp_path / "git.json"))
    outcome = json.loads(done.stdout)["outcome"]
    assert (done.returncode, outcome["outcome"], outcome["exit_code"]) == (66, "bad_source", 66), done.stderr
    assert "git could not fetch the commit" in outcome["message"]
