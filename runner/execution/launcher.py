"""The launcher: the program in the sandbox that starts a script, or finds a running one again, and follows it.

The runner sends the launcher over the connection, together with the modules of `program.py`. It becomes two processes:

- the **follower** holds the connection. It is started before there is a job, and waits. Then it either creates the
  attempt's folder and hands the attempt to the supervisor, or looks for the supervisor of an attempt that was launched
  before. It sends the log as it grows and, after the log's last byte, how the script ended. Then it waits for the next
  script.
- the **supervisor** is detached, waits for one attempt, and runs its script to the end. It outlives the connection. It
  is forked before there is a job, because the fork takes a third of the time in which a job could start.

The launcher uses only the standard library of Python 3.11 or later, and runs with `-I -S`: of our modules it may import
only those of `program.py`. `wire.py` describes the frames. The launcher runs as the job's user, so a job can break it:
the runner trusts nothing that the launcher says.
"""
# pathlib costs milliseconds at every start
# ruff: noqa: PTH103, PTH114, PTH123, PTH208

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import select
import signal
import socket
import struct

from runner.execution.folder import Attempt, Folder, RefusedError, plain
from runner.execution.supervisor import SIZE, Supervisor, enlarge, run_briefly

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs milliseconds
    from collections.abc import Iterator
    from typing import NoReturn

STDIN, STDOUT = 0, 1
HEAD = struct.Struct(">cI")
CHUNK = 256 * 1024
REMOVAL_SECONDS = 60
LAUNCH_SECONDS = 300


class ConnectionGoneError(Exception):
    """The runner is no longer there."""


def main() -> None:
    """Greet the runner, then start or find again one script after another, as it asks, until the runner is gone."""
    warm_up()
    link = fork_supervisor()
    try:
        send_json(b"h", {"boot_id": boot_id()})
        while serve(link):
            reap()
            link = fork_supervisor()
    except (ConnectionGoneError, BrokenPipeError):
        pass


def warm_up() -> None:
    """Load what Python loads at its first use, so that the forked supervisors have it already."""
    with contextlib.suppress(KeyError):
        pwd.getpwuid(os.getuid())


def serve(link: socket.socket) -> bool:
    """Serve one request of the runner, with the supervisor that waits on `link`.

    Returns whether another request may follow: none may after a refused script.
    """
    kind, content = next_request()
    if kind == b"L":
        return launch(content, link)
    link.close()
    request = json.loads(content)
    folder = Folder(request["root"], request["attempt"])
    Follower(folder, find_supervisor(folder), request["offset"], request["log_limit"]).run()
    return True


def next_request() -> tuple[bytes, bytes]:
    """Return the kind and the content of the runner's next request."""
    while True:
        kind, size = read_head()
        content = b"".join(read_pieces(size))
        if kind in (b"L", b"F"):  # else it is a signal for a script that ended meanwhile
            return kind, content


def reap() -> None:
    """Collect supervisors that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# -- launching --------------------------------------------------------------------------------------------------------


def launch(request: bytes, link: socket.socket) -> bool:
    """Start a script and follow it. Returns whether it was started: if not, most of the sent bytes are unread."""
    try:
        attempt = Attempt(json.loads(request))
        hand_over(request, attempt, receive(attempt), link)
    except (OSError, RefusedError) as error:
        send_json(b"r", {"why": describe(error)})
        return False
    Follower(attempt, link, 0, attempt.log_limit).run()
    return True


def receive(attempt: Attempt) -> socket.socket:
    """Create the attempt's folder, with its scripts from the connection. Returns the socket at its address."""
    signal.alarm(LAUNCH_SECONDS)  # a connection may die silently, and somebody may wait for the result
    listener = attempt.create()
    if not attempt.filled:
        empty_workspace(attempt.workspace)
    for number in range(len(attempt.steps)):
        receive_script(attempt.script(number))
    signal.alarm(0)
    return listener


def receive_script(path: str) -> None:
    """Write the next script on the connection to a file."""
    _, size = read_head()
    script = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
    try:
        for piece in read_pieces(size):
            write_all(script, piece)
    finally:
        os.close(script)


def empty_workspace(path: str) -> None:
    """Make `path` an empty folder. Files that an earlier attempt left there may belong to root."""
    for remove in (["rm", "-rf", "--", path], ["sudo", "-n", "rm", "-rf", "--", path]):
        try:
            if not os.path.lexists(path) or not (os.path.islink(path) or os.listdir(path)):
                break
        except OSError:
            pass
        run_briefly(remove, REMOVAL_SECONDS)
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"The workspace {path} cannot be made: {error.strerror}.") from None
    if os.listdir(path):
        raise RefusedError(f"The workspace {path} holds files of an earlier attempt that cannot be removed.")


def hand_over(request: bytes, attempt: Attempt, listener: socket.socket, link: socket.socket) -> None:
    """Give an attempt to the supervisor that waits on `link`. From here on the supervisor owns it."""
    try:
        socket.send_fds(link, [SIZE.pack(len(request))], [listener.fileno(), attempt.log, attempt.record])
        link.sendall(request)
    except OSError:
        raise RefusedError("The process that was to see the script to its end was ended while it waited.") from None
    listener.close()


def fork_supervisor() -> socket.socket:
    """Fork a supervisor that waits for an attempt, and return the link to it."""
    mine, its = socket.socketpair()
    if os.fork() == 0:
        mine.close()
        supervise(its)
    its.close()
    return mine


def supervise(link: socket.socket) -> NoReturn:
    """Run as a supervisor until this process ends."""
    os.setsid()
    try:
        supervisor = Supervisor(link)
        if supervisor.take_over():
            supervisor.run()
    finally:
        os._exit(0)


# -- following --------------------------------------------------------------------------------------------------------


def find_supervisor(folder: Folder) -> socket.socket | None:
    """Return a link to the supervisor of an attempt that was launched before; None when the supervisor is gone.

    An unfinished launch holds the address too; its supervisor answers as soon as it has the attempt.
    """
    link = socket.socket(socket.AF_UNIX)
    link.setblocking(False)
    try:
        link.connect(folder.address)
    except OSError:
        link.close()
        return None
    link.setblocking(True)
    return link


class Follower:
    """Sends the log of one attempt while it grows, then how the script ended; passes on signals."""

    def __init__(self, folder: Folder, link: socket.socket | None, sent: int, limit: int) -> None:
        """Begin after `sent` bytes of the log, and send none beyond `limit`."""
        self.folder = folder
        self.link = link
        self.sent = sent
        self.limit = limit
        self.raw = b""
        self.progress: object = None

    def run(self) -> None:
        """Follow the script to its end."""
        enlarge(STDOUT)
        poller = select.poll()
        poller.register(STDIN, select.POLLIN)
        if self.link:
            poller.register(self.link, select.POLLIN)
        while self.link:
            for descriptor, _ in poller.poll():
                if descriptor == STDIN:
                    self.obey()
                elif hear_supervisor(self.link, self.folder):
                    self.send_log()
                    self.send_progress()
                else:
                    self.link.close()
                    self.link = None
                    break
        self.send_end()
        self.folder.close()

    def obey(self) -> None:
        """Pass on signals. After KILL, send no more of the log: the runner wants the end, not the rest of a flood."""
        _, size = read_head()
        words = b"".join(read_pieces(size))
        if self.link:
            tell_supervisor(self.link, words)
        if signal.SIGKILL in words:
            self.limit = min(self.limit, self.sent)

    def send_log(self) -> None:
        """Send the log as far as it is written."""
        log = self.folder.log
        size = os.fstat(log).st_size if log >= 0 else 0
        while self.sent < (end := min(size, self.limit, self.sent + CHUNK)):
            write_all(STDOUT, HEAD.pack(b"l", end - self.sent))
            while self.sent < end and (moved := os.sendfile(STDOUT, log, self.sent, end - self.sent)):
                self.sent += moved
            write_all(STDOUT, bytes(end - self.sent))  # the job shortened its log after we announced it
            self.sent = end
            while select.select([STDIN], [], [], 0)[0]:
                self.obey()

    def send_progress(self) -> None:
        """Send how far the steps are, if that changed. The job may have changed the record: the runner checks it."""
        raw = self.folder.read_raw_record()
        if raw == self.raw:  # true for nearly every piece of output
            return
        self.raw = raw
        if (steps := self.folder.read_record().get("steps")) and steps != self.progress:
            self.progress = steps
            send_json(b"s", {"steps": steps})

    def send_end(self) -> None:
        """Send the rest of the log, and the record if it is final. If it is not, the supervisor died.

        Only the files are left by now, and the job may have changed them.
        """
        if self.folder.log < 0:
            self.folder.open()
        record = self.folder.read_record()
        if isinstance(logged := record.get("logged"), int):
            self.limit = min(self.limit, logged)
        self.send_log()
        self.send_progress()
        if (kind := record.get("kind")) in ("starting", "running", "missing or unreadable"):
            send_json(b"x", {"why": f"The supervisor in the sandbox is gone, and its record is {kind}."})
        else:
            send_json(b"e", record)


def tell_supervisor(link: socket.socket, words: bytes) -> None:
    """Pass the numbers of signals on to the supervisor, unless the script ended meanwhile."""
    with contextlib.suppress(OSError):
        link.send(words)


def hear_supervisor(link: socket.socket, folder: Folder) -> bool:
    """Receive news, and the log and the record if they come with it. Returns whether the supervisor is still there.

    A supervisor that ended without reading our signals resets the link.
    """
    try:
        news, descriptors, _, _ = socket.recv_fds(link, 65536, 2)
    except ConnectionResetError:
        return False
    if len(descriptors) == 2 and folder.log < 0:
        folder.log, folder.record = map(plain, descriptors)
    return bool(news)


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
