"""Server and client of the keeper's socket, over a real unix socket, with a scripted keeper behind it."""

import errno
import grp
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from sandbox.errors import (
    ConfigError,
    EngineUnreachable,
    KeeperError,
    KeeperRefused,
    KeeperUnreachable,
    NotNow,
    ProtocolError,
)
from sandbox.health import HostState
from sandbox.keeper import client as client_module
from sandbox.keeper import exchange as exchange_module
from sandbox.keeper import protocol
from sandbox.keeper import server as server_module
from sandbox.keeper.client import KeeperClient, Withdrawal
from sandbox.keeper.exchange import MAX_LINE
from sandbox.keeper.server import KeeperServer
from sandbox.keeper.verbs import Verbs
from tests.sandbox.keeper.test_protocol import GRANT, TOKEN

LEND = protocol.Lend(
    attempt="a1", token="token-of-a1-token-of-a1", profile="default", trust_key="team", wait=0.5, patience=0
)
MARGIN = 5.0


class Script:
    """Stands in for the keeper: notes what it was asked and does what the test says."""

    def __init__(self) -> None:
        self.asked: list[protocol.Message] = []
        self.then: Callable[[], object] = lambda: None
        self.kept: socket.socket | None = None
        """The other end of the connection that was lent."""
        self.hung_up: Callable[[], bool] = lambda: False
        """Whether the client of the last request for a lease is gone."""

    def _note(self, request: protocol.Message) -> protocol.Done:
        self.asked.append(request)
        self.then()
        return protocol.Done()

    renew = kill = give_back = condemn = take_back = _note

    def lend(
        self, request: protocol.Lend | protocol.Resume, hung_up: Callable[[], bool] = lambda: False
    ) -> tuple[protocol.LeaseGrant, socket.socket]:
        self.hung_up = hung_up
        self._note(request)
        lent, self.kept = socket.socketpair()
        lent.settimeout(5.0)  # as a connection of the keeper's has
        return GRANT, lent

    resume = lend

    def listing(self) -> protocol.Listing:
        self._note(protocol.List())
        return protocol.Listing(
            installation="0123abcd", host=HostState.WELL, trouble="", sandboxes=[], condemned=[], counts={}
        )

    def ping(self) -> protocol.Pong:
        self._note(protocol.Ping())
        return protocol.Pong(fit=True, message="ready")

    def offer(self) -> protocol.Offered:
        self._note(protocol.Offer())
        return protocol.Offered(profiles={"default": [], "big": ["large"]})

    def measure(self) -> protocol.Measured:
        self._note(protocol.Measure())
        return protocol.Measured(text="sandbox_warm 2.0\n")


@contextmanager
def serving(run_folder: Path, script: Script, group: str | None = None) -> Iterator[KeeperServer]:
    with KeeperServer(run_folder, cast(Verbs, script), group) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(MARGIN)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    yield made
    if made.kept:
        made.kept.close()


@pytest.fixture
def server(run_folder: Path, script: Script) -> Iterator[KeeperServer]:
    with serving(run_folder, script) as made:
        yield made


@pytest.fixture
def client(server: KeeperServer) -> KeeperClient:
    return KeeperClient(server.path)


def raw(server: KeeperServer, sent: bytes, *, finish: bool = False) -> bytes:
    """Send bytes as they are and take the whole answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MARGIN)
        connection.connect(str(server.path))
        connection.sendall(sent)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def refusal(answer: bytes) -> str:
    reply = protocol.decode_reply(answer, protocol.Done)
    assert isinstance(reply, protocol.Refusal)
    return reply.refused


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- verbs ------------------------------------------------------------------------------------------------------------


def test_each_verb_reaches_the_keeper(client: KeeperClient, script: Script) -> None:
    client.renew(TOKEN)
    client.kill(TOKEN)
    client.give_back(TOKEN, used=False)
    client.condemn(TOKEN, "sshd hung up")
    assert client.listing().installation == "0123abcd"
    assert client.ping() == protocol.Pong(fit=True, message="ready")
    assert list(client.profiles().items()) == [("default", []), ("big", ["large"])]
    assert client.metrics() == "sandbox_warm 2.0\n"
    assert script.asked == [
        protocol.Renew(token=TOKEN),
        protocol.Kill(token=TOKEN),
        protocol.Return(token=TOKEN, used=False),
        protocol.Condemn(token=TOKEN, reason="sshd hung up"),
        protocol.List(),
        protocol.Ping(),
        protocol.Offer(),
        protocol.Measure(),
    ]


def test_a_lease_comes_with_a_connection_that_works_both_ways(client: KeeperClient, script: Script) -> None:
    grant, connection = client.lend(LEND)
    assert grant == GRANT
    assert script.kept is not None
    with connection:
        connection.sendall(b"to the sandbox")
        assert script.kept.recv(100) == b"to the sandbox"
        # The keeper's end of what it passed is closed: the end of the connection is the runner's to see.
        threading.Timer(0.05, script.kept.sendall, [b"from the sandbox"]).start()
        assert connection.recv(100) == b"from the sandbox"  # waits, although the keeper's had a timeout
        script.kept.close()
        assert connection.recv(100) == b""


def test_a_lease_is_resumed_with_a_connection_of_its_own(client: KeeperClient, script: Script) -> None:
    grant, connection = client.resume(TOKEN)
    with connection:
        assert grant == GRANT
        assert script.kept is not None
        script.kept.sendall(b"SSH-2.0")
        assert connection.recv(16) == b"SSH-2.0"
    assert script.asked == [protocol.Resume(token=TOKEN)]


def test_a_lease_that_nobody_waits_for_any_more_is_taken_back(server: KeeperServer, script: Script) -> None:
    """The trap: a runner that is killed while it waits in the queue would keep the sandbox it never heard of."""
    asked, gone = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        gone.wait(MARGIN)

    script.then = wait
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.path))
        connection.sendall(protocol.encode_request(LEND))
        assert asked.wait(MARGIN)
    script.then = lambda: None
    gone.set()
    end = time.monotonic() + MARGIN
    while script.asked != [LEND, LEND]:  # `lend`, then `take_back` with the same request
        assert time.monotonic() < end, script.asked
        time.sleep(0.01)


def test_a_client_that_hangs_up_is_told_from_one_that_only_listens(server: KeeperServer, script: Script) -> None:
    asked, gone = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        gone.wait(MARGIN)

    script.then = wait
    seen = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.path))
        connection.sendall(protocol.encode_request(LEND))
        assert asked.wait(MARGIN)
        seen.append(script.hung_up())
        connection.shutdown(socket.SHUT_WR)
        seen.append(script.hung_up())
    seen.append(script.hung_up())
    gone.set()
    assert seen == [False, False, True]


def test_a_lease_leaves_no_descriptor_open(client: KeeperClient, script: Script) -> None:
    client.ping()  # whatever is opened once and kept
    before = open_descriptors()
    for _ in range(5):
        client.lend(LEND)[1].close()
        assert script.kept is not None
        script.kept.close()
    end = time.monotonic() + MARGIN
    while open_descriptors() > before:  # the server may be closing the last ones
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_refusal_carries_the_keepers_sentence(client: KeeperClient, script: Script) -> None:
    def refuse() -> None:
        raise KeeperRefused('No sandbox of "default" was\nready.')

    script.then = refuse
    for ask in (lambda: client.lend(LEND), lambda: client.renew(TOKEN), client.listing):
        with pytest.raises(KeeperRefused) as caught:
            ask()
        assert str(caught.value) == 'No sandbox of "default" was\nready.'


def test_other_errors_of_ours_are_told_as_well(client: KeeperClient, script: Script) -> None:
    def fail() -> None:
        raise EngineUnreachable("No Docker Engine answers.")

    script.then = fail
    with pytest.raises(KeeperRefused, match="No Docker Engine answers"):
        client.ping()


def test_a_defect_in_the_keeper_is_answered_and_serving_goes_on(
    client: KeeperClient, script: Script, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def crash() -> None:
        raise KeyError("defect-of-the-test")

    script.then = crash
    with pytest.raises(KeeperRefused, match="look at its log") as caught:
        client.renew(TOKEN)
    assert "defect-of-the-test" not in str(caught.value)
    assert "defect-of-the-test" in caplog.text
    assert "Traceback" not in capfd.readouterr().err  # in the log, not beside it
    script.then = lambda: None
    client.renew(TOKEN)


def test_what_the_host_refuses_a_verb_is_answered_and_may_be_asked_again(
    client: KeeperClient, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: it was taken for a client that went away, and a runner that had no answer asked for ever."""

    def fail() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    script.then = fail
    with pytest.raises(NotNow, match="look at its log"):  # that the lease is over, nobody has said
        client.renew(TOKEN)
    assert "Read-only file system" in caplog.text


def test_requests_are_served_side_by_side(client: KeeperClient, script: Script) -> None:
    both = threading.Barrier(2, timeout=MARGIN)  # breaks unless two are inside at the same time
    script.then = both.wait
    threads = [threading.Thread(target=client.renew, args=(TOKEN,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MARGIN)
    assert len(script.asked) == 2
    assert not both.broken


@pytest.mark.parametrize("reason", ["", "x" * 5000])
def test_any_reason_can_be_given_for_condemning(client: KeeperClient, script: Script, reason: str) -> None:
    client.condemn(TOKEN, reason)
    [request] = script.asked
    assert isinstance(request, protocol.Condemn)


# -- clients that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"GET / HTTP/1.1\r\n", b"\xff\xff\n", b'{"version":1,"request":{"verb":"ping"}}\n']
)
def test_garbage_is_refused_with_a_sentence(server: KeeperServer, script: Script, line: bytes) -> None:
    assert "did not understand" in refusal(raw(server, line))
    assert script.asked == []


def test_half_a_line_is_refused(server: KeeperServer, script: Script) -> None:
    assert "middle of its line" in refusal(raw(server, b'{"version":1', finish=True))
    assert script.asked == []


def test_a_line_may_come_in_pieces(server: KeeperServer) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MARGIN)
        connection.connect(str(server.path))
        for byte in protocol.encode_request(protocol.Ping()):
            connection.sendall(bytes([byte]))
        assert b"ready" in connection.recv(65536)


def test_an_endless_line_is_refused_and_not_kept(server: KeeperServer) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MARGIN)
        connection.connect(str(server.path))
        sent = 0
        with suppress(OSError):  # it hangs up, as it should
            while sent < 64 * MAX_LINE:
                sent += connection.send(b"x" * 65536)
    assert sent < 3 * MAX_LINE


def test_a_line_in_drips_ends_with_the_deadline(server: KeeperServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_DEADLINE", 0.3)
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.02)
        connection.connect(str(server.path))
        answer = b""
        while not answer and time.monotonic() < began + MARGIN:
            with suppress(BrokenPipeError, TimeoutError):  # it answers and hangs up while we write
                connection.sendall(b"x")
            with suppress(TimeoutError):
                answer = connection.recv(65536)
    assert "did not come within" in refusal(answer)
    assert time.monotonic() - began < 0.3 + 1


def test_a_silent_client_does_not_stay(server: KeeperServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_DEADLINE", 0.2)
    assert "did not come within" in refusal(raw(server, b""))


def test_clients_that_hang_up_do_no_harm(
    server: KeeperServer, script: Script, client: KeeperClient, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, gone = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        gone.wait(MARGIN)

    script.then = wait
    for request in (LEND, protocol.Renew(token=TOKEN)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.path))
            connection.sendall(protocol.encode_request(request))
            assert asked.wait(MARGIN)
        gone.set()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.path))
    assert client.ping().fit
    assert "Traceback" not in capfd.readouterr().err


# -- keepers that misbehave -------------------------------------------------------------------------------------------


def test_no_socket_says_how_to_start_a_keeper(tmp_path: Path) -> None:
    with pytest.raises(KeeperUnreachable, match=r"no keeper socket at .*nothing\.sock.*docker compose up"):
        KeeperClient(tmp_path / "nothing.sock").ping()


def test_no_listener_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale.sock"))
    with pytest.raises(KeeperUnreachable, match="No keeper answers"):
        KeeperClient(tmp_path / "stale.sock").ping()


def test_no_permission_says_who_may(tmp_path: Path) -> None:
    # Root may open anything, so the system's answer is made up here.
    text = exchange_module._advice(tmp_path / "s", PermissionError(13, "Permission denied"))
    assert "No permission" in text
    assert "group" in text


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeeperUnreachable):
        KeeperClient(tmp_path / ("x" * 200)).ping()


@contextmanager
def answering(tmp_path: Path, act: Callable[[socket.socket], object]) -> Iterator[KeeperClient]:
    """A keeper that answers its one client as `act` says."""
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                act(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield KeeperClient(path)
        finally:
            thread.join(MARGIN)


def test_an_answer_that_breaks_off_is_told(tmp_path: Path) -> None:
    with answering(tmp_path, lambda c: c.sendall(b'{"fit":')) as client, pytest.raises(ProtocolError, match="broke"):
        client.ping()


def test_an_answer_of_another_release_is_told(tmp_path: Path) -> None:
    answer = b'{"fit":true,"message":"","load":1}\n'
    with answering(tmp_path, lambda c: c.sendall(answer)) as client, pytest.raises(ProtocolError, match="same release"):
        client.ping()


def test_a_lease_without_a_connection_is_told(tmp_path: Path) -> None:
    answer = protocol.encode_reply(GRANT)
    with answering(tmp_path, lambda c: c.sendall(answer)) as client, pytest.raises(ProtocolError):
        client.lend(LEND)


@pytest.mark.parametrize("answer", [b'{"half', b"{}\n"])
def test_a_connection_with_a_broken_lease_is_closed(tmp_path: Path, answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:

        def act(connection: socket.socket) -> None:
            with theirs:
                socket.send_fds(connection, [answer], [theirs.fileno()])

        with answering(tmp_path, act) as client, pytest.raises(ProtocolError):
            client.lend(LEND)
        ours.settimeout(MARGIN)
        assert ours.recv(1) == b""  # nobody holds the other end any more


@pytest.mark.parametrize("early", [True, False])
def test_a_withdrawn_request_ends_at_once_and_hangs_up(tmp_path: Path, early: bool) -> None:
    withdrawal, heard = Withdrawal(), list[bytes]()
    if early:
        withdrawal.withdraw()

    def act(connection: socket.socket) -> None:
        withdrawal.withdraw()
        connection.settimeout(MARGIN)
        heard.append(connection.recv(65536))

    with answering(tmp_path, act) as client, pytest.raises(KeeperError):
        client.lend(LEND.model_copy(update={"wait": 600.0}), withdrawal)
    assert heard == [b""]


def test_an_answer_that_is_on_its_way_is_not_lost_with_a_withdrawal(tmp_path: Path) -> None:
    """The trap: nobody would return that lease."""
    ours, theirs = socket.socketpair()
    withdrawal = Withdrawal()

    def act(connection: socket.socket) -> None:
        with theirs:
            socket.send_fds(connection, [protocol.encode_reply(GRANT)], [theirs.fileno()])
        withdrawal.withdraw()

    with ours, answering(tmp_path, act) as client:
        grant, lent = client.lend(LEND, withdrawal)
        lent.close()
    assert grant == GRANT
    withdrawal.withdraw()  # without effect: another file may have the connection's number


def test_a_keeper_that_hangs_up_without_reading_is_told(tmp_path: Path) -> None:
    with answering(tmp_path, lambda c: None) as client, pytest.raises(ProtocolError, match="restarted"):
        client.ping()


def test_a_keeper_that_hangs_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_DEADLINE", 0.2)
    over = threading.Event()
    began = time.monotonic()
    with answering(tmp_path, lambda _: over.wait(MARGIN)) as client:
        try:
            with pytest.raises(KeeperUnreachable, match="did not answer within"):
                client.ping()
        finally:
            over.set()
    assert time.monotonic() - began < 0.2 + 1


# -- where the socket is ----------------------------------------------------------------------------------------------


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_modes_do_not_depend_on_the_umask(run_folder: Path, script: Script, umask: int) -> None:
    before = os.umask(umask)
    try:
        with serving(run_folder, script) as server:
            assert mode(run_folder) == "0o700"
            # A container reaches these two by a mount of the inner one, whatever user ids it has.
            assert mode(run_folder / "keeper") == "0o755"
            assert mode(server.path) == "0o666"
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to any group")
@pytest.mark.parametrize("group", ["12345", grp.getgrgid(0).gr_name])
def test_a_group_may_enter_and_not_list(run_folder: Path, script: Script, group: str) -> None:
    with serving(run_folder, script, group):
        assert mode(run_folder) == "0o710"
        assert run_folder.stat().st_gid == (12345 if group == "12345" else 0)


def test_an_unknown_group_is_told(run_folder: Path, script: Script) -> None:
    with pytest.raises(ConfigError, match="no-such-group"), serving(run_folder, script, "no-such-group"):
        pass


def test_a_folder_that_others_use_is_left_as_it_is(run_folder: Path, script: Script) -> None:
    run_folder.mkdir(mode=0o755)
    run_folder.chmod(0o755)
    (run_folder / "docker.sock").touch()
    with pytest.raises(ConfigError, match=r"docker\.sock"), serving(run_folder, script):
        pass
    assert mode(run_folder) == "0o755"


def test_an_open_folder_is_closed(run_folder: Path, script: Script) -> None:
    run_folder.mkdir()
    run_folder.chmod(0o777)
    with serving(run_folder, script):
        assert mode(run_folder) == "0o700"


def test_a_second_keeper_is_refused_and_the_first_serves_on(server: KeeperServer, run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="Another keeper"), serving(run_folder, Script()):
        pass
    assert KeeperClient(server.path).ping().fit


def test_a_second_keeper_is_refused_while_the_first_is_too_busy_to_accept(run_folder: Path) -> None:
    (run_folder / "keeper").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(run_folder / "keeper" / "socket"))
        busy.listen(0)
        waiting.connect(str(run_folder / "keeper" / "socket"))
        with pytest.raises(ConfigError, match="Another keeper"), serving(run_folder, Script()):
            pass


def test_the_socket_of_a_killed_keeper_is_replaced(run_folder: Path, script: Script) -> None:
    path = run_folder / "keeper" / "socket"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with serving(run_folder, script):
        assert KeeperClient(path).ping().fit
    assert not path.exists()


def test_a_run_folder_that_cannot_be_made_is_told(tmp_path: Path, script: Script) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"), serving(tmp_path / "file" / "run", script):
        pass


def test_a_run_folder_whose_path_is_too_long_is_told(tmp_path: Path, script: Script) -> None:
    with pytest.raises(ConfigError, match="cannot be made"), serving(tmp_path / ("x" * 200), script):
        pass
