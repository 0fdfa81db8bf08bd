"""A shell in a held sandbox, by OpenSSH's own client over a connection that the keeper hands over.

Run as a program it is that client's `ProxyCommand`: `python -m sandbox.shell KEEPER NAME` passes the connection on
(`ProxyUseFdpass` in ssh_config(5)), so that no byte of the session goes through Python.
"""

import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox.errors import ConfigError
from sandbox.keeper.client import KeeperClient


def run(keeper: Path, name: str, command: Sequence[str]) -> int:
    """Run a command, or a shell without one, and return its exit code (255 when ssh itself failed).

    Raises `KeeperError` when the sandbox cannot be entered, `ConfigError` when there is no ssh.
    """
    entrance, connection = KeeperClient(keeper).enter(name)
    connection.close()  # ssh asks for its own
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        key, hosts = Path(folder, "key"), Path(folder, "known_hosts")
        key.touch(mode=0o600)
        key.write_text(entrance.client_key)
        hosts.write_text(f"{name} {entrance.host_key}\n")
        proxy = shlex.join([sys.executable, "-m", "sandbox.shell", str(keeper), name])
        settings = {
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": hosts,
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": name,
            "ProxyCommand": proxy,
            "ProxyUseFdpass": "yes",
            "LogLevel": "ERROR",
        }
        options = [word for option, value in settings.items() for word in ("-o", f"{option}={value}")]
        try:
            return subprocess.run(
                ["ssh", "-F", "none", *options, f"{entrance.user}@{name}", *command], check=False
            ).returncode
        except FileNotFoundError:
            raise ConfigError("There is no ssh here. Install OpenSSH's client (openssh-client).") from None


def main() -> None:
    """Be the ProxyCommand."""
    keeper, name = sys.argv[1:]
    _, connection = KeeperClient(Path(keeper)).enter(name)
    with connection, socket.socket(fileno=sys.stdout.fileno()) as ssh:
        socket.send_fds(ssh, [b"\0"], [connection.fileno()])


if __name__ == "__main__":
    main()
