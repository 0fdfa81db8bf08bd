"""Readiness against liars: whatever a sandbox's SSH server does, the proof ends in time and says what was wrong."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import paramiko
import pytest
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_IGNORE,
    OPEN_FAILED_RESOURCE_SHORTAGE,
    OPEN_SUCCEEDED,
)

from sandbox import readiness
from sandbox.errors import Fault, SandboxFault
from sandbox.identity import Identity, new_identity
from tests.sandbox.liars import Liar, Order, Standins

SOON = 0.5
"""The deadline of proofs that can only end by it."""
LONG = 20.0
"""The deadline of proofs that must end long before it."""
SLACK = 1.0

Socket = socket.socket


def facts(order: Order, **lies: object) -> bytes:
    info = {"Driver": "overlay2", "ServerVersion": "26.1.5", "Swarm": {"LocalNodeState": "inactive"}}
    return json.dumps({"nonce": order.get("nonce"), "clock": 1.0, "error": None, "info": info, **lies}).encode()


def say(**lies: object) -> Callable[[paramiko.Channel, Order], None]:
    return lambda channel, order: channel.sendall(facts(order, **lies))


def say_raw(answer: bytes) -> Callable[[paramiko.Channel, Order], None]:
    return lambda channel, order: channel.sendall(answer)


def fault_of(dialled: Socket, identity: Identity, seconds: float, ends_by: float | None = None) -> SandboxFault:
    """Prove, and hold it to its deadline."""
    began = time.monotonic()
    with pytest.raises(SandboxFault) as caught:
        readiness.prove(lambda: dialled, identity, began + seconds)
    assert time.monotonic() - began < (seconds if ends_by is None else ends_by) + SLACK
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


# -- the truth --------------------------------------------------------------------------------------------------------


def test_an_honest_sandbox_is_proven(standins: Standins, identity: Identity) -> None:
    dialled = standins.ssh(Liar(identity, say()))
    proof = readiness.prove(lambda: dialled, identity, time.monotonic() + LONG)
    assert proof.docker_version == "26.1.5"


def test_the_connection_is_closed_at_once_after_the_proof(standins: Standins, identity: Identity) -> None:
    liar = Liar(identity, say())
    dialled, theirs = socket.socketpair()
    server = liar.make_transport(theirs)
    server.start_server(event=threading.Event(), server=liar)
    readiness.prove(lambda: dialled, identity, time.monotonic() + LONG)
    server.join(1)
    assert not server.is_alive()
    assert dialled.fileno() == -1


def test_the_order_says_what_to_clean_and_gives_up_before_the_deadline(standins: Standins, identity: Identity) -> None:
    orders: list[Order] = []

    def answer(channel: paramiko.Channel, order: Order) -> None:
        orders.append(order)
        channel.sendall(facts(order))

    kept = {"/home/sandbox": (".bashrc",), "/tmp": ()}
    for cleaning in (None, readiness.Cleaning(kept, build_cache=7)):
        dialled = standins.ssh(Liar(identity, answer))
        readiness.prove(lambda dialled=dialled: dialled, identity, time.monotonic() + LONG, cleaning)  # type: ignore[misc]
    folders = {"/home/sandbox": (".bashrc",), "/tmp": ()}
    assert [order["clean"] for order in orders] == [None, {"folders": folders, "build_cache": 7}]
    assert orders[0]["nonce"] != orders[1]["nonce"]
    # Otherwise a dead inner Docker would always be told as a probe without an answer.
    assert all(LONG / 2 < float(str(order["seconds"])) < LONG * 0.9 for order in orders)


# -- the wrong one answers --------------------------------------------------------------------------------------------


def test_another_host_key_is_told_before_the_client_key_is_shown(standins: Standins, identity: Identity) -> None:
    logins: list[str] = []

    class Impostor(Liar):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            logins.append(username)
            return AUTH_SUCCESSFUL

    impostor = Impostor(replace(identity, host=new_identity("other").host), say())
    assert fault_of(standins.ssh(impostor), identity, LONG, 5).fault is Fault.HOST_KEY_CHANGED
    assert logins == []


def test_another_kind_of_host_key_is_told(standins: Standins, identity: Identity) -> None:
    class Impostor(Liar):
        def make_transport(self, sock: Socket) -> paramiko.Transport:
            transport = paramiko.Transport(sock)
            transport.add_server_key(paramiko.ECDSAKey.generate())
            return transport

    assert fault_of(standins.ssh(Impostor(identity, say())), identity, LONG, 5).fault is Fault.HOST_KEY_CHANGED


def test_a_refused_login_is_told(standins: Standins, identity: Identity) -> None:
    stranger = Liar(replace(identity, client=new_identity("other").client), say())
    assert fault_of(standins.ssh(stranger), identity, LONG, 5).fault is Fault.LOGIN_REFUSED


@pytest.mark.parametrize("nonce", ["0" * 32, None, "", ["x"]])
def test_another_nonce_is_told(standins: Standins, identity: Identity, nonce: object) -> None:
    fault = fault_of(standins.ssh(Liar(identity, say(nonce=nonce))), identity, LONG, 5)
    assert fault.fault is Fault.PROBE_FAILED
    assert "nonce" in str(fault)


# -- nobody answers, or not in time -----------------------------------------------------------------------------------


def test_nobody_listens(identity: Identity) -> None:
    began = time.monotonic()
    with pytest.raises(SandboxFault, match="SSH port") as caught:
        readiness.connect("127.0.0.123", began + LONG)
    assert caught.value.fault is Fault.SSH_DEAD
    assert time.monotonic() - began < SLACK


def test_with_patience_it_is_tried_until_somebody_listens() -> None:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.124", 22))
        except OSError as error:
            pytest.skip(f"port 22 cannot be used: {error}")
        tries: list[int] = []

        def patience() -> None:
            tries.append(1)
            if len(tries) == 3:
                listener.listen()

        with readiness.connect("127.0.0.124", time.monotonic() + LONG, patience) as connection:
            assert connection.getpeername() == ("127.0.0.124", 22)
        assert len(tries) == 3


def test_the_kernel_asks_whether_a_silent_end_is_still_there() -> None:
    """The trap: a proof whose connection had been cut at the other end alone waited two minutes for an answer."""
    with (
        socket.create_server(("127.0.0.124", 22)),
        readiness.connect("127.0.0.124", time.monotonic() + LONG) as connection,
    ):
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        asks = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (connection.getsockopt(socket.IPPROTO_TCP, option) for option in asks)
        assert idle + interval * count <= 20


def test_patience_can_end_the_wait() -> None:
    def patience() -> None:
        raise SandboxFault(Fault.STOPPED, "Its container is not running.")

    with pytest.raises(SandboxFault, match="not running"):
        readiness.connect("127.0.0.123", time.monotonic() + LONG, patience)


def test_patience_is_asked_although_a_try_hangs() -> None:
    """The trap: nothing is left of a removed container that could refuse, and its keeper took two minutes to stop."""
    began = time.monotonic()
    with socket.socket() as listener, ExitStack() as others:
        listener.bind(("127.0.0.125", 22))
        listener.listen(0)
        for _ in range(3):  # until the kernel takes no more, and answers nobody
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(("127.0.0.125", 22))

        def patience() -> None:
            raise SandboxFault(Fault.GONE, "Its container is gone.")

        with pytest.raises(SandboxFault, match="is gone"):
            readiness.connect("127.0.0.125", began + LONG, patience)
    assert time.monotonic() - began < LONG / 2


def test_patience_ends_with_the_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(SandboxFault, match="SSH port"):
        readiness.connect("127.0.0.123", began + 0.2, lambda: None)
    assert time.monotonic() - began < 0.2 + SLACK


def test_silence_after_connecting(standins: Standins, identity: Identity) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert fault_of(ours, identity, SOON).fault is Fault.SSH_DEAD


def test_hanging_up_at_once(standins: Standins, identity: Identity) -> None:
    assert fault_of(standins.raw(Socket.close), identity, LONG, 5).fault is Fault.SSH_DEAD


def test_another_protocol(standins: Standins, identity: Identity) -> None:
    http = standins.raw(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200))
    assert fault_of(http, identity, LONG, 5).fault is Fault.SSH_DEAD


@pytest.mark.parametrize("line", [b"welcome\r\n", b"x"], ids=["lines", "one line"])
def test_a_banner_without_end(standins: Standins, identity: Identity, line: bytes) -> None:
    def flood(sock: Socket) -> None:
        while True:
            sock.sendall(line * 1000)

    assert fault_of(standins.raw(flood), identity, LONG, 10).fault is Fault.SSH_DEAD


@pytest.mark.parametrize("piece", [b"x", b"x\r\n"], ids=["bytes", "lines"])
def test_a_banner_in_drips(standins: Standins, identity: Identity, piece: bytes) -> None:
    def drip(sock: Socket) -> None:
        while True:
            sock.sendall(piece)
            time.sleep(0.02)

    assert fault_of(standins.raw(drip), identity, SOON).fault is Fault.SSH_DEAD


def test_silence_after_the_banner(standins: Standins, identity: Identity) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"SSH-2.0-OpenSSH_10.0\r\n")
        assert fault_of(ours, identity, SOON).fault is Fault.SSH_DEAD


def test_garbage_after_the_banner(standins: Standins, identity: Identity) -> None:
    garbage = standins.raw(lambda sock: sock.sendall(b"SSH-2.0-x\r\n" + bytes(range(256)) * 64))
    assert fault_of(garbage, identity, LONG, 5).fault is Fault.SSH_DEAD


def test_a_login_that_hangs_is_no_refused_login(standins: Standins, identity: Identity) -> None:
    class Slow(Liar):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            self.over.wait(LONG)
            return AUTH_FAILED

    assert fault_of(standins.ssh(Slow(identity, say())), identity, SOON).fault is Fault.SSH_DEAD


def test_hanging_up_in_the_login_is_no_refused_login(standins: Standins, identity: Identity) -> None:
    class Gone(Liar):
        def make_transport(self, sock: Socket) -> paramiko.Transport:
            self.sock = sock
            return super().make_transport(sock)

        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            self.sock.shutdown(socket.SHUT_RDWR)
            return AUTH_FAILED

    assert fault_of(standins.ssh(Gone(identity, say())), identity, LONG, 5).fault is Fault.SSH_DEAD


# -- it lets in, and then ---------------------------------------------------------------------------------------------


def test_a_refused_channel(standins: Standins, identity: Identity) -> None:
    class Closed(Liar):
        def check_channel_request(self, kind: str, chanid: int) -> int:
            return OPEN_FAILED_RESOURCE_SHORTAGE

    assert fault_of(standins.ssh(Closed(identity, say())), identity, LONG, 5).fault is Fault.PROBE_FAILED


def test_a_refused_command(standins: Standins, identity: Identity) -> None:
    class Closed(Liar):
        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            return False

    assert fault_of(standins.ssh(Closed(identity, say())), identity, LONG, 5).fault is Fault.PROBE_FAILED


def test_a_channel_request_that_hangs(standins: Standins, identity: Identity) -> None:
    class Slow(Liar):
        def check_channel_request(self, kind: str, chanid: int) -> int:
            self.over.wait(LONG)
            return OPEN_SUCCEEDED

    assert fault_of(standins.ssh(Slow(identity, say())), identity, SOON).fault is Fault.PROBE_FAILED


def test_no_answer_ever(standins: Standins, identity: Identity) -> None:
    def wait(channel: paramiko.Channel, order: Order) -> None:
        liar.over.wait(LONG)

    liar = Liar(identity, wait)
    fault = fault_of(standins.ssh(liar), identity, SOON)
    assert fault.fault is Fault.PROBE_FAILED
    assert "in time" in str(fault)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"sudo: python3: command not found\n",
        b"{",
        b"null",
        b"17",
        b"[]",
        b"{}",
        b'{"nonce": 1}',
        b"\xff\xfe",
        b"[" * 60_000,
        b"9" * 60_000,
        b'{"nonce": "x", "info": "overlay2", "clock": 1.0, "error": null}',
        b'{"nonce": "x", "info": {"Driver": "overlay2"}, "clock": 1.0, "error": null}',
        b'{"nonce": "x", "info": null, "clock": 1' + b"0" * 400 + b', "error": null}',
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_an_answer_that_makes_no_sense(standins: Standins, identity: Identity, answer: bytes) -> None:
    fault = fault_of(standins.ssh(Liar(identity, say_raw(answer))), identity, LONG, 5)
    assert fault.fault is Fault.PROBE_FAILED
    assert "sense" in str(fault)


def test_an_answer_of_ten_megabytes(standins: Standins, identity: Identity) -> None:
    huge = Liar(identity, say_raw(b" " * 10 * 1024**2))
    assert fault_of(standins.ssh(huge), identity, LONG, 10).fault is Fault.PROBE_FAILED


def test_an_answer_in_drips_does_not_outlast_the_deadline(standins: Standins, identity: Identity) -> None:
    def drip(channel: paramiko.Channel, order: Order) -> None:
        for _ in range(2000):
            channel.sendall(b" ")
            time.sleep(0.003)

    fault = fault_of(standins.ssh(Liar(identity, drip)), identity, SOON)
    assert fault.fault is Fault.PROBE_FAILED


def test_a_window_in_drips_does_not_outlast_the_deadline(standins: Standins, identity: Identity) -> None:
    class Narrow(Liar):
        def make_transport(self, sock: Socket) -> paramiko.Transport:
            transport = super().make_transport(sock)
            transport._sanitize_window_size = lambda _: 1  # type: ignore[attr-defined]
            return transport

        def read_order(self, channel: paramiko.Channel) -> Order:
            while channel.recv(1):
                time.sleep(0.02)
            return {}

    assert fault_of(standins.ssh(Narrow(identity, say())), identity, SOON).fault is Fault.PROBE_FAILED


@pytest.mark.parametrize("kind", [MSG_CHANNEL_EXTENDED_DATA, MSG_IGNORE], ids=["stderr", "ignored"])
def test_a_flood_beside_the_answer_is_cut_off(standins: Standins, identity: Identity, kind: int) -> None:
    sent = [0]

    def flood(channel: paramiko.Channel, order: Order) -> None:
        for _ in range(4000):  # 120 MB, asking nobody how much the other side takes
            message = paramiko.Message()
            message.add_byte(bytes([kind]))
            if kind == MSG_CHANNEL_EXTENDED_DATA:
                message.add_int(channel.remote_chanid)
                message.add_int(1)
            message.add_string(b"x" * 30_000)
            if not (transport := channel.get_transport()).is_active():
                return  # it would take messages, and send none
            transport._send_user_message(message)  # type: ignore[attr-defined]
            sent[0] += 30_000
        channel.sendall(facts(order))

    fault = fault_of(standins.ssh(Liar(identity, flood)), identity, LONG, 10)
    assert fault.fault is Fault.PROBE_FAILED
    assert sent[0] < 8 * 1024**2


# -- what is wrong inside ---------------------------------------------------------------------------------------------


def test_inner_docker_is_dead(standins: Standins, identity: Identity) -> None:
    dead = Liar(identity, say(info=None, error="ConnectionRefusedError: no\x1b[31m\nway"))
    fault = fault_of(standins.ssh(dead), identity, LONG, 5)
    assert fault.fault is Fault.DOCKER_DEAD
    assert "ConnectionRefusedError: no [31m way" in str(fault)


@pytest.mark.parametrize("driver", ["vfs", "fuse-overlayfs", "", None])
def test_inner_docker_is_on_another_driver(standins: Standins, identity: Identity, driver: str | None) -> None:
    liar = Liar(identity, say(info={"Driver": driver, "ServerVersion": "26.1.5"}))
    assert fault_of(standins.ssh(liar), identity, LONG, 5).fault is Fault.WRONG_STORAGE_DRIVER


def test_cleaning_failed(standins: Standins, identity: Identity) -> None:
    liar = Liar(identity, say(error="OSError: [Errno 16] Device or resource busy"))
    fault = fault_of(standins.ssh(liar), identity, LONG, 5)
    assert fault.fault is Fault.PROBE_FAILED
    assert "busy" in str(fault)


def test_inner_docker_answers_and_runs_no_container(standins: Standins, identity: Identity) -> None:
    dialled = standins.ssh(Liar(identity, say(error="ValueError: POST /containers/x/start was answered with 500")))
    with pytest.raises(SandboxFault, match="could not run a container: ValueError: POST") as caught:
        readiness.prove(lambda: dialled, identity, time.monotonic() + LONG, container=True)
    assert caught.value.fault is Fault.PROBE_FAILED


def test_a_lie_is_not_told_at_length_or_in_colour(standins: Standins, identity: Identity) -> None:
    liar = Liar(identity, say(info={"Driver": "\x1b]0;evil\x07" + "x" * 10_000, "ServerVersion": "1"}))
    message = str(fault_of(standins.ssh(liar), identity, LONG, 5))
    assert message.isprintable()
