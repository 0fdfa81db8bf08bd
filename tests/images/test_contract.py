"""The contract of images built on ours: each point judged, documented, and seen with real images."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engine import ImageFacts
from sandbox.errors import Fault, SandboxFault
from sandbox.images.contract import ENTRYPOINT, LABEL, POINTS, TOOLS, Seen, Standing, judge, parse
from tests.images.started import archive

ROOT = Path(__file__).parents[2]
IMAGE = ImageFacts(ENTRYPOINT, (), "", ("22/tcp",), "SIGTERM", {LABEL: "1"}, ("PATH", "SANDBOX_MTU"))
ANSWER = (
    b"begin\tnow\naccount\tsandbox 1000 /home/sandbox\ngroups\tsandbox docker\nsudo\t0\npython\t3 13\n"
    b"mount\talways\nend\tnow\n"
)
GOOD = Seen(IMAGE, keys=(), answers=parse(ANSWER))


def told(old: bytes, new: bytes) -> Seen:
    """What is seen when the probe says something else."""
    assert old in ANSWER
    return replace(GOOD, answers=parse(ANSWER.replace(old, new)))


BROKEN = {
    "label": replace(GOOD, image=replace(IMAGE, labels={LABEL: "2"})),
    "entrypoint": replace(GOOD, image=replace(IMAGE, command=("bash",))),
    "user": replace(GOOD, image=replace(IMAGE, user="sandbox")),
    "port": replace(GOOD, image=replace(IMAGE, ports=("2222/tcp",))),
    "stop-signal": replace(GOOD, image=replace(IMAGE, stop_signal="SIGKILL")),
    "environment": replace(GOOD, image=replace(IMAGE, environment=("SYSBOX_HONOR_CAPS",))),
    "keys": replace(GOOD, keys=("/etc/ssh/ssh_host_rsa_key",)),
    "starts": replace(GOOD, boot=SandboxFault(Fault.STOPPED, "Its container is not running."), answers={}),
    "login": replace(GOOD, boot=SandboxFault(Fault.LOGIN_REFUSED, "Its sshd refused the key."), answers={}),
    "quiet": told(b"begin", b"Welcome!\nbegin"),
    "account": told(b"sandbox 1000", b"sandbox 1001"),
    "docker-group": told(b"sandbox docker", b"sandbox"),
    "sudo": told(b"sudo\t0", b"sudo\tsudo: a password is required"),
    "python": told(b"3 13", b"3 10"),
    "tools": told(b"end", b"missing\tgit\nend"),
    "mount": told(b"always", b""),
    "inner-docker": replace(GOOD, docker=SandboxFault(Fault.WRONG_STORAGE_DRIVER, "It is on vfs.")),
    "brought-images": told(b"end", b"unloaded\t/usr/share/sandbox/images/broken.tar\nend"),
}


def test_each_point_is_documented_and_has_a_case() -> None:
    names = [point.name for point in POINTS]
    table = (ROOT / "docs/own-images.md").read_text().partition("## The contract")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == names
    assert " ".join(TOOLS) in table
    assert list(BROKEN) == names


def test_an_image_that_keeps_everything() -> None:
    assert {finding.standing for finding in judge(GOOD)} == {Standing.KEPT}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_point_says_what_is_wrong_and_how_to_fix_it(name: str) -> None:
    [finding] = [finding for finding in judge(BROKEN[name]) if finding.standing is Standing.BROKEN]
    assert (finding.point, bool(finding.problem), bool(finding.fix)) == (name, True, True)


def test_what_could_not_be_seen_is_not_called_kept() -> None:
    """The trap: an image whose sandbox does not start would pass on every point that is seen inside."""
    standings = {finding.point: finding.standing for finding in judge(BROKEN["starts"])}
    unseen = [name for name, standing in standings.items() if standing is Standing.UNSEEN]
    assert unseen == list(BROKEN)[list(BROKEN).index("login") :]


@given(st.binary() | st.lists(st.sampled_from(ANSWER.splitlines(keepends=True))).map(b"".join))
def test_whatever_an_image_answers_becomes_findings_fit_for_a_terminal(answer: bytes) -> None:
    for finding in judge(replace(GOOD, answers=parse(answer))):
        assert finding.problem.isprintable() or not finding.problem


# -- on a real engine -------------------------------------------------------------------------------------------------


def check(image: str, runtime: str) -> tuple[int, dict[str, str]]:
    """What the command says of an image: its exit code, and the standing of each point."""
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.entry", "images", "check", image, "--runtime", runtime, "--json"],
        stdout=subprocess.PIPE, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, {point["point"]: point["standing"] for point in json.loads(done.stdout)["points"]}


@pytest.fixture
def tag(docker_client: docker.DockerClient) -> Iterator[str]:
    """A name for an image, which is removed with what was made from it."""
    name = f"sandbox-test:{uuid.uuid4().hex[:8]}"
    yield name
    left = docker_client.containers.list(all=True, filters={"ancestor": name}, ignore_removed=True)
    docker_client.images.remove(name)
    assert left == [], "the check must remove its sandbox"


def test_the_example_keeps_the_contract(
    docker_client: docker.DockerClient,
    sandbox_image: str,
    sandbox_runtime: str,
    brought_image: bytes,
    tag: str,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(ROOT / "examples/own-image", tmp_path / "own-image")
    (folder / "images" / "brought.tar").write_bytes(brought_image)
    proxies = {name: os.environ[name] for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") if name in os.environ}
    arguments = {**proxies, "SANDBOX_IMAGE": sandbox_image}
    docker_client.images.build(path=str(folder), tag=tag, buildargs=arguments, rm=True, forcerm=True)
    code, standings = check(tag, sandbox_runtime)
    assert set(standings.values()) == {"kept"}, standings
    assert code == 0


def test_a_spoilt_image_is_found_out(
    docker_client: docker.DockerClient, sandbox_image: str, sandbox_runtime: str, tag: str
) -> None:
    box = docker_client.containers.create(sandbox_image)
    try:
        spoilt = {"etc/ssh/ssh_host_rsa_key": b"shared", "usr/share/sandbox/images/broken.tar": b"nothing"}
        box.put_archive("/", archive(spoilt))
        box.commit(*tag.split(":"), changes=["ENV AUTHORIZED_KEYS=mine", "EXPOSE 2222"])
    finally:
        box.remove(v=True)
    code, standings = check(tag, sandbox_runtime)
    assert {point for point, standing in standings.items() if standing != "kept"} == {
        "environment",
        "keys",
        "brought-images",
    }
    assert code == 1
