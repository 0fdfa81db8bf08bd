"""A hook of GitLab's custom executor: passes one request on to the running service, and the answer back.

gitlab-runner starts a process for each stage of each job, so the imports decide what a stage costs. `socket` and
`signal` alone would double the start, since they import enum and selectors. So this file uses the C modules below them,
and `posix` in place of `os`. It imports nothing of ours either, and a test lists all imports. `wire.py` describes the
frames; a test proves that both agree.

The hooks' contract is that of gitlab-runner's `executors/custom`: the environment defines the exit codes, and names the
file for the script's own exit code.
"""
# pathlib costs more than everything here
# ruff: noqa: PTH123

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs milliseconds
    from collections.abc import Iterator, Sequence

DEFAULT_SOCKET = "/run/runner/gitlab.sock"
SOCKET_VARIABLE = "RUNNER_GITLAB_SOCKET"
JOB_VARIABLE = "RUNNER_GITLAB_JOB"
VARIABLES = b"CUSTOM_ENV_"
"""The prefix of a job's variables in a hook's environment, which has gitlab-runner's own too; no job response does."""
PATIENCE = {"config": 30.0, "prepare": 300.0, "run": 300.0, "cleanup": 20.0}
"""The hooks, each with the seconds that it waits without a connection for the service, which may be restarting.

They count from the moment when the job's first hook missed the service: the hooks after one that gave up do not wait
again.
"""
BRIEF = 2.0
"""The least wait in seconds; also the longest when gitlab-runner wants the end or the socket is closed to us."""
QUIET = 10.0
"""Seconds of silent waiting: a restart takes less."""
CONNECT_SECONDS = 10.0
SEND_SECONDS = 60.0
PAUSE = 0.1
LOOK = 1.0
"""The longest wait in seconds: a signal that comes just before a wait is handled only after it."""
CHUNK = 256 * 1024


class UnreachableError(Exception):
    """The service does not run, or ended the connection."""


class ForbiddenError(UnreachableError):
    """This user may not use the service's socket."""


class HookError(Exception):
    """The hook cannot do its work; the text is a sentence."""


def main(arguments: "Sequence[str]") -> int:
    """Run the hook of that name, and return the exit code for gitlab-runner.

    Any error here is ours: Python's own exit code 1 would count as the job's failure, and not be retried.
    """
    voice = Voice(arguments[0] if arguments else "")
    try:
        return Hook(*parse(arguments), voice).run()
    except HookError as error:
        voice.complain(f"{error}")
    except BrokenPipeError:
        pass  # gitlab-runner is gone, which the service notices by itself
    except BaseException as error:  # noqa: BLE001
        voice.complain(f"The hook met an error of its own ({type(error).__name__}: {error}). Please report it.")
    return system_failure()


def parse(arguments: "Sequence[str]") -> tuple[str, list[str], str]:
    """Return the hook's name, its own arguments, and the service's socket."""
    words, path = list(arguments), variable(SOCKET_VARIABLE) or DEFAULT_SOCKET
    while len(words) > 1 and words[1] == "--gitlab-socket":
        path = words[2] if len(words) > 2 else ""
        del words[1:3]
    name, about = words[0] if words else "", words[1:]
    if name not in PATIENCE or not path or (name == "run" and len(about) != 2):
        raise HookError("Usage: runner gitlab (config | prepare | run SCRIPT STAGE | cleanup) [--gitlab-socket PATH]")
    return name, about, path


class Voice:
    """The output of a hook to gitlab-runner.

    gitlab-runner reads stdout and stderr apart, so order is kept only within one of them. So our own sentences about a
    stage go to stdout, among its output. `config` prints JSON to stdout, and an administrator reads `cleanup`'s output.
    """

    def __init__(self, name: str) -> None:
        self.own = 1 if name in ("prepare", "run") else 2
        self.within_line = False

    def output(self, data: bytes) -> None:
        """Pass output on unchanged."""
        write(1, data)
        self.within_line = not data.endswith(b"\n")

    def say(self, lines: bytes) -> None:
        """Print lines of ours, starting on a new line."""
        write(self.own, b"\n" + lines if self.within_line and self.own == 1 else lines)
        self.within_line = False

    def complain(self, sentence: str) -> None:
        """Print a sentence of the hook's own, the last one."""
        try:
            self.say(f"runner: {sentence}\n".encode(errors="replace"))
        except OSError:  # nobody reads it; the exit code remains
            return


class Hook:
    """One request, over as many connections as needed."""

    def __init__(self, name: str, about: list[str], path: str, voice: Voice) -> None:
        self.name = name
        self.voice = voice
        self.path = path
        self.handle = variable(JOB_VARIABLE)
        self.stage = about[1] if name == "run" else ""
        self.call = posix.urandom(16).hex()
        self.body = self.content(about)
        self.received = 0
        self.told_to_end = False
        response = variable("JOB_RESPONSE_FILE")
        self.note = response and f"{response}.missed"

    def content(self, about: list[str]) -> bytes:
        """Return the body of the request.

        For `run` it is the stage's script, for `prepare` the job's variables, and otherwise the job response, unless a
        handle identifies the job already.
        """
        if self.name == "run":
            return read(about[0])
        if self.name == "prepare":
            given = [(name, value) for name, value in posix.environ.items() if name.startswith(VARIABLES)]
            return b"\0".join([name[len(VARIABLES) :] + b"=" + value for name, value in given])
        known = self.handle and self.name != "config"
        return b"" if known else read(variable("JOB_RESPONSE_FILE"))

    def run(self) -> int:
        """Ask until there is an answer, and return the exit code."""
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, self.end)
        # systemd sends it to all processes of gitlab-runner's unit; it only means to take no more jobs.
        _signal.signal(_signal.SIGQUIT, _signal.SIG_IGN)
        self.stood = time.monotonic()
        self.missed = min(self.stood, take(self.note))
        while True:
            link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                self.connect(link)
                return finish(self.follow(Frames(link)))
            except UnreachableError as error:
                self.await_service(error)
            finally:
                self.greeted = None
                link.close()
            time.sleep(PAUSE)

    stood = 0.0
    """When the last connection stood. A connection that is ended at once does not count."""
    missed = 0.0
    """The same for all hooks of the job up to this one."""
    told_of_waiting = False

    def await_service(self, error: UnreachableError) -> None:
        """Say that the hook waits for the service. Raises HookError when the time is over."""
        now, end = time.monotonic(), self.stood + BRIEF
        if not (self.told_to_end or isinstance(error, ForbiddenError)):
            end = max(end, self.missed + PATIENCE[self.name])
        if now > end:
            leave(self.note, self.missed)
            raise HookError(unanswered(self.path, error))
        if now > self.stood + QUIET and not self.told_of_waiting:
            self.told_of_waiting = True
            self.voice.say(
                f"runner: The runner is away ({error}). Waiting for it, {end - now:.0f} s at most.\n".encode()
            )

    greeted: _socket.socket | None = None

    def end(self, *_: object) -> None:
        """Pass on that gitlab-runner wants the end. Called from within any wait, which then goes on."""
        self.told_to_end = True
        if self.greeted:
            send_end(self.greeted)

    def connect(self, link: _socket.socket) -> None:
        """Connect, and send the request and gitlab-runner's process."""
        words = (self.name, self.handle, self.stage, self.call, str(self.received))
        request = "\0".join(words).encode("utf-8", "surrogateescape")
        try:
            link.settimeout(CONNECT_SECONDS)
            link.connect(self.path)
            link.settimeout(SEND_SECONDS)
            greet(link)
            link.sendall(frame(b"Q", request) + frame(b"B", self.body))
            link.settimeout(LOOK)
        except PermissionError as error:
            raise ForbiddenError(error.strerror) from None
        except OSError as error:
            raise UnreachableError(error.strerror or str(error)) from None
        self.greeted = link
        if self.told_to_end:  # before the connection; a second time does no harm
            send_end(link)

    def follow(self, frames: "Frames") -> bytes:
        """Pass the frames on, and return the service's last word.

        `config` prints one document, so its output is held until then: if asked again, the service sends it again.
        """
        document = b""
        while True:
            for kind, payload in frames.receive():
                if kind == b"x":
                    if document:
                        self.voice.output(document)
                    return payload
                if kind == b"o" and self.name == "config":
                    document += payload
                    continue
                (self.voice.say if kind == b"e" else self.voice.output)(payload)
                self.received += len(payload) if kind == b"o" else 0
            self.stood = self.missed = time.monotonic()  # a stage may be silent for hours


def unanswered(path: str, error: UnreachableError) -> str:
    """Return the sentence about a service that does not answer."""
    if isinstance(error, ForbiddenError):
        return (
            f"The runner's socket {path} is not for gitlab-runner's user ({error}). Add that user to the socket's "
            "group, and start gitlab-runner anew."
        )
    return f"The runner does not answer at {path} ({error}). Is `runner serve` running there?"


def leave(note: str, missed: float) -> None:
    """Note for the job's later hooks, in gitlab-runner's folder for the job, since when the service is missed."""
    try:
        with open(note, "w") as file:
            file.write(f"{missed}")
    except OSError:  # the later hooks then wait as long as this one
        return


def take(note: str) -> float:
    """Return since when an earlier hook missed the service, and remove the note; this hook may write it again."""
    if not posix.access(note, posix.F_OK):  # the usual case
        return time.monotonic()
    try:
        with open(note, "rb") as file:
            missed = float(file.read())
        posix.unlink(note)
    except (OSError, ValueError):  # the disk was full
        return time.monotonic()
    return missed


class Frames:
    """Cuts the bytes of a connection into frames."""

    def __init__(self, link: _socket.socket) -> None:
        self.link = link
        self.held = bytearray()

    def receive(self) -> "Iterator[tuple[bytes, bytes]]":
        """Yield the frames that are complete. Waits once, and briefly, for more bytes."""
        try:
            data = self.link.recv(CHUNK)
        except TimeoutError:
            return
        except OSError as error:
            raise UnreachableError(error.strerror or str(error)) from None
        if not data:
            raise UnreachableError("it ended the connection")
        self.held += data
        while len(self.held) >= 5 and len(self.held) >= 5 + int.from_bytes(self.held[1:5], "big"):
            end = 5 + int.from_bytes(self.held[1:5], "big")
            found = bytes(self.held[:1]), bytes(self.held[5:end])
            del self.held[:end]
            yield found


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return a frame."""
    return kind + len(payload).to_bytes(4, "big") + payload


def greet(link: _socket.socket) -> None:
    """Send the first byte, and with it a descriptor of gitlab-runner's process, which shows the service its end."""
    try:
        manager = posix.pidfd_open(manager_pid())
    except (AttributeError, OSError):  # a Python built on an old system has no such function
        link.sendall(b".")
        return
    rights = manager.to_bytes(4, sys.byteorder)
    link.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    posix.close(manager)


def manager_pid() -> int:
    """Return the process that started our process group: gitlab-runner, also where a wrapper starts us."""
    leader = posix.getpgrp()
    if leader == posix.getpid():
        return posix.getppid()
    with open(f"/proc/{leader}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def send_end(link: _socket.socket) -> None:
    """Tell the service that gitlab-runner wants the end. A broken connection is noticed on reading."""
    try:
        link.sendall(frame(b"T", b"."))
    except OSError:  # contextlib costs more than this
        return


def finish(end: bytes) -> int:
    """Return the exit code for the service's last word: `ok`, `failed CODE` or `system`."""
    words = end.decode().split()
    if words == ["ok"]:
        return 0
    if len(words) == 2 and words[0] == "failed":
        return build_failure(int(words[1]))
    return system_failure()


def build_failure(code: int) -> int:
    """Write the script's own exit code where gitlab-runner (17.9 or later) reads it, over that of any earlier stage.

    If the file cannot be written, this fails: gitlab-runner would read an earlier stage's code as this one's.
    """
    path = variable("BUILD_EXIT_CODE_FILE")
    try:
        if path:
            with open(path, "w") as file:
                file.write(f"{code}\n")
    except OSError as error:
        raise HookError(f"The script's exit code {code} cannot be written to {path}: {error.strerror}.") from None
    return exit_code("BUILD_FAILURE_EXIT_CODE", 1)


def system_failure() -> int:
    """Return the exit code for every failure that is not the script's."""
    return exit_code("SYSTEM_FAILURE_EXIT_CODE", 2)


def exit_code(name: str, default: int) -> int:
    """Return a code that gitlab-runner gave us."""
    given = variable(name)
    return int(given) if given.isdecimal() else default


def variable(name: str) -> str:
    """Return a variable of the environment, or nothing."""
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def read(path: str) -> bytes:
    """Return the content of a file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise HookError(f"The file {path or 'JOB_RESPONSE_FILE'} cannot be read: {error.strerror}.") from None


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[posix.write(descriptor, view) :]
