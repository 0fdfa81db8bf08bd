"""Both command lines load only the modules of the given command, and know the module of each command."""

from __future__ import annotations

from importlib.metadata import version
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from runner import cli as runner
from sandbox import cli as sandbox
from tests.starts import start

BOTH = pytest.mark.parametrize("cli", [runner, sandbox], ids=["runner", "sandbox"])


@BOTH
def test_the_table_has_every_command_and_each_is_where_it_says(cli: ModuleType) -> None:
    table = vars(cli)["_MODULES"]
    assert list(get_command(cli.app()).commands) == list(table)  # type: ignore[attr-defined]
    for name in table:
        assert name in get_command(cli.app([name])).commands, name  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize("words", [["pign"], ["--help"], []], ids=["a wrong name", "help", "nothing"])
def test_where_no_command_is_named_all_are_known(cli: ModuleType, words: list[str]) -> None:
    shown = CliRunner().invoke(cli.app(words), words).output
    assert "ping" in shown


@BOTH
def test_version_and_short_help(cli: ModuleType) -> None:
    name = cli.__name__.partition(".")[0]
    told = CliRunner().invoke(cli.app(["--version"]), ["--version"], prog_name=name)
    assert (told.exit_code, told.output) == (0, f"{name} {version('sandbox-runner')}\n")
    for words in (["-h"], ["ping", "-h"]):
        assert "Usage: " in CliRunner().invoke(cli.app(words), words).output


@pytest.mark.parametrize("words", [["runner", "ping"], ["runner", "ping", "--live", "--json"], ["sandbox", "ping"]])
def test_a_health_check_loads_no_command_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: it runs four times a minute for ever, and what a command line loads takes 0.2 s each time."""
    monkeypatch.setenv("RUNNER_URL", "http://127.0.0.1:8080")  # else the compose.yaml of this folder counts
    loaded, _ = start(*words, does=f"from {words[0]} import entry; entry.main()")
    assert f"{words[0]}.entry" in loaded
    assert loaded & {"typer", "pydantic", "httpx", f"{words[0]}.cli"} == set()
