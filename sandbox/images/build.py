"""Builds the sandbox image with Docker's own command, which has its user's progress display, caches and logins."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import BuildFailed, ConfigError

DEADLINE = 3600.0
"""Seconds for a build; on an emulated architecture it takes many minutes."""
QUESTION_SECONDS = 30.0
PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "BASE_IMAGE", "DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR")
"""Build arguments from the environment, where Docker looks them up itself: its argv has no values."""

_PACKAGE = Path(__file__).parents[1]
_SOURCES = (_PACKAGE / "images" / "context", _PACKAGE.parent / "images")
"""The build context's folder, in an installed package and in a checkout."""


@dataclass(frozen=True, slots=True)
class Build:
    """What to build, in the terms of Docker's command."""

    tags: Sequence[str]
    platforms: Sequence[str] = ()
    push: bool = False
    builder: str | None = None
    base_image: str | None = None
    arguments: Sequence[str] = ()
    """More build arguments, NAME=VALUE; visible to everybody."""
    authorities: Sequence[Path] = ()
    """Certificates (PEM) that the image trusts in addition to Debian's."""
    fresh: bool = False
    """Whether to build without any cache, and on the newest base image."""


def build(order: Build) -> None:
    """Build, with Docker's progress on stderr. Raises `ConfigError` or `BuildFailed`."""
    docker = shutil.which("docker")
    if docker is None:
        raise ConfigError("There is no docker command here. Install Docker's client (docker-cli).")
    with context(order.authorities) as folder:
        for words in commands(order, folder, _has_buildx(docker), os.environ):
            _run([docker, *words])


def _run(command: Sequence[str]) -> None:
    what = f"`docker {command[1]}`"
    try:
        code = subprocess.run(command, stdout=sys.stderr, timeout=DEADLINE, check=False).returncode
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{what} was not over after {DEADLINE / 60:.0f} minutes and was ended.") from None
    if code:
        raise BuildFailed(f"{what} failed with code {code}; Docker's own words are above.")


def commands(order: Build, folder: Path, has_buildx: bool, environment: Mapping[str, str]) -> list[list[str]]:
    """Return the arguments of each call of `docker`. Raises `ConfigError` for an impossible order."""
    if has_buildx:
        return [_build(order, folder, ["buildx", "build", "--push" if order.push else "--load"], environment)]
    if len(order.platforms) > 1 or order.builder:
        raise ConfigError(
            "--builder, and several platforms at once, need Docker's buildx. Install it (docker-buildx), or build for "
            "one platform after the other."
        )
    pushes = [["push", tag] for tag in order.tags] if order.push else []
    return [_build(order, folder, ["build"], environment), *pushes]


def _build(order: Build, folder: Path, verb: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    return [
        *verb,
        *(["--builder", order.builder] if order.builder else []),
        *(["--platform", ",".join(order.platforms)] if order.platforms else []),
        *(["--no-cache", "--pull"] if order.fresh else []),
        *_each("--tag", order.tags),
        *_each("--build-arg", _arguments(order, environment)),
        "--file",
        str(folder / "sandbox" / "Dockerfile"),
        str(folder),
    ]


def _arguments(order: Build, environment: Mapping[str, str]) -> list[str]:
    passed_on = [
        name for name in PASSED_ON if environment.get(name) and not (name == "BASE_IMAGE" and order.base_image)
    ]
    base = [f"BASE_IMAGE={order.base_image}"] if order.base_image else []
    return [*passed_on, *base, *order.arguments]


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


@contextmanager
def context(authorities: Sequence[Path], sources: Sequence[Path] = _SOURCES) -> Iterator[Path]:
    """Make a copy of the build context with these certificates in it. Raises `ConfigError`."""
    source = next((folder for folder in sources if (folder / "sandbox" / "Dockerfile").is_file()), None)
    if source is None:
        raise ConfigError("This installation lacks the sandbox image's Dockerfile. Install the package again.")
    with tempfile.TemporaryDirectory(prefix="sandbox-images-") as temporary:
        folder = Path(temporary) / "context"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for number, authority in enumerate(authorities, 1):
            (folder / "ca" / f"given-{number}.crt").write_text(_certificates(authority))
        yield folder


def _certificates(file: Path) -> str:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(f"{file} holds no certificate in PEM format.")
    return text


def _has_buildx(docker: str) -> bool:
    try:
        return not subprocess.run(
            [docker, "buildx", "version"], capture_output=True, timeout=QUESTION_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"`docker buildx version` did not answer within {QUESTION_SECONDS:.0f} seconds.") from None
