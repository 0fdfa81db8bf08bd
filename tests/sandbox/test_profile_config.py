"""The keeper's configuration file: what it accepts, and that each mistake is told with file and field."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandbox import config
from sandbox.cli import app
from sandbox.errors import ConfigError
from sandbox.profile import Profile, Recreate

NOTHING: dict[str, str] = {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keeper.toml"


def load(file: Path, text: str, environment: dict[str, str] = NOTHING) -> config.KeeperConfig:
    file.write_text(text)
    return config.load(file, environment)


def test_without_a_file_there_is_one_default_profile() -> None:
    assert config.load(None, {}).profiles == {"default": Profile()}


def test_the_example_of_the_repository_is_valid_and_says_the_defaults() -> None:
    example = Path(__file__).parents[2] / "examples" / "keeper.toml"
    assert config.load(example, {}) == config.load(None, {})


def test_every_field_can_be_set(file: Path) -> None:
    profile = load(
        file,
        """
        network_range = "10.99.0.0/20"
        [profiles.big]
        image = "mine:1"
        runtime = "other"
        warm = 7
        cpus = 1.5
        cpuset = "0-3,5"
        memory = "8GiB"
        pids = 100
        nofile = 2048
        recreate = "always"
        labels = ["gpu", "large"]
        """,
    ).profiles["big"]
    assert (profile.image, profile.runtime, profile.warm, profile.cpus) == ("mine:1", "other", 7, 1.5)
    assert (profile.cpuset, int(profile.memory), profile.pids, profile.nofile) == ("0-3,5", 8 * 1024**3, 100, 2048)
    assert profile.recreate is Recreate.ALWAYS
    assert set(profile.labels) == {"gpu", "large"}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('colour = "red"', "colour"),
        ('network_range = "10.213.0.0/26"', "network_range"),
        ('network_range = "10.213.0.1/16"', "network_range"),
        ('network_range = "fd00::/64"', "network_range"),
        ("profiles = 3", "profiles"),
        ("[profiles]", "profiles"),
        ("[profiles]\ndefault = 3", "profiles.default"),
        ('[profiles."two words"]', "profiles.two words"),
        ("[profiles.default]\nprivileged = true", "profiles.default.privileged"),
        ('[profiles.default]\nmounts = ["/:/host"]', "profiles.default.mounts"),
        ('[profiles.default]\nmemory = "lots"', "profiles.default.memory"),
        ('[profiles.default]\nmemory = "4MiB"', "profiles.default.memory"),
        ("[profiles.default]\nmemory = -1", "profiles.default.memory"),
        ("[profiles.default]\nwarm = 0", "profiles.default.warm"),
        ("[profiles.default]\nwarm = 101", "profiles.default.warm"),
        ("[profiles.default]\ncpus = 0", "profiles.default.cpus"),
        ('[profiles.default]\ncpuset = "all"', "profiles.default.cpuset"),
        ("[profiles.default]\npids = 1", "profiles.default.pids"),
        ("[profiles.default]\nnofile = 1", "profiles.default.nofile"),
        ('[profiles.default]\nrecreate = "sometimes"', "profiles.default.recreate"),
        ('[profiles.default]\nlabels = ["two words"]', "profiles.default.labels"),
        ('[profiles.default]\nimage = ""', "profiles.default.image"),
        ('[profiles.default]\nruntime = ""', "profiles.default.runtime"),
    ],
)
def test_a_mistake_is_told_with_file_and_field(file: Path, text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    assert str(file) in str(caught.value)
    assert field in str(caught.value)


def test_two_mistakes_are_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s):2: profiles\.default\.warm.*:3: profiles\.default\.pids"):
        load(file, "[profiles.default]\nwarm = 0\npids = 0")


def test_a_huge_wrong_value_does_not_make_a_huge_message(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, f"[profiles.default]\nwarm = '{'x' * 100_000}'")
    assert len(str(caught.value)) < 2000


def test_the_environment_stands_in_for_what_a_profile_does_not_say(file: Path) -> None:
    environment = {"SANDBOX_RUNTIME": "userns-runc", "SANDBOX_IMAGE": "mine:2", "SANDBOX_WARM": "5"}
    profiles = load(file, '[profiles.a]\n[profiles.b]\nruntime = "sysbox-runc"\nwarm = 1', environment).profiles
    assert (profiles["a"].runtime, profiles["a"].image, profiles["a"].warm) == ("userns-runc", "mine:2", 5)
    assert (profiles["b"].runtime, profiles["b"].image, profiles["b"].warm) == ("sysbox-runc", "mine:2", 1)


def test_an_empty_variable_is_no_setting() -> None:
    assert config.load(None, {"SANDBOX_RUNTIME": "", "SANDBOX_WARM": ""}).profiles == {"default": Profile()}


def test_a_wrong_variable_is_told_without_a_file() -> None:
    with pytest.raises(ConfigError, match=r"SANDBOX_WARM: profiles\.default\.warm"):
        config.load(None, {"SANDBOX_WARM": "many"})


def test_what_is_not_toml_is_told_with_its_line(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2") as caught:
        load(file, "\nprofiles: default")
    assert str(file) in str(caught.value)


def test_what_is_not_text_is_told(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(file, {})


def test_a_missing_file_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        config.load(file, {})
    assert str(file) in str(caught.value)


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):  # a folder: root reads every file
        config.load(tmp_path, {})


def test_show_says_where_each_value_comes_from(file: Path) -> None:
    file.write_text('disk_reserve = "9GiB"\n[profiles.big]\nmemory = "8GiB"\n')
    ran = CliRunner().invoke(app(), ["config", "show", str(file), "--json"], env={"SANDBOX_WARM": "3"})
    shown = {one.pop("setting"): one for one in json.loads(ran.stdout)["settings"]}
    assert shown["disk_reserve"] == {"value": 9 * 1024**3, "source": "file", "place": f"{file}:1", "live": True}
    assert shown["profiles.big.memory"]["place"] == f"{file}:3"
    assert (shown["profiles.big.warm"]["value"], shown["profiles.big.warm"]["place"]) == (3, "SANDBOX_WARM")
    assert shown["profiles.big.pids"]["source"] == "default"
    assert "profiles.default.memory" not in shown


def test_check_tells_the_nearest_right_name(file: Path) -> None:
    assert CliRunner().invoke(app(), ["config", "check"], env={}).exit_code == 0
    file.write_text("[profiles.default]\nmemroy = 3\n[opening.registry]\n")
    ran = CliRunner().invoke(app(), ["config", "check", str(file)])
    assert isinstance(ran.exception, ConfigError)
    assert f"{file}:2: profiles.default.memroy: there is no such setting. Did you mean memory?" in str(ran.exception)
    assert f"{file}:3: opening: there is no such setting. Did you mean openings?" in str(ran.exception)
