"""The keeper's reactions to signals."""

import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest

from sandbox.keeper.keeper import Keeper
from sandbox.keeper.process import _hear_more
from sandbox.keeper.signals import Signals
from tests.sandbox.keeper import slow_start


@pytest.mark.parametrize(
    ("then", "done"), [(signal.SIGTERM, call.hurry()), (signal.SIGINT, call.hurry()), (signal.SIGUSR1, call.leave())]
)
def test_while_it_waits_for_jobs_only_a_second_term_ends_them(then: signal.Signals, done: object) -> None:
    keeper = Mock(Keeper)
    _hear_more(keeper, Mock(Signals, take=Mock(side_effect=[signal.SIGHUP, then])))
    assert keeper.method_calls == [done]


@pytest.mark.parametrize(("number", "done"), [(signal.SIGTERM, "stop"), (signal.SIGUSR1, "detach")])
def test_what_it_is_told_while_it_starts_is_done_once_it_has_started(
    tmp_path: Path, number: signal.Signals, done: str
) -> None:
    """The trap: it ended as a crash would, with what an earlier life had left half removed."""
    command = [sys.executable, "-m", slow_start.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "start\n"
            process.send_signal(number)
            assert process.communicate("go on\n", timeout=30.0)[0] == f"started\n{done}\n"
            assert process.returncode == 0
        finally:
            process.kill()
