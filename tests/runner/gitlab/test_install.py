"""gitlab-runner's configuration: what is written, what is left alone, and what is found wrong."""

from __future__ import annotations

import copy
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Le
from typer.testing import CliRunner

from runner.config.model import GitLab
from runner.errors import InstallError
from runner.execution.options import DEFAULTS
from runner.gitlab import install, jobs, live, tenancy, turn
from runner.gitlab.cli import app
from runner.gitlab.client import parse as parse_hook
from runner.gitlab.install import Setup

FOREIGN = """\
concurrent = 4

[[runners]]
  name = "of somebody else" # with a comment
  url = "https://gitlab.example.com"
  token = "glrt-other"
  executor = "docker"
"""


def setup(name: str = "ours", *, token: str = "glrt-secret", limit: int = 2) -> Setup:
    return Setup("https://gitlab.example.com", name, token, limit)


def test_what_is_written_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.toml"
    install.write(file, setup())
    assert install.check(install.read(file), warm=2) == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_the_hooks_understand_how_they_are_called() -> None:
    """gitlab-runner adds the script and the stage to `run_args`."""
    [runner] = install.parse(install.whole(setup()))["runners"]
    custom = runner["custom"]
    for name in install.HOOKS:
        isolated, without_site, program, *words = custom[f"{name}_args"]
        assert (isolated, without_site, Path(program).name) == ("-I", "-S", "hook.py")
        about = ["/tmp/script", "build_script"] if name == "run" else []
        assert parse_hook([*words, *about]) == (name, about, install.DEFAULT_SOCKET)


def test_the_times_fit_into_each_other() -> None:
    """The trap: a hook that is killed before its stage has ended, or a stage that ends beside the cleanup."""
    [runner] = install.parse(install.whole(setup()))["runners"]
    [longest] = [part.le for part in GitLab.model_fields["grace"].metadata if isinstance(part, Le)]
    ending = tenancy.WAY_BACK + tenancy.KILL_REPORT + turn.REST
    graceful, force = (runner["custom"][f"{kind}_kill_timeout"] for kind in ("graceful", "force"))
    assert float(str(longest)) + ending < graceful
    assert graceful + force <= live.LOCK_DEADLINE < 300
    assert jobs.HELD + DEFAULTS.lend_wait + DEFAULTS.open_deadline < install.LEAST_PREPARE < 3600
    assert runner["custom"]["prepare_exec_timeout"] == 3600


def test_a_job_may_choose_where_it_is_built() -> None:
    [runner] = install.parse(install.whole(setup()))["runners"]
    assert runner["custom_build_dir"] == {"enabled": True}


def test_hooks_run_under_the_python_that_starts_soonest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "python3"
    monkeypatch.setattr(install, "_SYSTEM_PYTHON", str(own))
    assert install.python_for_hooks() == sys.executable
    for code, expected in ((1, sys.executable), (0, str(own))):
        own.write_text(f"#!/bin/sh\nexit {code}\n")
        own.chmod(0o755)
        assert install.python_for_hooks() == expected


def test_the_hooks_are_compiled_for_their_python(tmp_path: Path) -> None:
    """Where gitlab-runner's user may not write, each stage would compile them anew otherwise."""
    (tmp_path / "client.py").write_text("A = 1\n")
    install.compile_for(Setup("https://gitlab.example.com", python=sys.executable, hook=str(tmp_path / "hook.py")))
    assert [file.suffix for file in (tmp_path / "__pycache__").iterdir()] == [".pyc"]
    install.compile_for(Setup("https://gitlab.example.com", python="/no/such", hook=str(tmp_path / "hook.py")))


def test_other_runners_are_left_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(FOREIGN)
    install.write(file, setup())
    install.write(file, setup("second"))
    assert file.read_text().startswith(FOREIGN)
    assert [runner["name"] for runner in install.read(file)["runners"]] == ["of somebody else", "ours", "second"]


def test_our_own_block_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(FOREIGN)
    install.write(file, setup())
    install.write(file, setup("second"))
    before = file.read_text()
    install.write(file, setup(token="glrt-new"))
    assert file.read_text() == before.replace("glrt-secret", "glrt-new", 1)


def test_what_an_operator_has_set_in_our_block_stays(tmp_path: Path) -> None:
    """What follows the block is the runner's too, and must not be said twice."""
    file = tmp_path / "config.toml"
    install.write(file, setup())
    text = file.read_text().replace("  limit = 2", "  output_limit = 8192\n  limit = 1")
    file.write_text(f"{text}[runners.cache]\n  Type = 's3'\n")
    for _ in range(2):
        install.write(file, setup())
        [runner] = install.read(file)["runners"]
        assert (runner["output_limit"], runner["limit"], runner["cache"]) == (8192, 2, {"Type": "s3"})
    assert install.parse(install.block(setup("🐳")))["runners"][0]["name"] == "🐳"


def test_what_is_ours_alone_says_what_is_set_now(tmp_path: Path) -> None:
    """Jobs at once, a new name, a new token: nothing of the start before stays."""
    file = tmp_path / "config.toml"
    install.own(file, setup("before", limit=1))
    install.own(file, setup("after", token="glrt-new", limit=3))
    document = install.read(file)
    assert (document["concurrent"], install.check(document, warm=3)) == (3, [])
    [runner] = document["runners"]
    assert (runner["name"], runner["limit"], runner["token"]) == ("after", 3, "glrt-new")
    file.write_text("half a [[")
    install.own(file, setup())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_an_operator_has_set_stays_in_what_is_ours_alone(tmp_path: Path) -> None:
    """The trap: our entrypoint writes the file anew at each start, and a cache in an object store was gone."""
    file = tmp_path / "config.toml"
    install.own(file, setup())
    text = 'log_level = "debug"\n' + file.read_text()
    text = text.replace("  limit = 2", '  output_limit = 8192\n  environment = ["A=é\\"\\u007f 🐳"]\n  limit = 9')
    text = text.replace("  [runners.custom]\n", "  [runners.custom]\n  x = [1.5, inf, {a = true, b = 07:32:00}]\n")
    text += '[runners.cache]\n  Type = "s3"\n[runners.cache.s3]\n  "Access Key" = "k"\n'
    text += "[session_server]\n  a = 2026-01-02\n"
    file.write_text(text)
    before = install.read(file)
    for _ in range(2):
        install.own(file, setup())
        after = install.read(file)
        assert after["runners"][0]["limit"] == 2
        assert {**after, "runners": [{**after["runners"][0], "limit": 9}]} == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "\n  output_limit = 8192\n" in file.read_text()  # as a person would write it, for their next change
    install.own(file, setup(token="glrt-of-another"))
    [runner] = install.read(file)["runners"]
    assert (runner["token"], runner["output_limit"]) == ("glrt-of-another", 8192)


ROTATED = """\
concurrent = 2

[[runners]]
  name = "ours"
  url = "https://gitlab.example.com"
  id = 12
  token = "glrt-of-gitlab-runner"
  token_obtained_at = 2026-11-01T10:00:00Z
  token_expires_at = {expires}
  executor = "custom"
"""
"""As gitlab-runner writes its configuration itself."""


def test_a_token_that_gitlab_runner_has_changed_stays(tmp_path: Path) -> None:
    """The trap: the one that was given is not valid any more, and the file has no comments any more."""
    file = tmp_path / "config.toml"
    install.own(file, setup())
    file.write_text(ROTATED.format(expires="2026-12-01T10:00:00Z"))
    for _ in range(2):
        install.own(file, setup("renamed", limit=3))
        [runner] = install.read(file)["runners"]
        assert (runner["name"], runner["id"], runner["token"]) == ("renamed", 12, "glrt-of-gitlab-runner")
        assert (runner["token_obtained_at"].day, runner["token_expires_at"].month) == (1, 12)
    install.own(file, setup(token="glrt-of-another-runner"))
    [runner] = install.read(file)["runners"]
    assert (runner["token"], "token_expires_at" in runner) == ("glrt-of-another-runner", False)


def test_a_token_that_never_expires_is_the_one_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(ROTATED.format(expires="0001-01-01T00:00:00Z"))
    install.own(file, setup())
    assert install.read(file)["runners"][0]["token"] == "glrt-secret"


def test_what_others_in_the_file_decide_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"shutdown_timeout = 120\n{FOREIGN}")
    assert install.write(file, setup(limit=4)) == []
    [finding] = install.write(file, setup(limit=5))
    assert "concurrent = 4 allows fewer jobs than limit = 5" in finding.what
    words = ["install", "--url", "https://gitlab.example.com", "--name", "ours", "--concurrency", "6"]
    told = CliRunner().invoke(app, [*words, "--write", str(file)], env={"GITLAB_TOKEN": "glrt-secret"})
    assert (told.exit_code, "Set concurrent = 6." in told.output) == (0, True)


def test_a_runner_of_that_name_which_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(FOREIGN)
    with pytest.raises(InstallError, match="There is a runner named 'of somebody else' already"):
        install.write(file, setup("of somebody else"))
    assert file.read_text() == FOREIGN


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda d: d["runners"][0].update(executor="shell"), "executor = 'shell'"),
        (lambda d: d["runners"][0].update(shell="sh"), "shell = 'sh'"),
        (lambda d: d["runners"][0].pop("request_concurrency"), "request_concurrency = 1"),
        (lambda d: d["runners"][0].pop("token"), "has no token"),
        (lambda d: d["runners"][0].update(builds_dir="/builds"), "builds_dir = '/builds'"),
        (lambda d: d["runners"][0]["custom"].pop("cleanup_exec"), "does not call the hook `cleanup`"),
        (lambda d: d["runners"][0]["custom"].pop("graceful_kill_timeout"), "graceful_kill_timeout = 600"),
        (lambda d: d["runners"][0]["custom"].update(force_kill_timeout=600), "force_kill_timeout above"),
        (lambda d: d["runners"][0]["custom"].update(prepare_exec_timeout=240), "less time than it may wait"),
        (lambda d: d["runners"][0]["custom"].update(config_exec_timeout=20), "gives `config` less time"),
        (lambda d: d["runners"][0]["custom"].update(cleanup_exec_timeout=5), "gives `cleanup` less time"),
        (lambda d: d["runners"][0]["custom"].update(graceful_kill_timeout=10), "may take longer to end"),
        (lambda d: d.pop("shutdown_timeout"), "shutdown_timeout is below a minute"),
        (lambda d: d.update(concurrent=1), "concurrent = 1 allows fewer jobs"),
        (
            lambda d: (d.update(concurrent=9), d["runners"][0].update(limit=9, request_concurrency=9)),
            "9 jobs at once and 2 warm",
        ),
        (lambda d: d.update(runners=[]), "No runner calls these hooks"),
    ],
)
def test_each_thing_that_is_wrong_is_found_with_its_fix(damage: Callable[[dict[str, Any]], object], what: str) -> None:
    document = copy.deepcopy(dict(install.parse(install.whole(setup()))))
    damage(document)
    [finding] = install.check(document, warm=2)
    assert what in finding.what
    assert finding.fix.endswith(".")


@pytest.mark.parametrize("text", ["[[runners", 'runners = "none"', "runners = [1]", "concurrent = true = 1"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InstallError):
        install.write(file, setup())
    assert file.read_text() == text


@pytest.mark.parametrize(
    "bad",
    [{"url": "gitlab.example.com"}, {"name": "a\nb"}, {"token": ""}, {"token": "glrt a"}, {"limit": 0}],
    ids=str,
)
def test_what_would_not_work_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InstallError):
        Setup(**{"url": "https://gitlab.example.com", **bad})


def test_gitlab_runner_has_the_proxies_when_it_runs() -> None:
    """The trap: what is given to the build alone is not there for the way to GitLab."""
    service = yaml.safe_load((Path(__file__).parents[3] / "compose.yaml").read_text())["services"]["gitlab"]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        assert service["environment"][name] == service["build"]["args"][name] == f"${{{name}:-}}"


def test_the_command_never_prints_the_token(tmp_path: Path) -> None:
    words = ["install", "--url", "https://gitlab.example.com", "--write", str(tmp_path / "config.toml")]
    environment = {"GITLAB_TOKEN": "glrt-secret", "RUNNER_GITLAB_SOCKET": "/elsewhere.sock"}
    printed = CliRunner().invoke(app, words[:3], env=environment)
    written = CliRunner().invoke(app, words, env=environment)
    assert (printed.exit_code, written.exit_code) == (0, 0)
    assert "glrt-secret" not in printed.output + written.output
    assert "glrt-secret" in (tmp_path / "config.toml").read_text()
    assert "/elsewhere.sock" in printed.output
    checked = CliRunner().invoke(app, ["install", "--check", words[-1], "--warm", "1"])
    assert checked.exit_code == 1
    assert "Set limit = 1" in checked.output


def test_the_address_comes_from_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://of-the-file.example\n")
    assert install.address({}) == ""
    assert install.address({"GITLAB_URL": "https://x.example"}) == "https://x.example"
    both = {"GITLAB_URL": "https://x.example", "GITLAB_URL_FILE": str(tmp_path / "url")}
    assert install.address(both) == "https://of-the-file.example"
    ran = CliRunner().invoke(app, ["install"], env=both)
    assert 'url = "https://of-the-file.example"' in ran.output


def test_the_token_comes_from_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("glrt-from-the-file\n")
    assert install.token({"GITLAB_TOKEN": "glrt-x"}, tmp_path / "token") == "glrt-from-the-file"
    assert install.token({"GITLAB_TOKEN": "glrt-x"}, None) == "glrt-x"
    with pytest.raises(InstallError, match="GITLAB_TOKEN_FILE"):
        install.token({}, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"GITLAB_URL_FILE": "{}/none"}, "GITLAB_URL_FILE: There is no file {}/none."),
        ({"GITLAB_TOKEN_FILE": "{}/none"}, "GITLAB_TOKEN_FILE: There is no file {}/none."),
        ({"GITLAB_TOKEN_FILE": "{}"}, "GITLAB_TOKEN_FILE: {} is a folder."),
        ({"GITLAB_TOKEN_FILE": "/dev/null"}, "GITLAB_TOKEN_FILE: The file /dev/null is empty."),
        ({"CONCURRENCY": "two"}, "CONCURRENCY is 'two'."),
        ({"CONCURRENCY": "0"}, "At least one job at once must be allowed (CONCURRENCY"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_setting_of_the_image_is_told_with_its_name(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    """By the image's own program, which comes to the same functions as `install`."""
    root = Path(__file__).parents[3]
    good = {"GITLAB_URL": "https://gitlab.example.com", "GITLAB_TOKEN": "glrt-secret", "PYTHONPATH": str(root)}
    environment = good | {name: value.format(tmp_path) for name, value in settings.items()}
    program = [sys.executable, str(root / "images" / "gitlab" / "entrypoint")]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert ran.stderr.startswith(f"gitlab: {said.format(tmp_path)}")
