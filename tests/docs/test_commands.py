"""Every command of ours in the documentation exists, with the options that it is given there.

Other tests cover the effects of the commands; `test_tutorial` runs a page of them from beginning to end.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import typer
import yaml
from typer.core import TyperGroup

from runner import cli as runner_cli
from sandbox import cli as sandbox_cli
from tests.docs.pages import ROOT, Block, blocks, commands

OURS: Final = {"runner": typer.main.get_command(runner_cli.app()), "sandbox": typer.main.get_command(sandbox_cli.app())}
Misunderstood: Final[type[Exception]] = typer.BadParameter.__bases__[0]
"""What the parser raises: Typer brings its own copy of Click, whose errors have no public name but this one's."""
SHELL: Final = blocks("sh")
SERVICES: Final = set(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
_COMPOSE_VALUES: Final = frozenset({"--profile", "--file", "-f"})
"""Of `docker compose`, before the name of its own command."""
_EXEC_VALUES: Final = frozenset({"-e", "--env", "-u", "--user", "-s"})


def in_container(words: list[str]) -> list[str]:
    """What `docker compose exec` or `run` runs, after the name of the service."""
    rest = iter(words)
    for word in rest:
        if word in _EXEC_VALUES:
            next(rest)
        elif not word.startswith("-"):
            assert word in SERVICES, f"compose.yaml has no service {word}"
            return list(rest)
    return []


def of_compose(words: list[str]) -> list[str]:
    """The words from the name of compose's own command on."""
    rest = iter(words)
    for word in rest:
        if word in _COMPOSE_VALUES:
            next(rest)
        elif not word.startswith("-"):
            return [word, *rest]
    return []


def unwrapped(words: list[str]) -> list[str]:
    """The command itself, without what it is started by."""
    if words[:2] == ["docker", "compose"]:
        own = of_compose(words[2:])
        return unwrapped(in_container(own[1:])) if own[:1] in (["exec"], ["run"]) else own
    if words[:1] in (["sudo"], ["nsenter"], ["time"]):
        return unwrapped([word for word in words[1:] if not word.startswith("-")])
    return words


def check(program: str, arguments: list[str]) -> None:
    """Raise `Misunderstood` unless the command line can be understood. Nothing is run."""
    command, left = OURS[program], arguments
    context = command.context_class(command, info_name=program, **command.context_settings)
    while isinstance(command, TyperGroup):
        _, left, _ = command.make_parser(context).parse_args(left)
        if not left:
            raise Misunderstood(f"{program}: no command")
        name, found, left = command.resolve_command(context, left)
        assert found is not None
        command, context = found, found.context_class(found, info_name=name, parent=context, **found.context_settings)
    _, left, _ = command.make_parser(context).parse_args(left)
    if left:
        raise Misunderstood(f"too many words: {left}")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_our_commands_in_a_block_can_be_understood(block: Block) -> None:
    for words in commands(block):
        name, *arguments = unwrapped(words) or [""]
        program = Path(name).name
        if program in OURS and Path(name).name == name.rpartition("/")[2]:
            try:
                check(program, arguments)
            except Misunderstood as error:
                pytest.fail(f"{block}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_is_a_shell_script(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, timeout=30, check=False)
    assert checked.returncode == 0, f"{block}: {checked.stderr}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_files_and_targets_in_a_block_are_there(block: Block) -> None:
    for words in commands(block):
        for word in words:
            if re.match(r"(examples|images)/[\w.*/-]+$", word):
                assert list(ROOT.glob(word)) or "tar" in word, f"{block}: there is no {word}"
        if words[0] == "make":
            targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {word for word in words[1:] if "=" not in word and word != "-C"} <= targets, block


def test_the_commands_are_looked_at_at_all() -> None:
    """The trap: a parser that finds no commands finds nothing wrong with them."""
    ours = [words for block in SHELL for words in commands(block) if Path((unwrapped(words) or [""])[0]).name in OURS]
    assert len(ours) > 60
    with pytest.raises(Misunderstood):
        check("runner", ["submit", "--no-such-option", "job.yaml"])
    with pytest.raises(Misunderstood):
        check("runner", ["no-such-command"])


@pytest.mark.parametrize("program", sorted(OURS))
def test_every_command_has_its_help(program: str) -> None:
    shown = subprocess.run(
        [Path(sys.executable).with_name(program), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert set(OURS[program].commands) <= set(re.findall(r"[\w-]+", shown.stdout))  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", sorted((ROOT / "examples" / "systemd").glob("*.service")), ids=lambda unit: unit.name)
def test_systemd_understands_the_units(unit: Path, tmp_path: Path) -> None:
    """It looks for the programs as well: they are where the page installs them, and here where the tests run."""
    here = Path(sys.executable).parent
    (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/sandbox-runner/bin", str(here)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told = [line for line in checked.stderr.splitlines() if str(tmp_path) in line or unit.name in line]
    assert told == []
    command = re.findall(r"^ExecStart=\S+/(\w+) (.*)$", unit.read_text(), re.MULTILINE)
    for program, arguments in command:
        check(program, arguments.split())
