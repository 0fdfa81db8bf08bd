"""A sandbox container that a test started by hand, as a user of the image alone would."""

import io
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import paramiko
from docker.errors import NotFound
from docker.models.containers import Container

HELLO = """set -e
mkdir -p ~/hello/root && cd ~/hello
programs=$(readlink -f /bin/sh /usr/bin/sleep)
cp -L --parents /bin/sh $(ldd $programs | grep -o '/[^ :]*' | sort -u) root
printf 'FROM scratch\\nCOPY root /\\nRUN echo hello > /greeting\\nCMD read line < /greeting; echo $line\\n' > Dockerfile
docker build -q -t hello . > /dev/null
"""
"""Builds the image `hello` out of the sandbox's own programs, where nothing can be pulled."""

START_SECONDS = 60.0
SCRIPT_SECONDS = 120.0


def key_from(private: str) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(private))


def archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class Started:
    """The container and the private key that it lets in."""

    container: Container
    private_key: str
    _clients: list[paramiko.SSHClient] = field(default_factory=list)

    def log(self) -> str:
        return self.container.logs().decode()

    def await_log(self, text: str, seconds: float = START_SECONDS) -> str:
        end = time.monotonic() + seconds
        while text not in (log := self.log()):
            assert time.monotonic() < end, f"no {text!r} within {seconds:.0f} s in:\n{log}"
            time.sleep(0.05)
        return log

    def await_end(self, seconds: float = START_SECONDS) -> int:
        return int(self.container.wait(timeout=seconds)["StatusCode"])

    def is_running(self) -> bool:
        self.container.reload()
        return bool(self.container.attrs["State"]["Running"])

    def login(
        self, user: str = "sandbox", key: paramiko.Ed25519Key | None = None, password: str | None = None
    ) -> paramiko.SSHClient:
        """Log in, by the authorized key unless told otherwise, as soon as sshd answers; its answer is final."""
        if password is None and key is None:
            key = key_from(self.private_key)
        end = time.monotonic() + START_SECONDS
        while True:
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            self._clients.append(client)
            try:
                client.connect(
                    self.address(),
                    username=user,
                    pkey=key,
                    password=password,
                    timeout=5,
                    allow_agent=False,
                    look_for_keys=False,
                )
            except (OSError, EOFError, paramiko.SSHException) as error:
                refused = isinstance(error, (paramiko.AuthenticationException, paramiko.BadAuthenticationType))
                if refused or time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return client

    def address(self) -> str:
        self.container.reload()
        return str(self.container.attrs["NetworkSettings"]["IPAddress"])

    def sh(self, script: str, check: bool = True) -> str:
        """Run a script over a new connection and return what it printed, both streams."""
        transport = self.login().get_transport()
        assert transport is not None
        with transport.open_session(timeout=10) as channel:
            channel.settimeout(SCRIPT_SECONDS)
            channel.set_combine_stderr(True)
            channel.exec_command(script)
            with channel.makefile() as stdout:
                printed: str = stdout.read().decode()
            code = channel.recv_exit_status()
        assert code == 0 or not check, f"code {code}: {printed}"
        return printed

    def await_docker(self) -> None:
        self.sh("for i in $(seq 300); do docker info >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1")

    def host_key(self) -> str:
        """What a client is shown, in base64."""
        transport = self.login().get_transport()
        assert transport is not None
        return transport.get_remote_server_key().get_base64()

    def remove(self) -> None:
        """Remove the container and its nameless volumes, unless that was done."""
        for client in self._clients:
            client.close()
        with suppress(NotFound):
            self.container.remove(force=True, v=True)


Start = Callable[..., Started]
"""Starts a sandbox; see the fixture `start`."""
