"""A unix-socket proxy in front of a Docker Engine that misbehaves on command.

    with EngineProxy(folder / "docker.sock", "/var/run/docker.sock") as proxy:
        rule = proxy.misbehave("POST /containers/*/start", Hold())
        ...
        rule.release()

As a command: `python -m tests.faults.engine_proxy --listen PATH --engine PATH`, then one order per line on its stdin
(README.md). A request is matched by method and path, without the API's version and without the query.
"""

import argparse
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

_CHUNK = 64 * 1024
_MAX_HEAD = 64 * 1024


@dataclass(frozen=True)
class Refuse:
    """Hang up without an answer; the engine is not asked."""


@dataclass(frozen=True)
class Garbage:
    """Answer with these bytes; the engine is not asked."""

    answer: bytes = b"\x00\xff this is no HTTP\r\n\r\n"


@dataclass(frozen=True)
class Flood:
    """Answer with an endless body; the engine is not asked."""


@dataclass(frozen=True)
class Hold:
    """Keep the request until it is released; it is passed on then, even if its client has given up meanwhile."""


@dataclass(frozen=True)
class Delay:
    """Pass the request on after so many seconds, even if its client has given up meanwhile."""

    seconds: float


@dataclass(frozen=True)
class Swallow:
    """Pass the request on at once, and keep the answer for ever."""


@dataclass(frozen=True)
class Stall:
    """Pass on so many bytes of the answer, and the rest when released."""

    after: int


@dataclass(frozen=True)
class Drip:
    """Pass the answer on a byte at a time, every so many seconds; at once when released."""

    seconds: float


Fault = Refuse | Garbage | Flood | Hold | Delay | Swallow | Stall | Drip


@dataclass
class Rule:
    """A fault for the requests that match `pattern`, such as `POST /containers/*/start`."""

    pattern: str
    fault: Fault
    seen: int = 0
    """How many requests it was applied to."""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let go on what is held up by this rule, and what comes."""
        self.released.set()

    def wait_seen(self, count: int = 1, seconds: float = 10.0) -> None:
        """Wait until it was applied to so many requests. Raises `TimeoutError`."""
        _until(lambda: self.seen >= count, seconds, f"{self.pattern} was seen {self.seen} times, not {count}")


class EngineProxy:
    """Listens at `listen` from `up` (or the beginning of a `with` block) on."""

    def __init__(self, listen: Path, engine: str | Path) -> None:
        self.requests: list[str] = []
        """Every request that came, as method and path."""
        self._listen = listen
        self._engine = str(engine).removeprefix("unix://")
        self._rules: list[Rule] = []
        self._listening: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What DOCKER_HOST is set to."""
        return f"unix://{self._listen}"

    @property
    def is_idle(self) -> bool:
        """Whether it waits for connections and does nothing else."""
        with self._lock:
            return sum(map(threading.Thread.is_alive, self._threads)) == 1

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self.clear()
        self._hang_up()
        for thread in self._threads:
            thread.join(5)
        self._listen.unlink(missing_ok=True)

    def up(self) -> None:
        """Listen, on a new socket."""
        self._listen.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._listen))
        self._listening.listen(128)
        self._start(self._accept, self._listening)

    def down(self) -> None:
        """Refuse connections and hang up on those there are. The socket's file stays, as that of a dead engine does."""
        if self._listening is not None:
            _close(self._listening)
            self._listening = None
        self._hang_up()

    def misbehave(self, pattern: str, fault: Fault) -> Rule:
        """From now on, do this to the requests that match; of several rules the last one counts."""
        rule = Rule(pattern, fault)
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def clear(self) -> None:
        """Forget every rule, and let go what they hold up."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release()

    def _start(self, act: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=act, args=arguments, name="engine proxy", daemon=True)
        with self._lock:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()

    def _hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._tracked(client), suppress(OSError):
            head, body = _read_head(client)
            rule = self._matching(head)
            fault = rule.fault if rule else None
            match fault:
                case Refuse():
                    return
                case Garbage(answer):
                    client.sendall(answer)
                    return
                case Flood():
                    _flood(client)
                case _:
                    self._pass_on(client, _asking_to_close(head) + body, rule)

    def _matching(self, head: bytes) -> Rule | None:
        request = _request_line(head)
        with self._lock:
            self.requests.append(request)
            rule = next((rule for rule in self._rules if fnmatchcase(request, rule.pattern)), None)
            if rule:
                rule.seen += 1
        return rule

    def _pass_on(self, client: socket.socket, asked: bytes, rule: Rule | None) -> None:
        if rule:
            _hold_up(rule)
        with self._tracked(socket.socket(socket.AF_UNIX)) as engine:
            engine.connect(self._engine)
            engine.sendall(asked)
            # An engine gives up what it does when its client hangs up, so a held one must not seem to.
            patient = rule is not None and isinstance(rule.fault, Hold | Delay | Swallow)
            self._start(_pump, client, engine, not patient)
            _answer(engine, client, rule)

    @contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[socket.socket]:
        with self._lock:
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            _close(connection)


def _hold_up(rule: Rule) -> None:
    match rule.fault:
        case Hold():
            rule.released.wait()
        case Delay(seconds):
            rule.released.wait(seconds)
        case _:
            pass


def _answer(engine: socket.socket, client: socket.socket, rule: Rule | None) -> None:
    match rule and rule.fault, rule:
        case Swallow(), Rule(released=released):
            while engine.recv(_CHUNK):
                pass
            released.wait()
        case Stall(after), Rule(released=released):
            while after and (piece := engine.recv(min(after, _CHUNK))):
                client.sendall(piece)
                after -= len(piece)
            released.wait()
        case Drip(seconds), Rule(released=released):
            while not released.wait(seconds) and (piece := engine.recv(1)):
                client.sendall(piece)
        case _:
            pass
    while not isinstance(rule and rule.fault, Swallow) and (piece := engine.recv(_CHUNK)):
        with suppress(OSError):  # its client gave up; the engine is to finish all the same
            client.sendall(piece)


def _pump(source: socket.socket, target: socket.socket, tell_end: bool) -> None:
    with suppress(OSError):
        while piece := source.recv(_CHUNK):
            target.sendall(piece)
        if tell_end:
            target.shutdown(socket.SHUT_WR)


def _flood(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    while True:
        client.sendall(b" " * _CHUNK)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = client.recv(_CHUNK)
        if not piece or len(received) > _MAX_HEAD:
            raise ConnectionError("no request came")
        received += piece
    head, mark, body = received.partition(b"\r\n\r\n")
    return head + mark, body


def _request_line(head: bytes) -> str:
    method, target, _ = head.split(b"\r\n", 1)[0].decode(errors="replace").split(" ", 2)
    return f"{method} {re.sub(r'^/v[0-9.]+(?=/)', '', target.partition('?')[0])}"


def _asking_to_close(head: bytes) -> bytes:
    """The request, as the only one on its connection, so that the next one is matched as well."""
    if re.search(rb"\r\nConnection:\s*upgrade", head, re.IGNORECASE):
        return head
    kept = re.sub(rb"\r\nConnection:[^\r]*", b"", head, flags=re.IGNORECASE)
    return kept[:-2] + b"Connection: close\r\n\r\n"


def _close(connection: socket.socket) -> None:
    with suppress(OSError):  # another thread may be in a call on it, which a close alone does not end
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _until(reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() >= deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.01)


# -- as a command -----------------------------------------------------------------------------------------------------

_FAULTS: dict[str, Callable[[float], Fault]] = {
    "refuse": lambda _: Refuse(),
    "garbage": lambda _: Garbage(),
    "flood": lambda _: Flood(),
    "hold": lambda _: Hold(),
    "swallow": lambda _: Swallow(),
    "delay": Delay,
    "drip": Drip,
    "stall": lambda after: Stall(int(after)),
}


def obey(proxy: EngineProxy, order: str) -> str:
    """Do what one line says: `stall 100 GET /containers/json`, `release`, `clear`, `down`, `up`, `requests`."""
    word, _, rest = order.strip().partition(" ")
    simple = {"release": proxy.clear, "clear": proxy.clear, "down": proxy.down, "up": proxy.up}
    if word in simple:
        simple[word]()
    elif word == "requests":
        return "\n".join(proxy.requests)
    elif word in _FAULTS:
        number, pattern = re.fullmatch(r"(?:([0-9.]+) )?(.+)", rest).groups()  # type: ignore[union-attr]
        proxy.misbehave(pattern, _FAULTS[word](float(number or 0)))
    else:
        return f"unknown: {word}; known are {', '.join([*simple, 'requests', *_FAULTS])}"
    return "ok"


def main() -> None:
    """Listen until the end of stdin."""
    parser = argparse.ArgumentParser(description="A proxy in front of a Docker Engine that misbehaves on command.")
    parser.add_argument("--listen", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    given = parser.parse_args()
    with EngineProxy(given.listen, given.engine) as proxy:
        for order in sys.stdin:
            sys.stdout.write(f"{obey(proxy, order)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
