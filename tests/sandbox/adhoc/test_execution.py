"""Commands against liars: whatever a sandbox's SSH server does, who gives a command a time gets on in time."""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

from sandbox import ssh
from sandbox.adhoc import execution, transfer
from sandbox.errors import CommandTimedOut, ConnectionLost, TransferFailed
from sandbox.identity import Identity
from tests.sandbox.liars import Liar, Standins

SOON = 0.4
LONG = 10.0


class Shell(Liar):
    """Runs nothing: a command goes on for ever, and the one that is to end it does as a subclass has it."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity, lambda _channel, _order: None)
        self.asked: list[bytes] = []

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.append(command)
        threading.Thread(target=self._act, args=(channel, command), daemon=True).start()
        return True

    def _act(self, channel: paramiko.Channel, command: bytes) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            if b" bash -s -- " in command:
                self.end(channel)
            else:
                self.begin(channel)

    def begin(self, channel: paramiko.Channel) -> None:
        """The command itself."""

    def end(self, channel: paramiko.Channel) -> None:
        """The one that is to end it."""


class WithoutStatus(Shell):
    """Its end says neither how it went nor that it is over."""

    def end(self, channel: paramiko.Channel) -> None:
        channel.shutdown_write()


class Dripping(Shell):
    """Its end never stops to print, not even once nobody reads it."""

    def end(self, channel: paramiko.Channel) -> None:
        while not self.over.wait(0.01):
            message = paramiko.Message()
            message.add_byte(paramiko.common.cMSG_CHANNEL_DATA)
            message.add_int(channel.remote_chanid)
            message.add_string(b".")
            channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]


class Mute(Shell):
    """Does not even say whether it runs a command."""

    def __init__(self, identity: Identity, runs: int) -> None:
        super().__init__(identity)
        self.runs = runs

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if len(self.asked) == self.runs:
            self.over.wait(LONG)
        return super().check_channel_exec_request(channel, command)


class Unended(Shell):
    """Its commands print all they have, and neither end nor say so."""

    def begin(self, channel: paramiko.Channel) -> None:
        channel.sendall(bytes(1024))  # a tar archive with nothing in it
        channel.shutdown_write()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "END_DEADLINE", SOON)
    monkeypatch.setattr(execution, "OPEN_DEADLINE", SOON)
    monkeypatch.setattr(transfer, "STALLED", SOON)


def login(sock: socket.socket, identity: Identity) -> ssh.Transport:
    return ssh.login(sock, identity.host.public, identity.client.private, time.monotonic() + LONG)


@pytest.mark.parametrize("kind", [WithoutStatus, Dripping, lambda identity: Mute(identity, runs=1)])
def test_a_command_is_given_up_although_its_end_never_comes(
    standins: Standins, identity: Identity, kind: type[Shell]
) -> None:
    """Else a sandbox that a program is done with is never removed, and no signal helps."""
    shell = kind(identity)
    transport, began = login(standins.ssh(shell), identity), time.monotonic()
    with pytest.raises(CommandTimedOut):
        execution.run(transport, "sleep inf", timeout=SOON)
    assert time.monotonic() - began < LONG / 2
    transport.close()


def test_a_command_of_which_nobody_says_that_it_runs_is_a_lost_connection(
    standins: Standins, identity: Identity
) -> None:
    transport, began = login(standins.ssh(Mute(identity, runs=0)), identity), time.monotonic()
    with pytest.raises(ConnectionLost):
        execution.run(transport, "true", timeout=SOON)
    assert time.monotonic() - began < LONG / 2
    transport.close()


def test_a_copy_is_given_up_although_its_tar_never_ends(standins: Standins, identity: Identity, tmp_path: Path) -> None:
    transport = login(standins.ssh(Unended(identity)), identity)
    with pytest.raises(TransferFailed, match="tar did not end"):
        transfer.get(transport, "file", tmp_path)
    transport.close()
