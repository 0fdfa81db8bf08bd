"""The page, the example and the commands describe all settings as they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer
import yaml
from typer.main import get_command

import runner.cli
import sandbox.cli
from runner import places as runner_places
from runner.config.load import load, settings
from runner.config.model import Config
from sandbox import config as keeper
from sandbox import places
from sandbox.images.build import PASSED_ON
from tests.configuration import EXAMPLE, PAGE, ROOT, example, page

_NOT_OURS = {
    *("PATH", "HOME", "TERM", "LOGNAME", "XDG_STATE_HOME", "SUDO_UID", "DOCKER_CONFIG", "PYDANTIC_DISABLE_PLUGINS"),
    *("JOB_RESPONSE_FILE", "BUILD_EXIT_CODE_FILE", "BUILD_FAILURE_EXIT_CODE", "SYSTEM_FAILURE_EXIT_CODE"),
}
"""Of the system and its programs, and of gitlab-runner's hooks."""
_CONSTANTS = {"URL_VARIABLE": runner_places.URL_VARIABLE, "SOCKET_VARIABLE": places.SOCKET_VARIABLE}
_NAMED_ELSEWHERE = {
    "sandbox/settings/layers.py",  # by the model
    "runner/commands/run.py",  # by the user: --env
    "runner/commands/jobs.py",  # by the user: --secret
    "runner/job.py",  # a job's own
    "runner/gitlab/client.py",  # by whoever calls `variable` and `exit_code` there
    "sandbox/images/build.py",  # by its PASSED_ON
}
"""Where a variable's name is not written where it is read."""


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "Run `python -m tests.configuration`."


def test_the_example_is_fresh_and_loads_as_the_defaults() -> None:
    assert EXAMPLE.read_text() == example(), "Run `python -m tests.configuration`."
    assert load(EXAMPLE, {}).config == Config()


def test_the_example_still_loads_when_everything_is_uncommented(tmp_path: Path) -> None:
    secret, urls = tmp_path / "secret", tmp_path / "urls"
    secret.write_text("whsec_bG9uZyBlbm91Z2ggZm9yIGV2ZXJ5Ym9keQ==")
    urls.write_text("https://ci.example.com/hook")
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(\w+_file = ).*", rf'\1"{secret}"', text, flags=re.MULTILINE)
    text = re.sub(r"^(urls_file = ).*", rf'\1"{urls}"', text, flags=re.MULTILINE)
    (tmp_path / "runner.toml").write_text(text)
    loaded = load(tmp_path / "runner.toml", {})
    assert all(loaded.origin(setting.key).source == "file" for setting in settings())


def test_every_setting_says_what_it_means() -> None:
    for setting in (*settings(), *keeper.settings()):
        assert len(setting.text) > 20, setting.name
        assert setting.text.endswith((".", ")")), setting.name


def test_every_setting_is_an_option_of_its_service() -> None:
    assert _options(runner.cli.app(), "serve") == {setting.option for setting in settings()} | {"--config"}
    assert _options(sandbox.cli.app(), "keeper") == {one.option for one in keeper.settings() if one.alone} | {
        "--config"
    }


def test_the_keepers_example_has_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "keeper.toml").read_text()
    alone = re.sub(r"^# ([a-z_.]+ = )", r"\1", text.partition("[profiles")[0], flags=re.MULTILINE)
    profile = re.sub(r"^# (\w+ = )", r"\1", text.partition("[profiles.default]\n")[2], flags=re.MULTILINE)
    (tmp_path / "keeper.toml").write_text(f"{alone}\n[profiles.default]\n{profile.partition('# What profiles')[0]}")
    loaded = keeper.read(tmp_path / "keeper.toml", {})
    said = {".".join(value.key): value for value in loaded.values() if value.key[0] not in ("openings", "closings")}
    assert {name for name, value in said.items() if value.origin.source != "file"} == set()
    example_of = {"group", "disk_reserve", "profiles.default.cpus", "profiles.default.cpuset"}
    assert {name for name, one in said.items() if one.value != one.setting.default} == example_of


def test_every_variable_that_is_read_anywhere_is_on_the_page() -> None:
    found, elsewhere = set(PASSED_ON), set()
    for package in ("runner", "sandbox"):
        for file in (ROOT / package).rglob("*.py"):
            for name in _read(ast.parse(file.read_text())):
                found |= {name} if name else set()
                elsewhere |= set() if name else {str(file.relative_to(ROOT))}
    assert {"RUNNER_URL", "SANDBOX_KEEPER", "DOCKER_HOST", "SYSTEM_FAILURE_EXIT_CODE", "GOGC"} <= found
    assert sorted(name for name in found - _NOT_OURS if f"`{name}`" not in PAGE.read_text()) == []
    assert elsewhere == _NAMED_ELSEWHERE


def test_how_variables_are_found() -> None:
    """The test above can fail: it sees every way in which our code reads one."""
    ways = """
os.environ["A"]; environment.get("B", ""); os.getenv("C"); "D" in os.environ; posix.environ.get(b"E")
{"H": "default", **os.environ}
typer.Option(envvar="F"); typer.Option(envvar=places.SOCKET_VARIABLE); variable("G"); os.environ.get(name)
"""
    assert sorted(_read(ast.parse(ways))) == ["", *"ABCDEFGH", "SANDBOX_KEEPER"]


def _options(app: typer.Typer, command: str) -> set[str]:
    return {name for one in get_command(app).get_command(None, command).params for name in one.opts}  # type: ignore[attr-defined]


def _read(tree: ast.AST) -> Iterator[str]:
    """The names of the variables that a module reads; empty where it does not say the name there."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="envvar", value=name):
                yield _text(name)
            case ast.Subscript(value=of, slice=name) if _is_environment(of):
                yield _text(name)
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[of]) if _is_environment(of):
                yield _text(name)
            case ast.Call(func=ast.Attribute(value=of, attr="get" | "pop" | "setdefault"), args=[name, *_]):
                if _is_environment(of):
                    yield _text(name)
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[name, *_]):
                yield _text(name)
            # What is set for a child unless the environment has it: {"A": "default", **os.environ}.
            case ast.Dict(keys=keys, values=values) if None in keys and _is_environment(values[keys.index(None)]):
                yield from map(_text, filter(None, keys[: keys.index(None)]))
            # Those of the hooks, which have a reader of their own.
            case ast.Call(func=ast.Name("variable" | "exit_code"), args=[ast.Constant() as name, *_]):
                yield _text(name)


def _is_environment(expression: ast.expr) -> bool:
    return ast.unparse(expression).endswith(("environ", "environment"))


def _text(expression: ast.expr) -> str:
    match expression:
        case ast.Constant(value=str() as name):
            return name
        case ast.Constant(value=bytes() as name):
            return name.decode()
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _CONSTANTS.get(name, "")
    return ""


def test_every_variable_of_the_compose_file_is_on_the_page() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    found = set(re.findall(r"\$\{([A-Z_]+)", compose))
    assert "SANDBOX_RUN" in found
    assert sorted(name for name in found if f"`{name}`" not in PAGE.read_text()) == []
    given = yaml.safe_load(compose)["services"]["runner"]
    # As compose fills it in where nobody has said anything.
    load(None, {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in given["environment"].items()})
