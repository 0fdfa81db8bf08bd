"""An attempt in the sandbox: the launch request, and the folder that the attempt leaves.

The runner sends this module into the sandbox with `supervisor.py`, whose rules apply: standard library only, Python
3.11 or later, no slow imports.
"""
# pathlib costs milliseconds at every start
# ruff: noqa: PTH102, PTH103, PTH118, PTH123

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import socket
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs milliseconds
    from typing import Any

RECORD_SIZE = 4096
MAX_LINKS = 16
SHELL = ("/bin/bash", "-eo", "pipefail")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RefusedError(Exception):
    """The script cannot be started, for the reason given."""


class Folder:
    """The files that an attempt leaves in the sandbox (scripts, `log`, `record`), and its supervisor's address."""

    def __init__(self, root: str, attempt: str) -> None:
        self.root = root
        self.path = os.path.join(root, attempt)
        # An abstract address: the job can neither remove nor replace it, and the kernel frees it when its owner ends.
        self.address = b"\0" + os.fsencode(self.path)[-100:]
        self.log = self.record = -1

    def create(self) -> socket.socket:
        """Create the folder and listen at its address. Raises RefusedError when this attempt was created before."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self.address)
            os.makedirs(self.root, 0o700, exist_ok=True)
            os.mkdir(self.path, 0o700)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EADDRINUSE):
                raise
            raise RefusedError("This attempt was started here before. A script starts at most once.") from None
        listener.listen(MAX_LINKS)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self.log = os.open(os.path.join(self.path, "log"), flags, 0o600)
        self.record = os.open(os.path.join(self.path, "record"), flags, 0o600)
        # Allocate the record's blocks now, so that a full disk cannot prevent the final record.
        os.posix_fallocate(self.record, 0, RECORD_SIZE)
        self.write_record({"kind": "starting"})
        return listener

    def open(self) -> None:
        """Open the files of an earlier attempt. Follow no links, and open only plain files."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        with contextlib.suppress(OSError):
            folder = os.open(self.path, flags | os.O_DIRECTORY)
            with contextlib.suppress(OSError):
                self.log = plain(os.open("log", flags, dir_fd=folder))
            with contextlib.suppress(OSError):
                self.record = plain(os.open("record", flags, dir_fd=folder))

    def close(self) -> None:
        """Close the open files."""
        for descriptor in (self.log, self.record):
            if descriptor >= 0:
                os.close(descriptor)
        self.log = self.record = -1

    def write_record(self, record: dict[str, object]) -> None:
        """Overwrite the record, without a sync: it outlives every process, and a host's crash ends the sandbox too."""
        os.pwrite(self.record, json.dumps(record).encode().ljust(RECORD_SIZE), 0)

    def read_raw_record(self) -> bytes:
        """Return the record's current bytes; none when it cannot be read."""
        try:
            return os.pread(self.record, RECORD_SIZE, 0)
        except OSError:
            return b""

    def read_record(self) -> dict[str, Any]:
        """Return the current record; `kind` says whether it is final. The job may have written it."""
        try:
            record = json.loads(self.read_raw_record())
        except (ValueError, RecursionError):
            record = None
        return record if isinstance(record, dict) else {"kind": "missing or unreadable"}


class Attempt(Folder):
    """The launch request, and the attempt's folder."""

    def __init__(self, header: dict[str, Any]) -> None:
        super().__init__(header["root"], header["attempt"])
        self.steps: list[dict[str, Any]] = header["steps"]
        self.workspace: str = header["workspace"]
        self.args: list[str] = header["args"]
        self.environment: dict[str, str] = header["environment"]
        self.timeout: float | None = header["timeout"]
        self.grace: float = header["grace"]
        self.log_limit: int = header["log_limit"]
        self.filled: bool = header["filled"]

    def script(self, number: int) -> str:
        """Return the path of a step's script."""
        return os.path.join(self.path, f"step-{number + 1}" if self.steps[number]["name"] else "script")

    def command(self, number: int) -> list[str]:
        """Return the command: the script itself, or the shell with it when its first line names no interpreter."""
        path = self.script(number)
        with open(path, "rb") as script:
            own = script.read(2) == b"#!"
        return [path, *self.args] if own else [*SHELL, path, *self.args]

    def variables(self, number: int) -> dict[bytes, bytes]:
        """Return a step's environment: the defaults below, overridden by the job's variables, then by the step's."""
        user = pwd.getpwuid(os.getuid())
        defaults = {
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": SHELL[0],
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "CI": "true",
            "PWD": self.workspace,
            "LIBMOUNT_FORCE_MOUNT2": "always",  # `mount` of current distributions fails under sysbox without it
        }
        merged = {**defaults, **self.environment, **self.steps[number]["environment"]}
        return {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in merged.items()}


def plain(descriptor: int) -> int:
    """Return the descriptor if it is a plain file's; else close it and return -1."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return -1
