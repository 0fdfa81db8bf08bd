"""Bad input gets one line with a cause and a next step, an exit code by kind, no traceback, and leaves nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import KeeperUnreachable
from sandbox.state import State
from tests import programs
from tests.e2e.conftest import DEADLINE, Keeper, run


def command(main: Callable[[], None], *words: str, **environment: str) -> tuple[int, str]:
    """Run one of our commands and return its exit code and its last line on stderr."""
    result = programs.run(main, *words, environment={**os.environ, **environment}, timeout=DEADLINE)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stderr.strip().splitlines()[-1]


def runner_run(keeper: Keeper, *options: str) -> tuple[int, str]:
    return command(programs.runner, "run", "--keeper", str(keeper.socket), *options)


@pytest.mark.parametrize(
    ("content", "code", "cause"),
    [
        (None, 66, "cannot be read: No such file"),
        (b"", 64, "The script is empty"),
        (b" \n\t\n", 64, "The script is empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(64), 64, "an ELF program"),
        (b"echo a\0b", 64, "NUL byte"),
        (b"#" * (64 * 1024**2 + 1), 64, "the limit is"),
    ],
)
def test_a_script_that_cannot_be_one(
    keeper: Keeper, tmp_path: Path, content: bytes | None, code: int, cause: str
) -> None:
    script = tmp_path / "script"
    if content is not None:
        script.write_bytes(content)
    got, line = runner_run(keeper, str(script))
    assert got == code
    assert line.startswith("runner: ")
    assert cause in line
    assert State.LEASED not in {sandbox.state for sandbox in keeper.client.listing().sandboxes}


def test_a_folder_is_no_script(keeper: Keeper, tmp_path: Path) -> None:
    assert runner_run(keeper, str(tmp_path)) == (66, f"runner: The script {tmp_path} cannot be read: Is a directory.")


def test_a_script_of_fifty_megabytes_runs(keeper: Keeper, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"exit 7\n" + b"# " + b"x" * 50 * 1024**2)
    code, line = runner_run(keeper, str(script))
    assert (code, line) == (7, "runner: The script failed with exit code 7.")


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--timeout", "0"], "A timeout of 0 seconds is not possible"),
        (["--timeout", "-1"], "A timeout of -1 seconds"),
        (["--timeout", "nan"], "A timeout of nan"),
        (["--env", "1A=x"], "The variable name '1A' is not allowed"),
        (["--env", "=x"], "The variable name '' is not allowed"),
        (["--env", "NOT_SET_ANYWHERE"], "there is no variable of that name"),
    ],
)
def test_settings_that_cannot_be(keeper: Keeper, tmp_path: Path, options: list[str], cause: str) -> None:
    (tmp_path / "script").write_text("true")
    code, line = runner_run(keeper, *options, str(tmp_path / "script"))
    assert code == 64
    assert cause in line


def test_a_profile_that_is_not_there(keeper: Keeper) -> None:
    result = run(keeper, "true", "--profile", "nonsense")
    assert result.returncode == 64
    assert "The job cannot be run: There is no profile nonsense here, but: default." in result.stderr


def test_no_keeper_socket(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("true")
    code, line = command(programs.runner, "run", "--keeper", str(tmp_path / "none"), str(tmp_path / "script"))
    assert code == 69
    assert "There is no keeper socket" in line
    assert "docker compose up" in line


def test_nobody_listens_on_the_keepers_socket(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("true")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "socket"))
    code, line = command(programs.runner, "run", "--keeper", str(tmp_path / "socket"), str(tmp_path / "script"))
    assert code == 69
    assert "No keeper answers" in line


def test_no_permission_for_the_keepers_socket(keeper: Keeper) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(KeeperUnreachable, match="No permission to open the keeper's socket"):
            keeper.client.ping()
    finally:
        os.seteuid(0)


def keeper_command(folder: Path, **environment: str) -> tuple[int, str]:
    return command(
        programs.sandbox, "keeper", "--run-folder", str(folder / "run"), "--home", str(folder / "home"), **environment
    )


def test_no_docker(tmp_path: Path) -> None:
    code, line = keeper_command(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert code == 69
    assert "No Docker Engine answers" in line


@pytest.mark.parametrize(("runtime", "fix"), [("nonsense", "daemon.json"), ("sysbox-runc", "Install sysbox")])
def test_no_runtime(tmp_path: Path, sandbox_runtime: str, runtime: str, fix: str) -> None:
    if runtime == sandbox_runtime:
        fix, runtime = "daemon.json", "other-nonsense"
    code, line = keeper_command(tmp_path, SANDBOX_RUNTIME=runtime)
    assert code == 69
    assert f"The runtime {runtime} is not registered" in line
    assert fix in line


def test_no_image(tmp_path: Path, sandbox_runtime: str) -> None:
    code, line = keeper_command(tmp_path, SANDBOX_RUNTIME=sandbox_runtime, SANDBOX_IMAGE="none:such")
    assert code == 69
    assert "The image none:such is not on the Docker Engine" in line


def test_a_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "keeper.toml").write_text('[profiles.default]\nmemry = "1GiB"\n')
    code, line = command(programs.sandbox, "keeper", "--config", str(tmp_path / "keeper.toml"))
    assert code == 78
    assert "profiles.default.memry" in line
