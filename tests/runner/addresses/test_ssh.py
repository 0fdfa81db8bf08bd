"""Keys out of OpenSSH's files, and what is said of the files that are of no use."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from pathlib import Path

import pytest

from runner.addresses import ssh
from runner.addresses.address import Address
from runner.addresses.record import Look
from runner.errors import ConnectError, InputError, SandboxError
from runner.execution.lease import Access

HOST = Address("sandbox", "192.0.2.7", 2222)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, once without and once (`locked`) with a passphrase."""
    path = tmp_path_factory.mktemp("keys") / "key"
    for name, phrase in (("key", ""), ("locked", "secret")):
        target = str(path.with_name(name))
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-C", "", "-f", target], check=True)
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


@pytest.mark.parametrize("host", ["[192.0.2.7]:2222", "192.0.2.7", "other,[192.0.2.7]:2222", "[192.0.2.*]:2222"])
def test_the_pinned_key_is_found(key: Path, tmp_path: Path, host: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"# comment\n\n{host} {public(key)}\n[192.0.2.8]:2222 {public(key.with_name('locked'))}\n")
    assert ssh.read_known_hosts(known, [HOST]) == [public(key)]


def test_a_hashed_file_is_understood(key: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[192.0.2.7]:2222 {public(key)}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert "192.0.2.7" not in known.read_text()
    assert ssh.read_known_hosts(known, [HOST]) == [public(key)]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("", "ssh-keyscan -p 2222 -t ed25519 192.0.2.7"),
        ("[192.0.2.8]:2222 {key}", "has no usable key for .*compare the fingerprint"),
        ("@cert-authority [192.0.2.7]:2222 {key}", "has only a certificate authority"),
        ("[192.0.2.7]:2222 {key}\n@revoked [192.0.2.7]:2222 {key}", "has no usable key"),
        ("rubbish", "is not a known_hosts file"),
    ],
)
def test_nothing_is_trusted_that_nobody_compared(key: Path, tmp_path: Path, line: str, cause: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(line.format(key=public(key)))
    with pytest.raises(InputError, match=cause):
        ssh.read_known_hosts(known, [HOST])


@pytest.mark.parametrize(
    ("name", "cause"),
    [("key.pub", "holds no private key"), ("locked", "has a passphrase"), ("none", "No such file"), (".", "directory")],
)
def test_keys_that_are_of_no_use(key: Path, name: str, cause: str) -> None:
    assert ssh.read_identity(key) == key.read_text()
    with pytest.raises(InputError, match=cause):
        ssh.read_identity(key.parent / name)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "cause"), [("127.0.0.1", "There is no way there: .*refused"), ("none.invalid", "There is no way there")]
)
async def test_a_place_that_is_not_there(host: str, cause: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(ConnectError, match=cause):
            await ssh.dial(Address("sandbox", host, reserved.getsockname()[1]))


@pytest.mark.anyio
async def test_a_name_whose_first_place_is_silent_leads_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a host has an IPv6 address that does not work here, or an old one in the DNS."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.create_connection(silent.getsockname()),  # all that it keeps: who calls now gets no answer
        socket.create_server(("127.0.0.1", 0)) as well,
    ):
        places = [silent, well]

        async def found(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place.getsockname()) for place in places]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        monkeypatch.setattr(ssh, "DIAL_DEADLINE", 0.5)
        with await ssh.dial(HOST) as connection:
            assert connection.getpeername() == well.getsockname()
        places.pop()
        with pytest.raises(ConnectError, match="Nothing answered"):
            await ssh.dial(HOST)


@pytest.mark.anyio
async def test_what_is_no_ssh_server_is_told_and_let_go(key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = await ssh.dial(Address("sandbox", "127.0.0.1", listener.getsockname()[1]))
        theirs, _ = listener.accept()
        with theirs:
            theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectError):
                await ssh.look(Access(ours, "sandbox", public(key), key.read_text()))
    assert ours.fileno() == -1


LOOK = Look("boot", ((1, 5),), None)
WELL = '{"nonce": NONCE, "python": [3, 11], "left": [], "error": "", "look": '


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("Welcome!\n", "Its answer makes no sense"),
        ("[1]", "Its answer makes no sense"),
        ("[" * 100_000, "Its answer makes no sense"),
        ('{"nonce": "another", "python": [3, 11], "left": [], "error": ""}', "Its answer makes no sense"),
        ('{"nonce": NONCE, "python": "x", "left": [], "error": ""}', "Its answer makes no sense"),
        ('{"nonce": NONCE, "python": [3, 9], "left": [], "error": ""}', "Its python3 is 3.9"),
        ('{"nonce": NONCE, "python": [3, 11], "left": ["process 7 (x)"], "error": ""}', r"would not go: .*process 7"),
        ('{"nonce": NONCE, "python": [3, 11], "left": [], "error": "a\\u001b[2Jb"}', "whether the job left something"),
        ('{"nonce": NONCE, "python": [3, 11], "left": [], "error": ""}', "What it says of itself makes no sense"),
        (
            WELL + '{"boot_id": "other", "processes": [], "docker": null}}',
            "Its host was restarted",
        ),
        (
            WELL + '{"boot_id": "\\ud800", "processes": [["x"]], "docker": 7}}',
            "What it says of itself makes no sense",
        ),
    ],
)
async def test_what_a_hostile_sandbox_may_answer(monkeypatch: pytest.MonkeyPatch, answer: str, cause: str) -> None:
    async def run(access: Access, given: bytes) -> bytes:
        order = json.loads(given.rpartition(b"\n")[2])
        return answer.replace("NONCE", json.dumps(order["nonce"])).encode()

    monkeypatch.setattr(ssh, "_run", run)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(SandboxError, match=cause) as raised:
        await ssh.sweep(Access(ours, "sandbox", "", ""), LOOK, ())
    assert str(raised.value).isprintable()
