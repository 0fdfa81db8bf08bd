"""The configuration of a gitlab-runner that calls our hooks: its block in `config.toml`, written and checked.

Settings and their defaults are those of gitlab-runner's `common/config.go`. This file imports only the standard
library, so that it also runs where only Python is installed, as in the image made from gitlab-runner's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from runner.errors import InstallError

DEFAULT_SOCKET: Final = "/run/runner/gitlab.sock"
HOOKS: Final = ("config", "prepare", "run", "cleanup")
PLACEHOLDER: Final = "glrt-PUT-THE-RUNNER-S-AUTHENTICATION-TOKEN-HERE"
MAX_GRACE: Final = 120
GRACEFUL_KILL: Final = 150
FORCE_KILL: Final = 10
LONGEST_GRACEFUL_KILL: Final = 240
"""Seconds, each of which must fit into the next: the rest of a cancelled stage gets at most `--gitlab-grace` to end;
its hook gets that and the service's further work after TERM, and then the time after KILL; and after 300,
gitlab-runner starts the cleanup beside it."""
LEAST_GRACEFUL_KILL: Final = 30
"""The value that fits the usual `--gitlab-grace`."""
PREPARE: Final = 3600
"""Seconds for `prepare`, which waits for a drain, a sandbox, and then images. gitlab-runner's own default."""
LEAST_PREPARE: Final = 900
"""Seconds for the first two of these waits."""
BRIEF: Final = 60
"""Seconds for `config` and `cleanup`, which may wait for a runner that restarts."""
_GLOBAL: Final = """\
concurrent = {limit}            # jobs at once, of all runners in this file
check_interval = 3
shutdown_timeout = 120    # seconds for cleanup when gitlab-runner is stopped; its own default is 30
"""
_TOKEN: Final = ("id", "token", "token_obtained_at", "token_expires_at")
"""The settings that GitLab gives a runner, and that gitlab-runner writes into the file."""


_SYSTEM_PYTHON: Final = "/usr/bin/python3"
"""A distribution's own Python starts milliseconds sooner than one in a virtual environment or with a shared library."""
_SECONDS: Final = 30.0


def python_for_hooks() -> str:
    """Return the Python that starts sooner: the distribution's if it is new enough, else this one."""
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    return _SYSTEM_PYTHON if _runs(_SYSTEM_PYTHON, "-c", new_enough) else sys.executable


def compile_for(setup: Setup) -> None:
    """Compile the hooks' module for the Python that runs them; maybe only root can write there."""
    _runs(setup.python, "-m", "compileall", "-q", str(Path(setup.hook).with_name("client.py")))


def _runs(python: str, *words: str) -> bool:
    try:
        command = [python, "-I", "-S", *words]
        return subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True, slots=True)
class Rotated:
    """The settings that gitlab-runner wrote when it got a new token in place of an expiring one."""

    id: int
    token: str = field(repr=False)
    obtained: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """Lines that somebody else added to our tables: settings that we do not write, such as `output_limit`."""

    general: str = ""
    runner: str = ""
    custom: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """The values of one runner's block."""

    url: str
    name: str = "sandbox-runner"
    token: str = field(default=PLACEHOLDER, repr=False)
    limit: int = 1
    """Jobs at once."""
    socket: str = DEFAULT_SOCKET
    python: str = field(default_factory=python_for_hooks)
    hook: str = str(Path(__file__).with_name("hook.py"))
    rotated: Rotated | None = None
    """Written in place of the token."""
    kept: Kept = field(default=Kept(), repr=False)

    def __post_init__(self) -> None:
        """Errors: InstallError, when the block would not work."""
        if not re.fullmatch(r"https?://[^\s/]+\S*", self.url):
            raise InstallError(f"{self.url!r} is no address of a GitLab. Give it as https://gitlab.example.com.")
        if not self.name or not self.name.isprintable():
            raise InstallError("A runner's name is printable text. Give one, such as the host's.")
        if not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise InstallError("The token is empty or has spaces. Copy the runner's authentication token (glrt-…).")
        if self.limit < 1:
            raise InstallError("At least one job at once must be allowed (CONCURRENCY, --concurrency).")


@dataclass(frozen=True, slots=True)
class Finding:
    """A setting that will not work, or not well, and the replacement."""

    what: str
    fix: str


def block(setup: Setup) -> str:
    """Return the runner's block, with a comment for each setting that has a reason."""
    return f"""\
{_begin(setup.name)}
[[runners]]
  name = {_text(setup.name)}
  url = {_text(setup.url)}
{_token(setup)}
  executor = "custom"
  shell = "bash"                  # the hooks run the scripts with the sandbox's bash
  limit = {setup.limit}                       # no more than there are warm sandboxes: others would wait in `prepare`
  # GitLab lets a request wait for a job: with fewer requests than jobs at once, one that waits holds others up.
  request_concurrency = {setup.limit}
{setup.kept.runner}
  [runners.custom]
    # Where jobs are built and cached is inside the sandbox: `config` says it for each job.
{_hooks(setup)}
    # `prepare` gives up waiting for a sandbox by itself after a quarter of an hour; the rest is for the job's images.
    prepare_exec_timeout = {PREPARE}
    config_exec_timeout = {BRIEF}
    cleanup_exec_timeout = {BRIEF}     # it returns at once: the runner does the work after it
    # After a cancel: a stage ends within `--gitlab-grace` and some seconds, at most this. gitlab-runner's own 600 is
    # longer than the 300 after which it starts `cleanup` beside a stage that still runs.
    graceful_kill_timeout = {GRACEFUL_KILL}
    force_kill_timeout = {FORCE_KILL}
{setup.kept.custom}
  # GIT_CLONE_PATH works. A job has its sandbox to itself, so it cannot take another one's folder.
  [runners.custom_build_dir]
    enabled = true

  # Caches are kept by the runner (`gitlab.cache` in its configuration), between jobs of one project. For those of
  # several hosts, an object store: a [runners.cache] here, as for any executor; sandboxes have to reach it.
{_end(setup.name)}
"""


def whole(setup: Setup) -> str:
    """Return a configuration for a gitlab-runner that has no other runners."""
    return f"{_GLOBAL.format(limit=setup.limit)}{setup.kept.general}\n{block(setup)}"


def _token(setup: Setup) -> str:
    if setup.rotated is None:
        return f"  token = {_text(setup.token)}"
    rotated = setup.rotated
    return f"""\
  id = {rotated.id}
  token = {_text(rotated.token)}
  token_obtained_at = {rotated.obtained.isoformat()}
  token_expires_at = {rotated.expires.isoformat()}"""


def _hooks(setup: Setup) -> str:
    lines = []
    for name in HOOKS:
        words = ", ".join(map(_text, ["-I", "-S", setup.hook, name, "--gitlab-socket", setup.socket]))
        lines += [f"    {name}_exec = {_text(setup.python)}", f"    {name}_args = [{words}]"]
    return "\n".join(lines)


def _begin(name: str) -> str:
    return f"# >>> sandbox-runner {json.dumps(name)}: written by `runner gitlab install`, and by it again"


def _end(name: str) -> str:
    return f"# <<< sandbox-runner {json.dumps(name)}"


def _text(value: str) -> str:
    """Return a TOML basic string: JSON's, but with DEL escaped, and without surrogate pairs, which TOML lacks."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def own(file: Path, setup: Setup) -> None:
    """Write the configuration of a gitlab-runner that is ours alone, anew at each of its starts.

    Settings of others in the file and in its first runner are kept, if we do not set them ourselves.

    gitlab-runner rewrites the file too, without comments, when GitLab gives it a new token in place of an expiring one.
    The new token stays as long as it is the same runner, since the token that was given to us is no longer valid. A
    digest of the given token, kept beside the file, shows whether it is the same.

    Errors: InstallError.
    """
    given = file.with_name(f"{file.name}.given")
    digest = hashlib.sha256(f"{setup.url} {setup.token}".encode()).hexdigest()
    if _read(given) in (None, digest):
        setup = replace(setup, rotated=_rotated(_read(file) or "", setup.url))
    _replace(file, whole(replace(setup, kept=_kept(_read(file) or "", setup))))
    _replace(given, digest)


def _kept(text: str, setup: Setup) -> Kept:
    """Return the settings in a configuration that are not ours; none if it cannot be read."""
    with contextlib.suppress(InstallError):
        before, ours = parse(text), parse(whole(setup))
        runner, our_runner = next(iter(_runners(before)), {}), _runners(ours)[0]
        return Kept(
            _others(before, ours, ""),
            _others(runner, {**our_runner, **dict.fromkeys(_TOKEN)}, "  "),
            _others(runner.get("custom"), our_runner["custom"], "    "),
        )
    return Kept()


def _others(table: object, ours: Mapping[str, Any], indent: str) -> str:
    found = table.items() if isinstance(table, dict) else ()
    return "".join(f"{indent}{_key(key)} = {_value(value)}\n" for key, value in found if key not in ours)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _value(value: object) -> str:
    """Return a TOML value in one line."""
    match value:
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {_value(inner)}' for key, inner in value.items())}}}"
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case str():
            return _text(value)
        case bool():
            return str(value).lower()
    return str(value)  # numbers, dates and times


def _rotated(text: str, url: str) -> Rotated | None:
    """Return the configuration's settings of an expiring token; None also if it cannot be read."""
    with contextlib.suppress(InstallError):
        for runner in _runners(parse(text)):
            match runner:
                case {
                    "id": int(number), "url": str(where), "token": str(token),
                    "token_obtained_at": datetime() as obtained, "token_expires_at": datetime() as expires,
                } if where == url and expires.year > 1:  # Go's way to say never  # fmt: skip
                    return Rotated(number, token, obtained, expires)
    return None


def write(file: Path, setup: Setup) -> list[Finding]:
    """Put the runner into a configuration: into a new file, or beside other runners, or over our own older block.

    The file is replaced atomically, and only its owner can read it, for it holds the token. Returns the remaining
    findings: settings outside of our block are somebody else's, above all `concurrent`.

    Errors: InstallError, when a runner of that name exists that is not ours, or the file cannot be read or written.
    """
    before = _read(file)
    after = whole(setup) if before is None else merged(before, setup)
    document = parse(after)
    _replace(file, after)
    return check(document)


def merged(before: str, setup: Setup) -> str:
    """Return the configuration with the runner's block in it. Errors: InstallError. Pure.

    Settings that others added to our older block are kept, if we do not set them ourselves.
    """
    begin, end = _begin(setup.name), _end(setup.name)
    if begin in before and end in before:
        head, _, rest = before.partition(begin)
        inside, _, rest = rest.partition(end)
        return head + block(replace(setup, kept=_kept(inside, setup))) + rest.removeprefix("\n")
    if any(runner.get("name") == setup.name for runner in _runners(parse(before))):
        raise InstallError(
            f"There is a runner named {setup.name!r} already, and it was not written by this command (gitlab-runner "
            "drops comments when it writes the file itself). Remove its block or choose another name; `--check` says "
            "what it lacks."
        )
    return f"{before.rstrip()}\n\n{block(setup)}"


def parse(text: str) -> Mapping[str, Any]:
    """Parse a configuration. Errors: InstallError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InstallError(f"The configuration is not TOML: {error}.") from error


def check(document: Mapping[str, Any], warm: int | None = None) -> list[Finding]:
    """Return the findings for all runners that call our hooks. `warm`: the number of warm sandboxes. Pure."""
    ours = [runner for runner in _runners(document) if _calls_us(runner)]
    if not ours:
        return [Finding("No runner calls these hooks.", "`runner gitlab install --url … --write FILE` adds one.")]
    findings = [finding for runner in ours for finding in _check_runner(runner)]
    return findings + list(_check_global(document, sum(_number(runner, "limit", 0) for runner in ours), warm))


def _check_runner(runner: Mapping[str, Any]) -> Iterator[Finding]:
    name = f"runner {runner.get('name', '')!r}"
    for key in ("url", "token"):
        if not runner.get(key):
            yield Finding(f"{name} has no {key}.", f'Set {key} = "…".')
    if runner.get("executor") != "custom":
        yield Finding(f"{name} has executor = {runner.get('executor')!r}.", 'Set executor = "custom".')
    requests, limit = _number(runner, "request_concurrency", 1), _number(runner, "limit", 0)
    if requests < limit:
        what = f"{name} has request_concurrency = {requests}: a request that waits holds up others of its {limit} jobs."
        yield Finding(what, f"Set request_concurrency = {limit}.")
    if runner.get("shell", "bash") != "bash":
        yield Finding(
            f"{name} has shell = {runner['shell']!r}: its scripts are not run by bash.", 'Set shell = "bash".'
        )
    for key in ("builds_dir", "cache_dir"):
        if not str(runner.get(key) or "/home/sandbox/").startswith("/home/sandbox/"):
            what = f"{name} has {key} = {runner[key]!r}, which the sandbox does not empty after a job."
            yield Finding(what, f"Remove {key}: the hook `config` says it.")
    yield from _check_custom(name, runner.get("custom", {}))


def _check_custom(name: str, custom: Mapping[str, Any]) -> Iterator[Finding]:
    for hook in HOOKS:
        words = [str(word) for word in custom.get(f"{hook}_args", [])]
        if not custom.get(f"{hook}_exec") or hook not in words:
            yield Finding(
                f"{name} does not call the hook `{hook}`.", f"Take {hook}_exec and {hook}_args from a new block."
            )
    grace = _number(custom, "graceful_kill_timeout", 600)
    if grace > LONGEST_GRACEFUL_KILL:
        what = f"{name} has graceful_kill_timeout = {grace}: `cleanup` may start while a cancelled stage still runs."
        yield Finding(what, f"Set graceful_kill_timeout = {GRACEFUL_KILL}.")
    if grace < LEAST_GRACEFUL_KILL:
        what = f"{name} has graceful_kill_timeout = {grace}: a stage may take longer to end (`--gitlab-grace`)."
        yield Finding(what, f"Set graceful_kill_timeout = {GRACEFUL_KILL}.")
    if _number(custom, "force_kill_timeout", FORCE_KILL) > 60:
        yield Finding(f"{name} has a force_kill_timeout above a minute.", f"Set force_kill_timeout = {FORCE_KILL}.")
    for hook in ("config", "cleanup"):
        if _number(custom, f"{hook}_exec_timeout", BRIEF) < BRIEF:
            what = f"{name} gives `{hook}` less time than it may wait for a runner that restarts."
            yield Finding(what, f"Set {hook}_exec_timeout = {BRIEF}.")
    if _number(custom, "prepare_exec_timeout", PREPARE) < LEAST_PREPARE:
        what = f"{name} gives `prepare` less time than it may wait for a sandbox ({LEAST_PREPARE} seconds)."
        yield Finding(what, f"Set prepare_exec_timeout = {PREPARE}.")


def _check_global(document: Mapping[str, Any], limit: int, warm: int | None) -> Iterator[Finding]:
    concurrent = _number(document, "concurrent", 1)
    if _number(document, "shutdown_timeout", 30) < 60:
        what = (
            "shutdown_timeout is below a minute: a gitlab-runner that is stopped leaves jobs to the runner's sweeper."
        )
        yield Finding(what, "Set shutdown_timeout = 120.")
    if limit > concurrent:
        yield Finding(
            f"concurrent = {concurrent} allows fewer jobs than limit = {limit}.", f"Set concurrent = {limit}."
        )
    if warm is not None and (limit or concurrent) > warm:
        what = f"{limit or concurrent} jobs at once and {warm} warm sandboxes: jobs wait in `prepare`."
        yield Finding(what, f"Set limit = {warm}, or have more sandboxes (SANDBOX_WARM).")


def _runners(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    runners = document.get("runners", [])
    if not isinstance(runners, list) or not all(isinstance(runner, dict) for runner in runners):
        raise InstallError("The configuration's runners are no list of tables ([[runners]]).")
    return runners


def _calls_us(runner: Mapping[str, Any]) -> bool:
    """Return whether any hook is our program, so that a block without the other hooks is found too."""
    said = [str(word) for hook in HOOKS for word in _command(runner, hook)]
    return any(word == "gitlab" or word.endswith(("/hook.py", "/runner")) for word in said)


def _command(runner: Mapping[str, Any], hook: str) -> list[object]:
    custom = runner.get("custom", {})
    return [custom.get(f"{hook}_exec", ""), *custom.get(f"{hook}_args", [])] if isinstance(custom, dict) else []


def _number(table: Mapping[str, Any], key: str, default: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int):
        raise InstallError(f"{key} = {value!r} is no whole number.")
    return value


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        text = f"{file} is a folder. Docker makes one where a file that it is to mount is not there: write the file."
        raise InstallError(text) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"{file} cannot be read: {error}.") from error


def read(file: Path) -> Mapping[str, Any]:
    """Read and parse a configuration file. Errors: InstallError."""
    text = _read(file)
    if text is None:
        raise InstallError(f"There is no {file}.")
    return parse(text)


def _replace(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mkstemp's mode is 0600
        try:
            with os.fdopen(descriptor, "w") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            Path(name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise InstallError(f"{file} cannot be written: {error.strerror}.") from error


def address(environment: Mapping[str, str]) -> str:
    """Return GitLab's address, from the file GITLAB_URL_FILE or from GITLAB_URL; empty if neither is set.

    Errors: InstallError.
    """
    if file := environment.get("GITLAB_URL_FILE"):
        return _of_file("GITLAB_URL_FILE", Path(file))
    return environment.get("GITLAB_URL", "")


def token(environment: Mapping[str, str], file: Path | None) -> str:
    """Return the runner's authentication token, from a file or from GITLAB_TOKEN. Errors: InstallError."""
    if file is not None:
        return _of_file("GITLAB_TOKEN_FILE", file)
    if given := environment.get("GITLAB_TOKEN"):
        return given
    raise InstallError(
        "The runner's authentication token is needed: GITLAB_TOKEN_FILE or GITLAB_TOKEN. GitLab shows it once, when "
        "the runner is created there (Settings, CI/CD, Runners)."
    )


def concurrency(environment: Mapping[str, str]) -> int:
    """Return the number of jobs at once, from CONCURRENCY; by default one. Errors: InstallError."""
    given = environment.get("CONCURRENCY") or "1"
    if not (given.isascii() and given.isdecimal()):
        raise InstallError(f"CONCURRENCY is {given!r}. Set it to the number of jobs that run at once, such as 2.")
    return int(given)


def _of_file(setting: str, file: Path) -> str:
    """Return the content of the file that a setting names. Errors: InstallError."""
    try:
        text = _read(file)
    except InstallError as error:
        raise InstallError(f"{setting}: {error}") from error
    if text is None:
        raise InstallError(f"{setting}: There is no file {file}. Write it, or name the one that there is.")
    if not text.strip():
        raise InstallError(f"{setting}: The file {file} is empty.")
    return text.strip()
