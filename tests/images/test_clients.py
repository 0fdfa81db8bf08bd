"""Common clients, each used against the image: OpenSSH's, rsync, paramiko, asyncssh, Docker's."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

import asyncssh
import docker
import paramiko
import pytest
from docker.models.containers import Container

from tests.images.started import HELLO, Started, archive

CONFIG = """
Host box
    HostName {address}
    User sandbox
    IdentityFile ~/key
    UserKnownHostsFile ~/known_hosts
    BatchMode yes
    LogLevel ERROR
"""


@dataclass
class Desk:
    """A user's machine, which knows the sandbox as `box`: the same image, under plain runc, for the clients in it."""

    container: Container
    box: Started

    def sh(self, script: str) -> str:
        code, output = self.container.exec_run(
            ["bash", "-ec", script], user="sandbox", workdir="/home/sandbox", environment={"HOME": "/home/sandbox"}
        )
        assert isinstance(output, bytes)
        assert code == 0, output.decode()
        return output.decode().strip()


@pytest.fixture(scope="module")
def desk(docker_client: docker.DockerClient, sandbox_image: str, ready: Started) -> Iterator[Desk]:
    container = docker_client.containers.create(sandbox_image, entrypoint=["sleep", "infinity"], runtime="runc")
    try:
        container.start()
        host_key = re.sub("^", f"{ready.address()} ", ready.sh("cat /var/lib/sandbox/ssh_host_ed25519_key.pub"))
        files = {
            ".ssh/config": CONFIG.format(address=ready.address()).encode(),
            "key": ready.private_key.encode(),
            "known_hosts": host_key.encode(),
        }
        container.put_archive("/home/sandbox", archive(files))
        code, output = container.exec_run(["chown", "-R", "sandbox:sandbox", "/home/sandbox"])
        assert code == 0, output
        yield Desk(container, ready)
    finally:
        container.remove(force=True, v=True)


def test_ssh(desk: Desk) -> None:
    assert desk.sh("ssh box 'cat; exit 0' <<< input") == "input"
    assert desk.sh("ssh box exit 7 || echo $?") == "7"
    assert desk.sh("ssh -tt box tty").startswith("/dev/pts/")


def test_scp_and_sftp(desk: Desk) -> None:
    desk.sh("mkdir -p tree/inner && head -c 1000000 /dev/urandom > tree/inner/file")
    desk.sh("scp -qr tree box:copied && scp -qr box:copied back && diff -r tree back")
    desk.sh("scp -qO tree/inner/file box:copied/old && ssh box cmp copied/old copied/inner/file")
    desk.sh(
        "printf 'put tree/inner/file sent\\nget sent got\\nrm sent\\n' | sftp -q -b - box && cmp got tree/inner/file"
    )


def test_rsync(desk: Desk) -> None:
    desk.sh("mkdir -p many && touch many/{1..50} && ln -sf 1 many/link")
    desk.sh("rsync -a --delete many/ box:many && rm -f many/50 && rsync -a --delete many/ box:many")
    assert desk.sh("ssh box ls many | wc -l; ssh box readlink many/link").split() == ["50", "1"]


@pytest.mark.parametrize(
    ("option", "url"),
    [("-L 8001:127.0.0.1:8000", "http://127.0.0.1:8001"), ("-L $HOME/socket:127.0.0.1:8000", "http://box")],
    ids=["port", "socket"],
)
def test_forwarding(desk: Desk, option: str, url: str) -> None:
    """As editors' remote sessions do: something that listens in there is used from here."""
    curl = "curl --silent --retry 100 --retry-connrefused --retry-max-time 60"
    curl += " --unix-socket $HOME/socket" if "socket" in option else ""
    page = desk.sh(
        "ssh -f -M -S $HOME/master -o ExitOnForwardFailure=yes " + option + " box '"
        "echo from inside > /tmp/page; exec python3 -m http.server -d /tmp -b 127.0.0.1 8000' > /dev/null 2>&1\n"
        "trap 'ssh box pkill -f [h]ttp.server || true; ssh -S $HOME/master -O exit box || true; rm -f socket' EXIT\n"
        f"for i in $(seq 300); do {curl} {url}/page && exit; sleep 0.1; done; exit 1"
    )
    assert page.startswith("from inside")


def test_docker_over_ssh(desk: Desk) -> None:
    assert desk.sh("DOCKER_HOST=ssh://box docker info -f '{{.Name}}'") == desk.box.sh("hostname").strip()


def test_buildx_over_ssh(desk: Desk) -> None:
    build = HELLO.replace("docker build", "docker buildx build").replace("-t hello", "-t from-desk")
    desk.sh("export DOCKER_HOST=ssh://box\n" + build)
    assert desk.sh("DOCKER_HOST=ssh://sandbox@box docker run --rm from-desk") == "hello"
    assert desk.box.sh("docker images -q from-desk").strip()


def test_asyncssh(ready: Started) -> None:
    host_key = asyncssh.import_public_key(ready.sh("cat /var/lib/sandbox/ssh_host_ed25519_key.pub"))

    async def use() -> tuple[str, int | None]:
        async with asyncssh.connect(
            ready.address(),
            username="sandbox",
            client_keys=[asyncssh.import_private_key(ready.private_key)],
            known_hosts=([host_key], [], []),
            agent_path=None,
        ) as connection:
            answers = await asyncio.gather(*(connection.run(f"echo {number}", check=True) for number in range(20)))
            assert [str(answer.stdout).strip() for answer in answers] == [str(number) for number in range(20)]
            ended = await connection.run("cat; exit 3", input="input")
            return str(ended.stdout), ended.exit_status

    assert asyncio.run(use()) == ("input", 3)


def test_paramiko(ready: Started) -> None:
    client: paramiko.SSHClient = ready.login()
    _, stdout, _ = client.exec_command("tty; exit 3", get_pty=True, timeout=60)
    assert stdout.read().startswith(b"/dev/pts/")
    assert stdout.channel.recv_exit_status() == 3
