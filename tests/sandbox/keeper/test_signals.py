"""A signal reaches the keeper, whatever its other threads are doing."""

import signal
import subprocess
import sys

from tests.sandbox.keeper import signalled


def test_a_signal_that_another_thread_is_handed_is_taken() -> None:
    """Trap: a thread that starts a process takes signals from one that waits; with handlers alone half were lost."""
    for _ in range(12):
        command = [sys.executable, "-m", signalled.__name__]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "waiting\n"
                for number in (signal.SIGHUP, signal.SIGTERM):
                    process.send_signal(number)
                    assert process.stdout.readline() == f"{number.name}\n"
            finally:
                process.kill()
