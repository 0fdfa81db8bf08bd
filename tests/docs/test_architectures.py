"""Images for two architectures, built and pushed as the page says, in a sandbox that has what such a machine has.

Inside are an engine with containerd's image store, an emulator that nobody else gets (which takes Linux 6.7), and a
registry that answers as `registry.example` and has Debian for both.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Final

import docker
import pytest
from docker.models.containers import Container

from sandbox.images.build import PASSED_ON
from tests.certificates import certificate
from tests.docs.pages import ROOT, block_of
from tests.images.started import archive
from tests.waiting import until

DEADLINE: Final = 1500
SHARES: Final = 64
"""Of the processors, where others have 1024: minutes of emulation must not make the tests beside it wait."""
PAGE: Final = "own-images"
HOST: Final = "registry.example"
CERTIFICATE: Final = "/etc/sandbox/ca/registry.crt"
SERVICE: Final = "sandbox-service:latest"
PROGRAMS: Final = "/opt/sandbox-runner"
"""Where the service's image has the commands, for the Python of the sandbox's."""
ENGINE: Final = {"features": {"containerd-snapshotter": True}, "registry-mirrors": [f"https://{HOST}"]}
REGISTRY: Final = {
    "version": "0.1",
    "storage": {"filesystem": {"rootdirectory": "/var/lib/docker/registry"}},
    "http": {"addr": ":443", "tls": {"certificate": CERTIFICATE, "key": "/srv/registry.key"}},
}
PREPARED: Final = """\
mkdir ~/.docker /run/emulators
printf '{"proxies": {"default": {"httpProxy": "%s", "httpsProxy": "%s", "noProxy": "%s"}}}' \\
    "${HTTP_PROXY:-}" "${HTTPS_PROXY:-}" "$NO_PROXY" >~/.docker/config.json
apt-get update
apt-get install -y --no-install-recommends arch-test docker-registry mmdebstrap qemu-user-static

# As systemd does where it runs. Here it counts for this user namespace alone.
mount -t binfmt_misc none /run/emulators
cat /usr/lib/binfmt.d/qemu-aarch64.conf >/run/emulators/register

setsid docker-registry serve registry.json >registry.log 2>&1 &
curl --retry 60 --retry-delay 1 --retry-connrefused --silent --show-error --fail https://registry.example/v2/

debian=registry.example/library/debian:trixie-slim
made() { # outside of the emulator, in which it would take minutes; the two settings are those of Debian's own images
    mmdebstrap --mode=chrootless --skip=check/chrootless --variant=minbase --architectures="$1" \\
        --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io trixie - /etc/apt/sources.list \\
        | docker import --platform "linux/$1" - "$debian-$1"
    docker push "$debian-$1"
}
made amd64 &
made arm64
wait $!
docker buildx imagetools create -t "$debian" "$debian-amd64" "$debian-arm64"
"""


class Builder:
    """A machine to build on."""

    def __init__(self, container: Container) -> None:
        self._name = str(container.name)

    def type(self, text: str) -> str:
        """Type a text into root's shell, where the commands and the examples are, and return what was printed."""
        path = f"--env=PATH={PROGRAMS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        shell = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            ["docker", "exec", path, "--workdir=/srv", self._name, *shell],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}: {done.stdout}"
        return done.stdout

    def architectures(self, image: str) -> set[str]:
        """What an image in the registry is for."""
        shown = json.loads(self.type(f"docker buildx imagetools inspect --raw {HOST}/{image}"))
        return {entry["platform"]["architecture"] for entry in shown["manifests"]} - {"unknown"}  # attestations


@pytest.fixture
def builder(docker_client: docker.DockerClient, sandbox_runtime: str, sandbox_image: str) -> Iterator[Builder]:
    signed = certificate(HOST)
    context = [file for file in (ROOT / "examples" / "own-image").rglob("*") if file.is_file()]
    files = {
        CERTIFICATE: signed.public,
        "/etc/sandbox/daemon.json": json.dumps(ENGINE).encode(),
        "/srv/registry.key": signed.private,
        "/srv/registry.json": json.dumps(REGISTRY).encode(),
        **{f"/srv/{file.relative_to(ROOT)}": file.read_bytes() for file in context},
    }
    container = docker_client.containers.create(
        sandbox_image, runtime=sandbox_runtime, environment=environment(), volumes=["/var/lib/docker"],
        extra_hosts={HOST: "127.0.0.1"}, cpu_shares=SHARES,
    )  # fmt: skip
    try:
        container.put_archive("/opt", programs(docker_client))
        container.put_archive("/", archive(files))
        container.start()
        until("the engine answers", lambda: container.exec_run(["docker", "info"]).exit_code == 0)
        made = Builder(container)
        made.type(PREPARED)
        yield made
    finally:
        container.remove(force=True, v=True)


def programs(client: docker.DockerClient) -> bytes:
    """The installed commands, as an archive."""
    service = client.containers.create(SERVICE)
    try:
        return b"".join(service.get_archive(PROGRAMS)[0])
    finally:
        service.remove()


def environment() -> dict[str, str]:
    """This host's mirrors and proxies, which apt wants in small letters."""
    given = {name: os.environ[name] for name in PASSED_ON if name in os.environ and name != "BASE_IMAGE"}
    given["NO_PROXY"] = f"{HOST},{given.get('NO_PROXY', '')}".rstrip(",")
    return given | {name.lower(): value for name, value in given.items() if name.endswith("_PROXY")}


@pytest.mark.timeout(1800)
def test_images_for_two_architectures_are_built_and_pushed_as_written(builder: Builder) -> None:
    both = {"amd64", "arm64"}
    at_once = builder.type(block_of(PAGE, "apt-get install -y qemu-user-static").text)
    assert "\naarch64\n" in at_once
    assert [builder.architectures(image) for image in ("sandbox:1", "our-sandbox:1")] == [both, both]
    emulated = f"docker run --rm --platform linux/arm64 --entrypoint bats {HOST}/our-sandbox:1 --version"
    assert "Bats 1." in builder.type(emulated)
    builder.type(block_of(PAGE, "sandbox images build --platform linux/amd64 --tag").text)
    alone = [builder.architectures(f"sandbox:1-{architecture}") for architecture in ("amd64", "arm64")]
    assert alone == [{"amd64"}, {"arm64"}]
    assert builder.architectures("sandbox:1") == both
