"""Scripts that run to their own end, over a real SSH server: the job's contract."""

from __future__ import annotations

import getpass
import hashlib
import os
import pwd

import pytest

from runner.execution.attempt import run_attempt
from runner.job import Job
from runner.outcome import Killed, Outcome, ScriptFailed, SetupFailed, Succeeded
from tests.runner.conftest import Bench, alive
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

ENVIRON = "#!/bin/cat /proc/self/environ\n"
"""Prints its environment as the kernel has it, and then itself."""


def environ(bench: Bench) -> dict[str, str]:
    """Return what ENVIRON printed."""
    text = bench.output.decode(errors="surrogateescape").removesuffix(ENVIRON)
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", Succeeded()),
        ("exit 1", ScriptFailed(1)),
        ("exit 42", ScriptFailed(42)),
        ("exit 255", ScriptFailed(255)),
        ("kill -9 $$", Killed(9)),
        ("kill -TERM $$", Killed(15)),
        ("false; echo not reached", ScriptFailed(1)),
        ("false | true; echo not reached", ScriptFailed(1)),
        ("#!/bin/sh\nfalse; exit 7", ScriptFailed(7)),
        ("#!/bin/cat\n", Succeeded()),
    ],
)
async def test_a_script_ends_by_itself(bench: Bench, script: str, expected: Outcome) -> None:
    assert await bench.run(script) == expected
    assert b"not reached" not in bench.output
    assert bench.leases.calls == ["give_back:used"]


async def test_output_is_passed_byte_by_byte(bench: Bench) -> None:
    script = "echo out; echo err >&2; head -c 3000000 /dev/urandom | tee ../raw; sha256sum ../raw; printf 'no newline'"
    assert await bench.run(script) == Succeeded()
    assert bench.output.startswith(b"out\nerr\n")
    raw, rest = bench.output[8:3000008], bench.output[3000008:]
    assert rest.startswith(hashlib.sha256(raw).hexdigest().encode())
    assert rest.endswith(b"no newline")
    assert bench.closing == "\nrunner: The script succeeded.\n"


async def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    args = ("two words", "", "'\"`$(id)", "line\nbreak", "☃", "--")
    assert await bench.run("printf '%s|' \"$@\"", args=args) == Succeeded()
    assert bench.output.decode() == "".join(f"{arg}|" for arg in args)


async def test_variables_arrive_as_they_are(bench: Bench) -> None:
    environment = {
        "LINES_": "a\nb\n",
        "QUOTES": "'\"`$(id)\\",
        "UNI": "ünï ☃",
        "EMPTY": "",
        "RAW": "\udcff",
        "_X9": "1",
    }
    assert await bench.run(ENVIRON, environment=environment) == Succeeded()
    found = environ(bench)
    assert {name: found[name] for name in environment} == environment


async def test_the_default_environment_is_the_contract(bench: Bench) -> None:
    assert await bench.run(ENVIRON) == Succeeded()
    user = pwd.getpwuid(os.getuid())
    assert environ(bench) == {
        "HOME": user.pw_dir,
        "USER": getpass.getuser(),
        "LOGNAME": getpass.getuser(),
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "CI": "true",
        "PWD": bench.settings.workspace,
        "LIBMOUNT_FORCE_MOUNT2": "always",
    }


async def test_a_job_may_replace_the_defaults(bench: Bench) -> None:
    assert await bench.run('echo "$CI $LANG"', environment={"CI": "no", "LANG": "C"}) == Succeeded()
    assert bench.output == b"no C\n"


async def test_the_place_of_a_script(bench: Bench) -> None:
    script = "pwd; ls -A; umask; cat; touch left-here; mkdir -p deep/er; ps -o sid= -p $$ | tr -d ' '; echo $$"
    for _ in range(2):  # the second one finds nothing of the first
        assert await bench.run(script) == Succeeded()
        folder, mask, session, pid = bench.output.decode().split()
        assert folder == bench.settings.workspace
        assert mask == "0022"
        assert session == pid


async def test_signals_are_not_blocked_or_ignored(bench: Bench) -> None:
    assert await bench.run("#!/bin/cat /proc/self/status\n") == Succeeded()
    status = dict(line.split(":", 1) for line in bench.output.decode().splitlines() if ":" in line)
    internal = 0b11 << 31  # the two signals that glibc keeps for itself
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & ~internal == 0


async def test_a_script_of_fifty_megabytes(bench: Bench) -> None:
    script = b"echo start\n" + (b"#" * 99 + b"\n") * 500_000 + b"echo end\n"
    assert await bench.run(script) == Succeeded()
    assert bench.output == b"start\nend\n"


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        (
            "#!/no/such/interpreter\n",
            127,
            "/no/such/interpreter) names an interpreter that the sandbox cannot run: No such",
        ),
        ("#!/etc/passwd\n", 126, "cannot run: Permission denied"),
        ("#!/bin/bash\r\necho hi\r\n", 127, "carriage return. Save the script with Unix line endings"),
    ],
)
async def test_an_interpreter_that_cannot_run(bench: Bench, script: str, code: int, says: str) -> None:
    assert await bench.run(script) == ScriptFailed(code)
    assert says in bench.closing
    assert bench.output == b""


async def test_background_children_do_not_hold_the_end_up(bench: Bench) -> None:
    script = "setsid sleep 300 & echo $!; (setsid sleep 301 & echo $!) ; yes >/dev/stdout & echo done $!"
    assert await bench.run(script, bench.new_log(10_000_000)) == Succeeded()
    first, second = (int(line) for line in bench.output.splitlines()[:2] if line.isdigit())
    await eventually(lambda: not alive(first) and not alive(second))  # orphans of a script are killed after it


async def test_a_log_that_is_too_long(bench: Bench) -> None:
    assert await bench.run("head -c 500000 /dev/zero; echo x >&2; exit 3", bench.new_log(100_000)) == ScriptFailed(3)
    assert bench.output == bytes(100_000)
    assert "The log is kept up to 100000 bytes; 400002 bytes were dropped." in bench.closing


async def test_a_log_that_the_job_shortens(bench: Bench) -> None:
    script = f"head -c 5000 /dev/zero; sleep 0.1; for f in {bench.settings.attempts}/*/log; do : >$f; done; echo x"
    assert await bench.run(script) == Succeeded()


async def test_the_same_attempt_twice_is_refused(bench: Bench) -> None:
    async def once() -> Outcome:
        return await run_attempt(
            bench.leases,
            Job(b"echo once"),
            bench.new_log(),
            bench.cancellation,
            settings=bench.settings,
            new_attempt=lambda: "the-same-attempt",
        )

    assert await once() == Succeeded()
    second = await once()
    assert isinstance(second, SetupFailed)
    assert "at most once" in second.why
    assert bench.output == b""


async def test_notes_tell_the_story(bench: Bench) -> None:
    await bench.run("exit 3")
    assert [note.action for note in bench.notes] == ["lending", "leased", "started", "ended"]
    assert bench.notes[-1].text == "The script failed with exit code 3."
