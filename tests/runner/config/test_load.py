"""The settings of `runner serve`: the order of file, environment and options, and the messages about mistakes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.load import load, settings
from runner.config.model import Config
from runner.errors import ConfigError
from sandbox.settings import toml
from sandbox.settings.loaded import Origin, Source
from sandbox.settings.model import Key, Setting


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runner.toml"


def complaints(file: Path, text: str, environment: dict[str, str] | None = None, **options: str) -> list[str]:
    """What is wrong, a line each, without the name of the file's folder."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environment or {}, {tuple(name.split("__")): value for name, value in options.items()})
    message = str(caught.value).removeprefix("The configuration is wrong:")
    return [line.strip().replace(f"{file.parent}/", "") for line in message.strip().split("\n")]


def test_nothing_given_is_every_default() -> None:
    loaded = load(None, {})
    assert loaded.config == Config()
    assert {loaded.origin(setting.key) for setting in settings()} == {Origin(Source.DEFAULT)}


SLOTS = ("jobs", "slots")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sets(st.sampled_from("fvo")))
def test_options_win_over_the_environment_and_that_over_the_file(a: int, b: int, c: int, given: set[str]) -> None:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - hypothesis and tmp_path do not go together

    with TemporaryDirectory() as folder:
        file = Path(folder) / "f"
        file.write_text(f"[jobs]\nslots = {a}\n" if "f" in given else "")
        environment = {"RUNNER_JOBS_SLOTS": str(b)} if "v" in given else {}
        loaded = load(file, environment, {SLOTS: str(c)} if "o" in given else {})
        expected = [
            (c, Origin(Source.OPTION, "--slots")),
            (b, Origin(Source.VARIABLE, "RUNNER_JOBS_SLOTS")),
            (a, Origin(Source.FILE, f"{file}:2")),
            (2, Origin(Source.DEFAULT)),
        ]
    first = next(one for one, source in zip(expected, "ovf", strict=False) if source in given) if given else expected[3]
    assert (loaded.config.jobs.slots, loaded.origin(SLOTS)) == first


_BESIDE: dict[Key, Key] = {
    ("tls", "key"): ("tls", "certificate"),
    ("tls", "certificate"): ("tls", "key"),
    ("sandboxes", "addresses"): ("sandboxes", "identity"),
}
"""What cannot be given alone, and what it needs."""
_SAMPLES: dict[Key, str] = {
    ("api", "listen"): "[::1]:1",
    ("gitlab", "map_images"): "a=b c=d",
    ("gitlab", "pull_policies"): "never always",
    ("log", "format"): "json",
    ("sandboxes", "addresses"): "ci@192.0.2.1:22 ci@192.0.2.2:22",
    ("disk", "low"): "1GiB",
    ("webhooks", "give_up"): "70",
}
"""Values that are not the default, where 7 will not do."""
_SECRET = "whsec_bG9uZyBlbm91Z2ggZm9yIGV2ZXJ5Ym9keQ=="
_URLS = "https://ci.example.com/passw0rd\nhttp://other/"
_SECRETS: dict[Key, str] = {("webhooks", "urls"): _URLS}
"""Those for which that one will not do."""


@pytest.mark.parametrize("setting", [one for one in settings() if not one.secret], ids=lambda setting: setting.name)
def test_every_setting_can_be_given_in_each_way(setting: Setting, tmp_path: Path) -> None:
    text = _SAMPLES.get(setting.key, "7")
    beside: dict[Key, str | list[str]] = {_BESIDE[setting.key]: "/beside"} if setting.key in _BESIDE else {}
    by_option = load(None, {}, {setting.key: text.split() if setting.many else text, **beside})
    assert by_option.config != Config()
    assert by_option.origin(setting.key) == Origin(Source.OPTION, setting.option)
    for name in filter(None, (setting.variable, setting.about.also)):
        by_variable = load(None, {name: text}, beside)
        assert by_variable.config == by_option.config
        assert by_variable.origin(setting.key) == Origin(Source.VARIABLE, name)


@pytest.mark.parametrize("setting", [one for one in settings() if one.secret], ids=lambda setting: setting.name)
def test_a_secret_is_given_by_value_or_by_a_file_and_never_as_an_argument(setting: Setting, tmp_path: Path) -> None:
    secret = _SECRETS.get(setting.key, _SECRET)
    (tmp_path / "secret").write_text(f"{secret}\n")
    path, file = str(tmp_path / "secret"), tmp_path / "runner.toml"
    file.write_text(f'{setting.name}_file = "{path}"\n')
    beside = {"RUNNER_WEBHOOKS_SECRET": _SECRET} if setting.key in _SECRETS else {}
    ways = [
        load(None, {setting.variable: secret, **beside}),
        load(None, {f"{setting.variable}_FILE": path, **beside}),
        load(None, beside, {setting.key: path}),
        load(file, beside),
    ]
    assert setting.option.endswith("-file")
    assert all(way.config == ways[0].config != Config() for way in ways)
    assert [way.origin(setting.key).place for way in ways] == [
        setting.variable, f"{setting.variable}_FILE", setting.option, f"{file}:1",
    ]  # fmt: skip
    assert not any(word in repr(ways) for word in secret.split())


def test_addresses_of_webhooks_are_a_line_each_or_words_of_the_variable(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text(f"\n{_URLS}\n\n")
    for way in ({"RUNNER_WEBHOOKS_URLS": _URLS}, {"RUNNER_WEBHOOKS_URLS_FILE": str(tmp_path / "urls")}):
        loaded = load(None, {"RUNNER_WEBHOOKS_SECRET": _SECRET, **way})
        assert loaded.config.webhooks.receivers == ("https://ci.example.com/passw0rd", "http://other/")


def test_no_two_settings_have_a_name_in_common() -> None:
    variables = [name for one in settings() for name in (one.variable, one.about.also) if name]
    assert len(variables) == len(set(variables))
    assert len({one.option for one in settings()}) == len(settings())


def test_the_rule_names_a_variable_before_an_older_name() -> None:
    environment = {"SANDBOX_KEEPER": "/old", "RUNNER_SANDBOXES_KEEPER": "/new"}
    assert load(None, environment).config.sandboxes.keeper == Path("/new")


def test_an_empty_variable_says_nothing() -> None:
    assert load(None, {"RUNNER_JOBS_SLOTS": "", "RUNNER_GITLAB_SOCKET": ""}).config == Config()


def test_all_mistakes_are_told_at_once_each_by_where_it_is(file: Path) -> None:
    text = """
        stat = "/x"
        [jobs]
        slots = 0
        lables = ["a"]
        [gitlab]
        pull_policies = ["sometimes"]
        """
    assert complaints(file, text, {"RUNNER_JOBS_PER_KEY": "many"}, gitlab__grace="-1") == [
        "runner.toml:4: jobs.slots: must be greater than or equal to 1, not 0.",
        "RUNNER_JOBS_PER_KEY: jobs.per_key: must be a valid integer, not 'many'.",
        "runner.toml:5: jobs.lables: there is no such setting. Did you mean labels?",
        "--gitlab-grace: gitlab.grace: must be greater than or equal to 0, not '-1'.",
        "runner.toml:7: gitlab.pull_policies.0: must be 'always', 'if-not-present' or 'never', not 'sometimes'.",
        "runner.toml:2: stat: there is no such setting. Did you mean state?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs = 3", "runner.toml:1: jobs: must be a valid dictionary or instance of Jobs."),
        ("slots = 3", "runner.toml:1: slots: there is no such setting. Did you mean jobs.slots?"),
        ("[job]\nslots = 3", "runner.toml:1: job: there is no such setting. Did you mean jobs?"),
        ("[xyz]", "runner.toml:1: xyz: there is no such setting."),
        (
            'api.listen = "8080"',
            "runner.toml:1: api.listen: must be HOST:PORT, such as 127.0.0.1:8080, not '8080'.",
        ),
        (
            '[tls]\nkey = "/k"',
            "runner.toml:1: tls: certificate and key belong together: give both, or none for HTTP.",
        ),
        (
            'sandboxes.identity = "/k"\nsandboxes.addresses = ["foo"]',
            (
                "runner.toml:2: sandboxes.addresses.0: must be USER@HOST:PORT, "
                "such as sandbox@192.0.2.7:22 or sandbox@[2001:db8::7]:2222, not 'foo'."
            ),
        ),
        (
            '[disk]\nlow = "1MiB"',
            "runner.toml:1: disk: low must not be less than full: a disk that fills up is low first, and full then.",
        ),
        ('gitlab.map_images = ["a"]', "runner.toml:1: gitlab.map_images.0: must match pattern '^[^=]+=.+$', not 'a'."),
    ],
)
def test_a_mistake_is_told_with_line_and_what_was_expected(file: Path, text: str, said: str) -> None:
    assert complaints(file, text) == [said]


def test_a_variable_for_what_the_file_has_something_else_is_no_defect(file: Path) -> None:
    assert len(complaints(file, "jobs = 3", {"RUNNER_JOBS_SLOTS": "4"})) == 1


def test_what_belongs_together_is_told_by_where_a_part_of_it_was_said(file: Path) -> None:
    assert complaints(file, "", {"RUNNER_ADDRESSES": "ci@192.0.2.1:22"}) == [
        "RUNNER_ADDRESSES: sandboxes: addresses need an identity (--identity): the private key that they let in."
    ]


def test_gitlab_and_addresses_exclude_each_other(file: Path) -> None:
    [said] = complaints(
        file, '[gitlab]\nsocket = "/s"', {"RUNNER_ADDRESSES": "ci@192.0.2.1:22", "RUNNER_IDENTITY": "/k"}
    )
    assert "GitLab's jobs need a keeper's sandboxes" in said


def test_a_long_wrong_value_is_cut(file: Path) -> None:
    [said] = complaints(file, f'jobs.slots = "{"9x" * 5000}"')
    assert len(said) < 250


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RUNNER_JOBS_SLOT", "RUNNER_JOBS_SLOT is no setting, and has no effect. Did you mean RUNNER_JOBS_SLOTS?"),
        ("RUNNER_API_SERVICE_HOST", "RUNNER_API_SERVICE_HOST is no setting, and has no effect."),
    ],
)
def test_a_variable_that_looks_like_a_setting_is_remarked(name: str, said: str) -> None:
    """And no more than that: Kubernetes sets the second one for a service of the name `runner-api`."""
    assert load(None, {name: "3"}).remarks == (said,)


def test_others_variables_are_left_alone() -> None:
    others = ("RUNNER_URL", "RUNNER_TOKEN_FILE", "RUNNER_NAME", "RUNNER_TEMP", "RUNNER_OS", "SANDBOX_KEEPER")
    assert load(None, dict.fromkeys(others, "x")).remarks == ()


def test_a_secret_that_everybody_can_read_is_remarked(file: Path) -> None:
    file.write_text('[api]\ntoken = "long-enough-for-everybody"\n')
    file.chmod(0o644)
    [said] = load(file, {}).remarks
    assert said == f"{file}: everybody can read api.token there. Close the file (chmod o-r), or give api.token_file."
    file.chmod(0o640)
    assert load(file, {}).remarks == ()


_KEYS = st.sampled_from([*(setting.name for setting in settings()), "jobs", "tls", "api.token_file", "x.y", "slots"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


@given(st.dictionaries(_KEYS, _ANYTHING, max_size=4), st.dictionaries(_KEYS, st.text("a1 ,=/:.", max_size=6)))
def test_whatever_is_given_is_taken_or_refused_in_sentences(
    tables: dict[str, object], variables: dict[str, str]
) -> None:
    """Nothing but a ConfigError comes out of it."""
    tree: dict[str, object] = {}
    for name, value in tables.items():
        table, *rest = name.split(".")
        if not rest:
            tree[table] = value
        elif isinstance(below := tree.setdefault(table, {}), dict):
            below[rest[0]] = value
    environment = {f"RUNNER_{name.replace('.', '_').upper()}": text for name, text in variables.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(toml, "read", lambda _: toml.Document("f", tree, {}))
        with contextlib.suppress(ConfigError):
            load(Path("/dev/null"), environment)


def test_one_section_is_read_without_a_file_and_without_the_others() -> None:
    environment = {"RUNNER_JOBS_SLOTS": "wrong", "SANDBOX_KEEPER": "/k"}
    assert load(None, environment, only="sandboxes").config.sandboxes.keeper == Path("/k")


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(file, {})
