"""OpenSSH's configuration for a sandbox, so that ssh, scp, rsync and editors just work."""

from sandbox.adhoc.record import Record
from sandbox.adhoc.store import Store
from sandbox.errors import NoSuchSandbox
from sandbox.template import LOGIN_USER

_BLOCK = """\
Host {host}
    HostName {address}
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile none
    HostKeyAlias {host}
    StrictHostKeyChecking yes
    ForwardAgent no
"""


def write(store: Store, record: Record) -> str:
    """Write key and host key for OpenSSH, readable by their owner only, and return the block for ssh_config(5).

    The files are removed with the sandbox. Raises `NoSuchSandbox` when nobody else may log in to it.
    """
    if record.access is None or record.access.client_key is None:
        raise NoSuchSandbox(f"The sandbox {record.name} is not one to log in to from elsewhere. Make one: sandbox up")
    folder = store.ssh_folder(record.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, known_hosts = folder / "key", folder / "known_hosts"
    host = host_of(record.name)
    for path, content in ((key, record.access.client_key), (known_hosts, f"{host} {record.access.host_key}\n")):
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(content)
    return _BLOCK.format(
        host=host, address=record.access.address, user=LOGIN_USER, key=_quoted(key), known_hosts=_quoted(known_hosts)
    )


def host_of(name: str) -> str:
    """Return the host name that ssh uses for a sandbox; no real host has it."""
    return f"{name}.sandbox"


def _quoted(path: object) -> str:
    return f'"{path}"'
