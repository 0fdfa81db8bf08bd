"""The program that starts a script inside the sandbox. The runner sends its source over the connection.

Two processes come of it:

- the **follower** is on the connection. It waits there before there is a job, lays out the attempt's folder, starts the
  supervisor, and then sends the log as it grows and, after every byte of it, how the script ended.
- the **supervisor** is detached: it starts the script in a session of its own, moves its output to the log file,
  enforces the log's limit and the script's deadline, and records the end. It lives on when the connection does not.

They share one socket pair: the supervisor writes a byte when there is news, the follower writes the number of a signal
for the script. The end of file on it is the other's end.

One file, standard library only, Python 3.11 or later, run with `-I -S`: nothing here may import anything of ours.
Frames are described in `wire.py`. All of this runs as the job's user, so a job can break it: the runner trusts nothing
that it says.
"""
# pathlib costs milliseconds at every start
# ruff: noqa: PTH102, PTH103, PTH114, PTH118, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pwd
import select
import signal
import socket
import struct
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs milliseconds
    from collections.abc import Iterator
    from typing import Any, NoReturn

STDIN, STDOUT = 0, 1
HEAD = struct.Struct(">cI")
CHUNK = 256 * 1024
PIPE_SIZE = 1024 * 1024  # the most that an unprivileged process may ask for
RECORD_SIZE = 4096
SPLICE_NONBLOCK = 2
PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_SECONDS = 5
REMOVAL_SECONDS = 60
SHELL = ("/bin/bash", "-eo", "pipefail")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RefusedError(Exception):
    """The script cannot be started, for the reason given."""


class ConnectionGoneError(Exception):
    """The runner is no longer there."""


class Attempt:
    """The launch request, and the folder that keeps what the attempt leaves: `script`, `log` and `record`."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.root: str = header["root"]
        self.folder: str = os.path.join(self.root, header["attempt"])
        self.script: str = os.path.join(self.folder, "script")
        self.workspace: str = header["workspace"]
        self.args: list[str] = header["args"]
        self.environment: dict[str, str] = header["environment"]
        self.timeout: float | None = header["timeout"]
        self.grace: float = header["grace"]
        self.log_limit: int = header["log_limit"]
        self.log = self.record = -1

    def lay_out(self) -> None:
        """Make the folder, which fails when this attempt was laid out before, and an empty workspace."""
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            raise RefusedError("This attempt was started here before. A script starts at most once.") from None
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self.log = os.open(os.path.join(self.folder, "log"), flags, 0o600)
        self.record = os.open(os.path.join(self.folder, "record"), flags, 0o600)
        # Blocks for the record are taken now, so that a full disk cannot lose how the script ended.
        os.posix_fallocate(self.record, 0, RECORD_SIZE)
        self.write_record({"kind": "starting"})
        empty_workspace(self.workspace)

    def write_record(self, record: dict[str, object]) -> None:
        """Overwrite the record, without a sync: it outlives every process, and a host's crash ends the sandbox too."""
        os.pwrite(self.record, json.dumps(record).encode().ljust(RECORD_SIZE), 0)

    def read_record(self) -> dict[str, Any]:
        """Return the record as it is now; `kind` says whether it is final."""
        record: dict[str, Any] = json.loads(os.pread(self.record, RECORD_SIZE, 0))
        return record

    def command(self) -> list[str]:
        """Return what to execute: the script by its own first line, or by the shell when it names no interpreter."""
        with open(self.script, "rb") as script:
            own = script.read(2) == b"#!"
        return [self.script, *self.args] if own else [*SHELL, self.script, *self.args]

    def variables(self) -> dict[bytes, bytes]:
        """Return the script's environment: the defaults below and the job's own on top."""
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
        merged = {**defaults, **self.environment}
        return {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in merged.items()}


def empty_workspace(path: str) -> None:
    """Make `path` an empty folder. What an earlier attempt left there may belong to root."""
    for remove in (["rm", "-rf", "--", path], ["sudo", "-n", "rm", "-rf", "--", path]):
        try:
            if not os.path.lexists(path) or not (os.path.islink(path) or os.listdir(path)):
                break
        except OSError:
            pass
        run_briefly(remove)
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"The workspace {path} cannot be made: {error.strerror}.") from None
    if os.listdir(path):
        raise RefusedError(f"The workspace {path} holds files of an earlier attempt that cannot be removed.")


def run_briefly(command: list[str]) -> None:
    """Run a helper to its end, or kill it when it takes too long. The caller looks at what it did."""
    null = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    try:
        pid = os.posix_spawnp(command[0], command, {"PATH": PATH}, file_actions=[null])
    except OSError:
        return
    descriptor = os.pidfd_open(pid)
    if not select.select([descriptor], [], [], REMOVAL_SECONDS)[0]:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(descriptor)


# -- the supervisor ---------------------------------------------------------------------------------------------------


class Supervisor:
    """Starts the script and sees it to its end, whether or not anyone follows."""

    def __init__(self, attempt: Attempt, link: socket.socket) -> None:
        self.attempt = attempt
        self.link: socket.socket | None = link
        self.logged = self.dropped = 0
        self.log_error = ""
        self.script = 0
        self.status: int | None = None
        self.timed_out = False
        self.steps: list[tuple[float, int]] = []
        self.null = os.open(os.devnull, os.O_RDWR)
        self.output, self.output_end = os.pipe()
        self.wakeup, self.wakeup_end = os.pipe()

    def run(self) -> None:
        """Run the script and record how it ended."""
        try:
            self.start()
        except OSError as error:
            self.finish({"kind": "start_failed", "errno": error.errno, "text": error.strerror})
            return
        while self.status is None:
            self.wait_for_news()
        # The script's end is the attempt's: take what was written, and do not wait for children that hold its stdout.
        self.pump(waiting_bytes(self.output))
        code = os.waitstatus_to_exitcode(self.status)
        kind = "timed_out" if self.timed_out else "exited" if code >= 0 else "signaled"
        self.finish({"kind": kind, "code": abs(code)})
        kill_leftovers()

    def start(self) -> None:
        """Start the script in a session of its own."""
        self.become_detached()
        os.chdir(self.attempt.workspace)
        os.umask(0o022)
        command = self.attempt.command()
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, self.output_end, target) for target in (1, 2)]
        variables = self.attempt.variables()
        everything = range(1, signal.NSIG)
        self.script = os.posix_spawn(
            command[0], command, variables, file_actions=actions, setsid=True, setsigmask=(), setsigdef=everything
        )
        os.close(self.output_end)
        if self.attempt.timeout is not None:
            # The monotonic clock: a job that is root may set the other one.
            end = time.monotonic() + self.attempt.timeout
            self.steps = [(end, signal.SIGTERM), (end + self.attempt.grace, signal.SIGKILL)]
        own = {"supervisor": identity(os.getpid()), "script": identity(self.script)}
        self.attempt.write_record({"kind": "running", **own})

    def become_detached(self) -> None:
        """Leave the connection's session, adopt what the script orphans, and turn signals into readable bytes."""
        for descriptor in (0, 1, 2):
            os.dup2(self.null, descriptor)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        enlarge(self.output)
        for descriptor in (self.output, self.wakeup, self.wakeup_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self.wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poller = select.poll()
        assert self.link is not None
        self.link.setblocking(False)
        for descriptor in (self.output, self.wakeup, self.link.fileno()):
            self.poller.register(descriptor, select.POLLIN)

    def wait_for_news(self) -> None:
        """Sleep until there is output, a dead child, a word from the follower or a deadline, and handle it."""
        timeout = max(0.0, self.steps[0][0] - time.monotonic()) * 1000 + 1 if self.steps else None
        for descriptor, _ in self.poller.poll(timeout):
            if descriptor == self.output:
                self.pump(PIPE_SIZE)
            elif descriptor == self.wakeup:
                os.read(self.wakeup, 4096)
                self.reap()
            else:
                self.obey()
        while self.steps and time.monotonic() >= self.steps[0][0]:
            self.timed_out = True
            self.kill(self.steps.pop(0)[1])

    def pump(self, count: int) -> None:
        """Move up to `count` bytes of output to the log, and to nowhere once the log is full."""
        while count > 0:
            room = 0 if self.log_error else self.attempt.log_limit - self.logged
            try:
                target = self.attempt.log if room > 0 else self.null
                moved = os.splice(self.output, target, min(count, room or count), flags=SPLICE_NONBLOCK)
            except BlockingIOError:
                return
            except OSError as error:  # above all a full disk: what follows is dropped, so that the log has no hole
                self.log_error = error.strerror or str(error)
                continue
            if moved == 0:  # every writer closed it
                self.poller.unregister(self.output)
                return
            count -= moved
            if room > 0:
                self.logged += moved
                self.tell()
            else:
                self.dropped += moved

    def tell(self) -> None:
        """Wake the follower, if it is there. A full socket means that it was woken already."""
        with contextlib.suppress(OSError):
            if self.link:
                self.link.send(b".")

    def obey(self) -> None:
        """Pass on the signals that the follower asks for."""
        assert self.link is not None
        try:
            words = self.link.recv(64)
        except OSError:
            words = b""
        if not words:
            self.poller.unregister(self.link.fileno())
            self.link = None
        for number in words:
            self.kill(number)

    def kill(self, number: int) -> None:
        """Signal the script's process group. Its id is safe from reuse until the script was reaped."""
        if self.status is None:
            with contextlib.suppress(OSError):
                os.killpg(self.script, number)

    def reap(self) -> None:
        """Collect dead children: the script, and orphans of it that were adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.script:
                self.status = status

    def finish(self, end: dict[str, object]) -> None:
        """Write the final record, and only then let the follower know."""
        counts = {"logged": self.logged, "dropped": self.dropped, "log_error": self.log_error}
        self.attempt.write_record({**end, **counts})
        if self.link:
            self.link.close()


def kill_leftovers() -> None:
    """Kill every process that the script left behind. Those of other users stay; the host's side ends them."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LEFTOVER_SECONDS)
    me = os.getpid()
    with contextlib.suppress(OSError):  # there is no child left
        while True:
            with open(f"/proc/{me}/task/{me}/children") as children:
                for pid in children.read().split():
                    with contextlib.suppress(OSError):
                        os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


def enlarge(pipe: int) -> None:
    """Make a pipe as large as may be. What is no pipe stays as it is, and so do pipes beyond the user's share."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


def waiting_bytes(pipe: int) -> int:
    """Return how many bytes can be read from a pipe now."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return count


def identity(pid: int) -> list[int]:
    """Return a process's id and start time (clock ticks since boot), which together are never reused."""
    with open(f"/proc/{pid}/stat") as stat:
        return [pid, int(stat.read().rpartition(")")[2].split()[19])]


# -- the follower -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Greet the runner, wait for its job, start it and follow it."""
    try:
        send_json(b"h", {"uid": os.getuid(), "boot_id": boot_id(), "python": sys.version.split()[0]})
        try:
            attempt = receive_launch()
        except (OSError, RefusedError) as error:
            send_json(b"r", {"why": describe(error)})
            return
        link = start_supervisor(attempt)
        follow(attempt, link)
    except (ConnectionGoneError, BrokenPipeError):
        pass


def receive_launch() -> Attempt:
    """Read the job from the connection and lay it out on disk."""
    _, size = read_head()
    attempt = Attempt(json.loads(b"".join(read_pieces(size))))
    attempt.lay_out()
    _, size = read_head()
    script = os.open(attempt.script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
    try:
        for piece in read_pieces(size):
            write_all(script, piece)
    finally:
        os.close(script)
    return attempt


def start_supervisor(attempt: Attempt) -> socket.socket:
    """Fork the supervisor and return the socket to it."""
    mine, its = socket.socketpair()
    if os.fork() == 0:
        supervise(attempt, mine, its)
    its.close()
    return mine


def supervise(attempt: Attempt, follower: socket.socket, link: socket.socket) -> NoReturn:
    """Be the supervisor, to the end of this process."""
    follower.close()
    os.setsid()
    try:
        Supervisor(attempt, link).run()
    finally:
        os._exit(0)


def follow(attempt: Attempt, link: socket.socket) -> None:
    """Send the log while it grows, then how the script ended; pass on signals."""
    sent = 0
    enlarge(STDOUT)
    poller = select.poll()
    poller.register(STDIN, select.POLLIN)
    poller.register(link, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == STDIN:
                _, size = read_head()
                tell_supervisor(link, b"".join(read_pieces(size)))
                continue
            more = hear_supervisor(link)
            sent = send_log(attempt.log, sent)
            if not more:
                send_end(attempt)
                return


def tell_supervisor(link: socket.socket, words: bytes) -> None:
    """Pass on the numbers of signals, unless the script ended meanwhile."""
    with contextlib.suppress(OSError):
        link.send(words)


def hear_supervisor(link: socket.socket) -> bytes:
    """Return news, nothing at their end. A supervisor that ended with our words unread resets the link."""
    try:
        return link.recv(65536)
    except ConnectionResetError:
        return b""


def send_log(log: int, sent: int) -> int:
    """Send what the log holds beyond `sent` bytes, and return how much was sent in all."""
    size = os.fstat(log).st_size
    while sent < size:
        count = min(CHUNK, size - sent)
        write_all(STDOUT, HEAD.pack(b"l", count))
        end = sent + count
        while sent < end and (moved := os.sendfile(STDOUT, log, sent, end - sent)):
            sent += moved
        write_all(STDOUT, bytes(end - sent))  # the job shortened its log after we announced it
        sent = end
    return sent


def send_end(attempt: Attempt) -> None:
    """Send the record if it is final; without that, the supervisor died."""
    try:
        record = attempt.read_record()
    except (OSError, ValueError):
        record = {"kind": "unreadable"}
    if record.get("kind") in ("starting", "running", "unreadable"):
        send_json(b"x", {"why": f"The supervisor in the sandbox died; its record says {record['kind']}."})
    else:
        send_json(b"e", record)


def describe(error: Exception) -> str:
    """Return an error as a sentence."""
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "an error")
        return f"Laying out the attempt at {error.filename or 'its folder'} failed: {error.strerror} ({name})."
    return str(error)


def boot_id() -> str:
    """Return the id of the host's current boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def read_head() -> tuple[bytes, int]:
    """Read a frame's type and size."""
    kind, size = HEAD.unpack(b"".join(read_pieces(HEAD.size)))
    return kind, size


def read_pieces(size: int) -> Iterator[bytes]:
    """Read exactly `size` bytes from the connection."""
    while size > 0:
        piece = os.read(STDIN, min(size, CHUNK))
        if not piece:
            raise ConnectionGoneError
        yield piece
        size -= len(piece)


def send(kind: bytes, payload: bytes) -> None:
    """Send one frame."""
    write_all(STDOUT, HEAD.pack(kind, len(payload)) + payload)


def send_json(kind: bytes, document: dict[str, object]) -> None:
    """Send one frame that holds a JSON object."""
    send(kind, json.dumps(document).encode())


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
