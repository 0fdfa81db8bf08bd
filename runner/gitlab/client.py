"""What a hook of GitLab's custom executor does: passes one request on to the running service, and its answer back.

gitlab-runner starts a process for each stage of each job, so what this imports decides what a stage costs: `socket` and
`signal` alone would double its start (they import enum and selectors), so the C modules below them are used, as `posix`
in place of `os`. It imports nothing of ours either, and a test lists all that it does. The frames are described in
`wire.py`; a test proves that both agree.

The contract of the hooks is that of gitlab-runner's `executors/custom`: the environment says which exit codes mean
what, and where the script's own exit code is written.
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
"""How the names of a job's variables begin in a hook's environment; gitlab-runner's own are in no job response."""
PATIENCE = {"config": 30.0, "prepare": 300.0, "run": 300.0, "cleanup": 20.0}
"""The hooks, and for how many seconds without a connection each waits for the service: it may be restarting.

They count from when the first hook of the job missed it: those that follow one which gave up do not wait again.
"""
BRIEF = 2.0
"""Seconds that are waited for it at least, and at most where gitlab-runner wants the end or the socket is not ours."""
QUIET = 10.0
"""Seconds of waiting of which nothing is said: a restart takes less."""
CONNECT_SECONDS = 10.0
SEND_SECONDS = 60.0
PAUSE = 0.1
LOOK = 1.0
"""A signal that comes just before a wait is seen after it: no wait is longer than this."""
CHUNK = 256 * 1024


class UnreachableError(Exception):
    """The service is not there, or went away."""


class ForbiddenError(UnreachableError):
    """The service's socket is not for this user."""


class HookError(Exception):
    """The hook cannot do what it is for; the text is a sentence."""


def main(arguments: "Sequence[str]") -> int:
    """Do what the hook's name says, and return the exit code for gitlab-runner.

    Whatever goes wrong here is ours: Python's own 1 would be the job's failure, and not tried again.
    """
    voice = Voice(arguments[0] if arguments else "")
    try:
        return Hook(*parse(arguments), voice).run()
    except HookError as error:
        voice.complain(f"{error}")
    except BrokenPipeError:
        pass  # gitlab-runner is gone, and the service finds out by itself
    except BaseException as error:  # noqa: BLE001
        voice.complain(f"The hook met an error of its own ({type(error).__name__}: {error}). Please report it.")
    return system_failure()


def parse(arguments: "Sequence[str]") -> tuple[str, list[str], str]:
    """Return the hook's name, what it is about, and the service's socket."""
    words, path = list(arguments), variable(SOCKET_VARIABLE) or DEFAULT_SOCKET
    while len(words) > 1 and words[1] == "--gitlab-socket":
        path = words[2] if len(words) > 2 else ""
        del words[1:3]
    name, about = words[0] if words else "", words[1:]
    if name not in PATIENCE or not path or (name == "run" and len(about) != 2):
        raise HookError("Usage: runner gitlab (config | prepare | run SCRIPT STAGE | cleanup) [--gitlab-socket PATH]")
    return name, about, path


class Voice:
    """What gitlab-runner hears of a hook.

    It reads stdout and stderr apart, so that only what goes the same way stays in order. So our own sentences about a
    stage are on stdout, among its output. `config` prints JSON there, and an administrator sees what `cleanup` says.
    """

    def __init__(self, name: str) -> None:
        self.own = 1 if name in ("prepare", "run") else 2
        self.within_line = False

    def output(self, data: bytes) -> None:
        """Pass on output, as it is."""
        write(1, data)
        self.within_line = not data.endswith(b"\n")

    def say(self, lines: bytes) -> None:
        """Tell lines of ours, which start where no other one is."""
        write(self.own, b"\n" + lines if self.within_line and self.own == 1 else lines)
        self.within_line = False

    def complain(self, sentence: str) -> None:
        """Tell a sentence of the hook's own, the last one."""
        try:
            self.say(f"runner: {sentence}\n".encode(errors="replace"))
        except OSError:  # nobody reads it; the exit code says the rest
            return


class Hook:
    """One request, over as many connections as it takes."""

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
        """Return what goes with the request.

        That is the script of a stage, the job's variables for `prepare`, and the job response where there is no handle
        yet that says which job it is.
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
        # By systemd it comes to all processes of gitlab-runner's unit, and only says to take no more jobs.
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
    """When there was a connection last. One that is ended as soon as it is there does not count."""
    missed = 0.0
    """The same, of all hooks of the job up to this one."""
    told_of_waiting = False

    def await_service(self, error: UnreachableError) -> None:
        """Say so when the service is waited for. Raises HookError when that has been long enough."""
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
        """Pass on that gitlab-runner wants the end. Called within whatever waits; it goes on waiting then."""
        self.told_to_end = True
        if self.greeted:
            send_end(self.greeted)

    def connect(self, link: _socket.socket) -> None:
        """Connect, and say what this is about, and who called."""
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
        if self.told_to_end:  # before; the service takes it twice just as well
            send_end(link)

    def follow(self, frames: "Frames") -> bytes:
        """Pass on what comes. Returns the last word.

        `config` prints one document, so that is held until then: asked again, the service tells it again.
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
    """Return the sentence about a service that cannot be asked."""
    if isinstance(error, ForbiddenError):
        return (
            f"The runner's socket {path} is not for gitlab-runner's user ({error}). Add that user to the socket's "
            "group, and start gitlab-runner anew."
        )
    return f"The runner does not answer at {path} ({error}). Is `runner serve` running there?"


def leave(note: str, missed: float) -> None:
    """Tell later hooks of the job since when the service is missed, in the job's own folder at gitlab-runner."""
    try:
        with open(note, "w") as file:
            file.write(f"{missed}")
    except OSError:  # they wait as long as this one
        return


def take(note: str) -> float:
    """Return since when an earlier hook missed the service, which is over unless this one misses it too."""
    if not posix.access(note, posix.F_OK):  # there is none, mostly
        return time.monotonic()
    try:
        with open(note, "rb") as file:
            missed = float(file.read())
        posix.unlink(note)
    except (OSError, ValueError):  # the disk was full
        return time.monotonic()
    return missed


class Frames:
    """Cuts what comes over a connection into frames."""

    def __init__(self, link: _socket.socket) -> None:
        self.link = link
        self.held = bytearray()

    def receive(self) -> "Iterator[tuple[bytes, bytes]]":
        """Yield the frames that are complete by now. Waits for more bytes once, and not for long."""
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
    """Send the first byte, and with it a descriptor of gitlab-runner's process, which tells the service of its end."""
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
    """Tell the service of gitlab-runner's wish; that it does not take it is found out by reading."""
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

    Where it cannot be written, gitlab-runner would take the code of an earlier stage for this one's.
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
    """Return the exit code for everything that is not the script's failure."""
    return exit_code("SYSTEM_FAILURE_EXIT_CODE", 2)


def exit_code(name: str, default: int) -> int:
    """Return a code that gitlab-runner gave us."""
    given = variable(name)
    return int(given) if given.isdecimal() else default


def variable(name: str) -> str:
    """Return a variable of the environment, or nothing."""
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def read(path: str) -> bytes:
    """Return what a file holds."""
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
