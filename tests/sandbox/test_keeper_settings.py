"""The keeper's settings: the order of file, environment and options, and the messages about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox import config
from sandbox.errors import ConfigError
from sandbox.logs import Format
from sandbox.settings.loaded import Origin, Source, later
from sandbox.settings.model import Key, Setting, look_up, written

ALONE = [setting for setting in config.settings() if setting.alone]
_SAMPLES: dict[Key, str] = {
    ("home",): "/srv/home",
    ("run_folder",): "/srv/run",
    ("log", "format"): "json",
    ("network_range",): "10.99.0.0/20",
}
"""Values that are not the default, where 7 will not do."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keeper.toml"


def value_of(loaded: Any, setting: Setting) -> object:  # noqa: ANN401 - a configuration
    [(_, value)] = look_up(loaded.config, setting.key)
    return value


@pytest.mark.parametrize("setting", ALONE, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_in_each_way(setting: Setting, file: Path) -> None:
    text = _SAMPLES.get(setting.key, "7")
    file.write_text(f"{setting.name} = {text if text == '7' else written(text)}\n")
    ways = [
        (config.read(file, {}), Origin(Source.FILE, f"{file}:1")),
        (config.read(None, {setting.variable: text}), Origin(Source.VARIABLE, setting.variable)),
        (config.read(None, {}, {setting.key: text}), Origin(Source.OPTION, setting.option)),
    ]
    assert [loaded.origin(setting.key) for loaded, _ in ways] == [origin for _, origin in ways]
    assert len({str(loaded.config) for loaded, _ in ways}) == 1
    assert value_of(ways[0][0], setting) != setting.default


def test_options_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text("patience = 1\n")
    assert config.read(file, {}).config.patience == 1
    assert config.read(file, {"SANDBOX_PATIENCE": "2"}).config.patience == 2
    assert config.read(file, {"SANDBOX_PATIENCE": "2"}, {("patience",): "3"}).config.patience == 3
    assert config.read(file, {"SANDBOX_PATIENCE": ""}).config.patience == 1


def test_no_two_settings_have_a_name_in_common() -> None:
    variables = [name for one in config.settings() for name in (one.variable, one.about.also) if name]
    assert len(variables) == len(set(variables))
    assert len({one.option for one in ALONE}) == len(ALONE)


def test_what_the_file_names_is_its_own_but_for_what_stands_in() -> None:
    named = [setting for setting in config.settings() if not setting.alone]
    assert {(one.variable, one.option) for one in named} == {("", "")}
    also = {one.about.also for one in named if one.about.also}
    assert also == {"SANDBOX_IMAGE", "SANDBOX_RUNTIME", "SANDBOX_WARM"}


def test_nothing_given_is_what_the_units_and_the_container_are_made_for() -> None:
    defaults = config.load(None, {})
    assert (defaults.home, defaults.run_folder) == (Path("/var/lib/sandbox"), Path("/run/sandbox"))
    assert (defaults.group, defaults.patience, defaults.log.format) == (None, 300.0, Format.TEXT)


@pytest.mark.parametrize("group", ["996", '"996"'])
def test_a_group_may_be_a_number(file: Path, group: str) -> None:
    file.write_text(f"group = {group}\n")
    assert config.load(file, {}).group == "996"


_ABSOLUTE = "must be an absolute path, such as /srv/sandbox, since a service is started in any folder, not 'state'."


@pytest.mark.parametrize(
    ("text", "variables", "options", "said"),
    [
        ('home = "state"', {}, {}, f"keeper.toml:1: home: {_ABSOLUTE}"),
        ("", {"SANDBOX_RUN_FOLDER": "state"}, {}, f"SANDBOX_RUN_FOLDER: run_folder: {_ABSOLUTE}"),
        ("", {}, {("home",): "state"}, f"--home: home: {_ABSOLUTE}"),
        ('group = ""', {}, {}, "keeper.toml:1: group: must have at least 1 character, not ''."),
        ("", {"SANDBOX_PATIENCE": "long"}, {}, "SANDBOX_PATIENCE: patience: must be a valid number, not 'long'."),
        (
            "patience = 3",
            {},
            {("patience",): "-1"},
            "--patience: patience: must be greater than or equal to 0, not '-1'.",
        ),
        ("patience = nan", {}, {}, "keeper.toml:1: patience: must be less than or equal to 2592000, not nan."),
        ("", {}, {("log", "format"): "yaml"}, "--log-format: log.format: must be 'text' or 'json', not 'yaml'."),
        ("patiance = 3", {}, {}, "keeper.toml:1: patiance: there is no such setting. Did you mean patience?"),
        ("[profiles.a]\npatience = 3", {}, {}, "profiles.a.patience: there is no such setting. Did you mean patience?"),
    ],
)
def test_a_mistake_is_told_by_where_it_was_said(
    file: Path, text: str, variables: dict[str, str], options: dict[Key, str | list[str]], said: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.read(file, variables, options)
    assert said in str(caught.value)


def test_a_variable_for_what_the_file_has_something_else_is_no_defect(file: Path) -> None:
    file.write_text("log = 3\nprofiles = 4\n")
    with pytest.raises(ConfigError, match=r"keeper.toml:1: log: must be"):
        config.load(file, {"SANDBOX_LOG_FORMAT": "json", "SANDBOX_WARM": "3"})


def test_a_variable_that_looks_like_a_setting_is_remarked() -> None:
    [said] = config.read(None, {"SANDBOX_LOG_FROMAT": "json", "SANDBOX_DNS": "9.9.9.9"}).remarks
    assert said == "SANDBOX_LOG_FROMAT is no setting, and has no effect. Did you mean SANDBOX_LOG_FORMAT?"


def test_where_the_keeper_lives_is_the_next_starts(file: Path) -> None:
    started = config.read(None, {}, {("patience",): "9"})
    file.write_text('home = "/a"\nrun_folder = "/b"\ngroup = "c"\npatience = 1\nlog.format = "json"\n')
    said = config.read(file, {}, {("patience",): "9"})  # the option still says the same
    assert later(started, said) == ["home", "run_folder", "group", "log.format"]
