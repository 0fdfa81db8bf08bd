"""SSH servers that stand in for a sandbox's, honest and otherwise: the real protocol, on one end of a socket pair."""

import socket
import threading
from ast import literal_eval
from collections.abc import Callable
from contextlib import suppress
from io import StringIO

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from sandbox.identity import Identity

Order = dict[str, object]
Answer = Callable[[paramiko.Channel, Order], None]


class Liar(paramiko.ServerInterface):
    """A server that accepts the identity's client key and lets `answer` answer the probe. Subclasses lie."""

    def __init__(self, identity: Identity, answer: Answer) -> None:
        self.identity = identity
        self.answer = answer
        self.over = threading.Event()
        """Set at the end of the test."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "sandbox" and key.get_base64() == self.identity.client.public.split()[1]
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
        return True

    def _serve(self, channel: paramiko.Channel) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException), channel:
            self.answer(channel, self.read_order(channel))

    def read_order(self, channel: paramiko.Channel) -> Order:
        sent = b"".join(iter(lambda: channel.recv(65536), b""))
        order = literal_eval(sent.decode().rpartition("\nmain(")[2].removesuffix(")\n"))
        assert isinstance(order, dict)
        return order

    def make_transport(self, sock: socket.socket) -> paramiko.Transport:
        transport = paramiko.Transport(sock)
        transport.add_server_key(paramiko.Ed25519Key.from_private_key(StringIO(self.identity.host.private)))
        return transport


class Standins:
    """Starts servers and ends them with the test."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], None]] = []

    def ssh(self, liar: Liar) -> socket.socket:
        """The client's end of a connection to that server."""
        ours, theirs = socket.socketpair()
        transport = liar.make_transport(theirs)
        self._ends += [liar.over.set, transport.close, theirs.close]
        transport.start_server(event=threading.Event(), server=liar)
        return ours

    def raw(self, act: Callable[[socket.socket], None]) -> socket.socket:
        """The client's end of a connection to something that is no SSH server at all."""
        ours, theirs = socket.socketpair()

        def run() -> None:
            with suppress(OSError), theirs:
                act(theirs)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._ends += [lambda: _shut(theirs), lambda: thread.join(5)]
        return ours

    def end(self) -> None:
        for end in self._ends:
            end()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
