"""`sandbox images build`: the options and the build context that Docker's command gets."""

import json
from pathlib import Path

import pytest

from sandbox.errors import BuildFailed, ConfigError
from sandbox.images.build import Build, build, commands, context

ROOT = Path(__file__).parents[2]
AUTHORITY = "-----BEGIN CERTIFICATE-----\n"
DOCKER = """#!/usr/bin/env python3
import json, os, pathlib, sys
*_, folder = sys.argv
if sys.argv[1:] == ["buildx", "version"]:
    sys.exit(int(os.environ["NO_BUILDX"]))
files = sorted(str(file.relative_to(folder)) for file in pathlib.Path(folder).rglob("*") if file.is_file())
pathlib.Path(os.environ["TOLD"]).write_text(json.dumps({"argv": sys.argv[1:], "files": files}))
print("Step 1/1")
sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `docker` in front of all others was told, once it was."""
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {"TOLD": str(tmp_path / "told"), "CODE": "0", "NO_BUILDX": "1"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "told"


def test_it_builds_from_all_files_and_the_given_authorities(told: Path, capfd: pytest.CaptureFixture[str]) -> None:
    authority = told.with_name("company.pem")
    authority.write_text(AUTHORITY)
    build(Build(tags=["a", "b:1"], authorities=[authority]))
    heard = json.loads(told.read_text())
    assert heard["argv"][:5] == ["build", "--tag", "a", "--tag", "b:1"]
    assert {"sandbox/Dockerfile", "sandbox/entrypoint", "install-ca.sh", "ca/given-1.crt"} <= set(heard["files"])
    assert not Path(heard["argv"][-1]).exists(), "the copy is removed"
    assert capfd.readouterr() == ("", "Step 1/1\n"), "stdout is for the result"


def test_a_failed_build_is_told(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "7")
    with pytest.raises(BuildFailed, match="code 7"):
        build(Build(tags=["a"]))


def test_no_docker_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="docker-cli"):
        build(Build(tags=["a"]))


def test_a_proxys_password_is_not_in_argv() -> None:
    [words] = commands(Build(tags=["a"]), Path("c"), False, {"HTTP_PROXY": "http://me:word@proxy", "NO_PROXY": ""})
    assert words == ["build", "--tag", "a", "--build-arg", "HTTP_PROXY", "--file", "c/sandbox/Dockerfile", "c"]


def test_an_option_counts_more_than_the_environment() -> None:
    [words] = commands(Build(tags=["a"], base_image="mine"), Path("c"), False, {"BASE_IMAGE": "other"})
    assert [word for word in words if word.startswith("BASE_IMAGE")] == ["BASE_IMAGE=mine"]


def test_several_platforms_are_built_and_pushed_by_buildx() -> None:
    both = Build(tags=["a"], platforms=["linux/amd64", "linux/arm64"], push=True, builder="both", fresh=True)
    [words] = commands(both, Path("c"), True, {})
    assert words[:8] == [
        "buildx", "build", "--push", "--builder", "both", "--platform", "linux/amd64,linux/arm64", "--no-cache",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "order",
    [
        Build(tags=["a"], builder="both"),
        Build(tags=["a"], platforms=["linux/arm64", "linux/amd64"], push=True),
    ],
)
def test_what_needs_buildx_is_refused_without_it(order: Build) -> None:
    with pytest.raises(ConfigError, match="buildx"):
        commands(order, Path("c"), False, {})


def test_without_buildx_every_name_is_pushed_after_the_build() -> None:
    both = Build(tags=["here/a", "there/a"], platforms=["linux/arm64"], push=True)
    build, *pushes = commands(both, Path("c"), False, {})
    assert build[:3] == ["build", "--platform", "linux/arm64"]
    assert pushes == [["push", "here/a"], ["push", "there/a"]]


@pytest.mark.parametrize("content", [None, b"no certificate", b"\xff\xfe"])
def test_an_authority_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "company.crt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"company\.crt"), context([file]):
        pass


def test_an_installed_package_brings_all_that_the_dockerfile_copies(tmp_path: Path) -> None:
    """The trap: a file that is in the checkout and not in the wheel."""
    import tomllib  # noqa: PLC0415

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    with context([]) as folder:
        copied = [
            source
            for line in (folder / "sandbox/Dockerfile").read_text().splitlines()
            if line.startswith("COPY ")
            for source in line.split()[1:-1]
        ]
    assert copied
    for source in copied:
        assert any(f"images/{source}".startswith(name) or name.startswith(f"images/{source}") for name in included), (
            source
        )


def test_an_installation_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Install the package again"), context([], [tmp_path]):
        pass
