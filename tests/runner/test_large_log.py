"""A log of 250 MB: every byte, in flat memory. `tests/e2e/test_main_job.py` has a whole gigabyte, by the command."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.conftest import Sandbox

SIZE = 250_000_000
LINE = (
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \xff\xfe\x00\x1b[0m the line that fills the log.\n"
)
"""One repeated line: its sum can be told without keeping it."""


def expected_sum() -> str:
    """Return the sha256 of SIZE bytes of the repeated line."""
    digest = hashlib.sha256()
    block = LINE * 10_000
    whole, rest = divmod(SIZE, len(block))
    for _ in range(whole):
        digest.update(block)
    digest.update(block[:rest])
    return digest.hexdigest()


PROGRAM = f"""#!/usr/bin/env python3
import sys
block = {LINE!r} * 10000
whole, rest = divmod({SIZE}, len(block))
for _ in range(whole):
    sys.stdout.buffer.write(block)
sys.stdout.buffer.write(block[:rest])
"""


@pytest.mark.timeout(600)
def test_a_large_log_is_whole_and_takes_no_memory(sandbox: Sandbox, tmp_path: Path) -> None:
    ways = [sandbox.access(), sandbox.access()]
    sockets = [way.socket.fileno() for way in ways]
    settings = sandbox.settings()
    given = {
        "sockets": sockets,
        "user": ways[0].user,
        "host_key": ways[0].host_key,
        "client_key": ways[0].client_key,
        "workspace": settings.workspace,
        "attempts": settings.attempts,
        "folder": str(tmp_path),
        "script": PROGRAM,
    }
    command = [sys.executable, "-m", "tests.runner.large_log", json.dumps(given)]
    done = subprocess.run(command, pass_fds=sockets, stdout=subprocess.PIPE, check=True, timeout=500)
    for way in ways:
        way.socket.close()
    found = json.loads(done.stdout)
    assert found["outcome"] == "Succeeded()"
    assert found["bytes"] == SIZE
    assert found["sha256"] == expected_sum()
    assert found["grown_mib"] < 30, found
    assert found["peak_mib"] < 150, found
    (tmp_path / "large").unlink()
