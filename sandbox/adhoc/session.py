"""The work that a login to a sandbox allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from sandbox import ssh
from sandbox.adhoc import execution, transfer
from sandbox.adhoc.execution import Result, Stream
from sandbox.adhoc.forward import Forward


class Session(ABC):
    """Runs commands, copies files and forwards ports. Safe to use from several threads."""

    @property
    @abstractmethod
    def transport(self) -> ssh.Transport:
        """Return the open login."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"",
        timeout: float | None = None,
    ) -> Result:
        """Run a command to its end, and return its exit code and its output.

        A string is for the shell (bash), a list is one program with its arguments. `cwd` is relative to the home
        folder. `env` is added to the environment, and shows in no process's arguments. After `timeout` seconds
        everything that the command started is ended.

        Raises `CommandTimedOut`, `ConnectionLost`, or `OutputTooLarge`; a code other than 0 is no error until `check`.
        """
        given = stdin.encode() if isinstance(stdin, str) else stdin
        return execution.run(self.transport, command, cwd=cwd, env=env, stdin=given, timeout=timeout)

    def stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Stream:
        """Run a command and iterate over its output lines, stdout and stderr together, as they come.

        After the last line, a code other than 0 raises `CommandFailed` unless `check` is false. Otherwise as `run`.
        """
        return Stream(self.transport, command, cwd, env, timeout, check)

    def put(self, source: str | PathLike[str], target: str = ".") -> None:
        """Copy a file or folder in; `target` is relative to the home folder.

        The copy goes into `target` if that is a folder or ends in `/`; otherwise `target` is the copy's own name.
        Missing parent folders are made. Links are copied as links. Raises `TransferFailed`.
        """
        transfer.put(self.transport, Path(source), target)

    def get(
        self,
        source: str,
        target: str | PathLike[str] = ".",
        *,
        most_bytes: int = transfer.MOST_BYTES,
        replace: bool = False,
    ) -> list[str]:
        """Copy a file or folder out; `source` is relative to the home folder.

        The copy goes into `target` if that is a folder; otherwise `target` is the copy's own name. A file is replaced,
        a folder only with `replace`, and as a whole. The sandbox is not trusted: nothing is written outside of the
        copy, and a link that could lead out of it is left out. Returns the links left out. Raises `TransferFailed`; its
        subclass `TransferRefused` when the content is not safe, or larger than `most_bytes`.
        """
        return transfer.get(self.transport, source, Path(target), most_bytes, replace=replace)

    def forward(self, port: int, *, host: str = "127.0.0.1", local: int = 0) -> Forward:
        """Forward a port of this host's loopback to a port in the sandbox: `with box.forward(8000) as port`."""
        return Forward(self.transport, port, host, local)


class Login(Session):
    """A login to a sandbox that somebody else manages."""

    def __init__(self, name: str, transport: ssh.Transport) -> None:
        self.name = name
        self._transport = transport

    @property
    def transport(self) -> ssh.Transport:
        """See `Session`."""
        return self._transport
