"""What is written of the settings is all of them, as they are: the page, the example, the commands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from runner.cli import app
from runner.config.load import load, option, settings
from runner.config.model import Config
from sandbox.config import KeeperConfig
from sandbox.settings.model import settings_of
from tests.configuration import EXAMPLE, PAGE, ROOT, example, page

_READ = re.compile(
    r"""(?:envvar=|environ(?:ment)?(?:\.get\(|\[)|\b(?:URL|SOCKET)_VARIABLE(?:: Final)? = )"([A-Z][A-Z0-9_]+)\""""
)
"""How our code reads a variable."""
_NOT_OURS = {
    *("PATH", "HOME", "TERM", "XDG_STATE_HOME", "SUDO_UID", "DOCKER_CONFIG"),
    *("JOB_RESPONSE_FILE", "BUILD_EXIT_CODE_FILE"),
}
"""Of the system and its programs, and of gitlab-runner's hooks."""


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "Run `python -m tests.configuration`."


def test_the_example_is_fresh_and_loads_as_the_defaults() -> None:
    assert EXAMPLE.read_text() == example(), "Run `python -m tests.configuration`."
    assert load(EXAMPLE, {}).config == Config()


def test_the_example_still_loads_when_everything_is_uncommented(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_bG9uZyBlbm91Z2ggZm9yIGV2ZXJ5Ym9keQ==")
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(\w+_file = ).*", rf'\1"{secret}"', text, flags=re.MULTILINE)
    (tmp_path / "runner.toml").write_text(text)
    loaded = load(tmp_path / "runner.toml", {})
    assert all(loaded.origin(setting.key).source == "file" for setting in settings())


def test_every_setting_says_what_it_means() -> None:
    for setting in (*settings(), *settings_of(KeeperConfig)):
        assert len(setting.text) > 20, setting.name
        assert setting.text.endswith((".", ")")), setting.name


def test_every_setting_is_an_option_of_serve() -> None:
    serve = get_command(app()).get_command(None, "serve")  # type: ignore[attr-defined]
    offered = {name for parameter in serve.params for name in parameter.opts}
    assert offered == {option(setting) for setting in settings()} | {"--config"}


def test_every_variable_that_is_read_anywhere_is_on_the_page() -> None:
    sources = [file for package in ("runner", "sandbox") for file in (ROOT / package).rglob("*.py")]
    found = {name for file in sources for name in _READ.findall(file.read_text())} - _NOT_OURS
    assert {"RUNNER_URL", "SANDBOX_KEEPER", "DOCKER_HOST"} <= found
    assert sorted(name for name in found if f"`{name}`" not in PAGE.read_text()) == []


def test_every_variable_of_the_compose_file_is_on_the_page() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    found = set(re.findall(r"\$\{([A-Z_]+)", compose))
    assert "SANDBOX_RUN" in found
    assert sorted(name for name in found if f"`{name}`" not in PAGE.read_text()) == []
    given = yaml.safe_load(compose)["services"]["runner"]
    # As compose fills it in where nobody has said anything.
    load(None, {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in given["environment"].items()})
