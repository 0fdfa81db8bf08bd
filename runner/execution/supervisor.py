"""The supervisor: the process in the sandbox that runs one job to its end, whether or not anyone follows.

It is detached from every connection, and waits for an attempt from the launcher. It starts the job's steps one after
the other, each in a session of its own, moves their output to the log file, enforces the log's limit and the deadlines,
and records the steps' progress and the end. A job that is one script is one step without a name. The runner sends the
supervisor into the sandbox with `launcher.py`, whose rules apply: standard library only, Python 3.11 or later, no slow
imports.

Each follower has a link to the supervisor, a stream socket: the supervisor writes a byte when there is news, the
follower writes the number of a signal for the script, and the end of file means that the other side is gone. The first
link exists before the attempt, which arrives over it; later followers connect to the attempt's address, and receive the
open log and record.
"""
# pathlib costs milliseconds at every start
# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time

from runner.execution.folder import MAX_LINKS, PATH, Attempt
from runner.execution.plan import Row, allows, deciding, wanted

PIPE_SIZE = 1024 * 1024  # the most that an unprivileged process may ask for
SPLICE_NONBLOCK = 2
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None)
LEFTOVER_SECONDS = 5
HELP_SECONDS = 2
"""Time for root's help with signals."""
SIGNALS = signal.valid_signals()
SIZE = struct.Struct(">I")
"""The request's size in bytes, sent before the request on the link."""


class Supervisor:
    """Runs the steps to their end, whether or not anyone follows."""

    attempt: Attempt
    listener: socket.socket
    rows: list[Row]

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.links = {link.fileno(): link}
        self.logged = self.dropped = self.removed = 0
        self.log_error = ""
        self.script = 0
        self.status: int | None = 0
        self.identity = identity(os.getpid())
        """The identity of this process, read once: a job that closes / to us closes /proc as well."""
        self.ends: dict[int, dict[str, object]] = {}
        """How the steps that ran ended, for the record."""
        self.deadline: float | None = None
        self.timed_out = self.ending = False
        self.escalation: list[tuple[float, int]] = []
        self.mercy = float("inf")
        """When the script's leftover processes must have ended, once somebody wants their end (monotonic clock)."""
        self.signalled = 0
        """The process group that was signalled last."""
        self.null = os.open(os.devnull, os.O_RDWR)
        self.output, self.output_end = os.pipe()
        self.marks, self.marks_end = os.pipe()
        self.wakeup, self.wakeup_end = os.pipe()
        self.become_detached()

    def take_over(self) -> bool:
        """Wait for an attempt from `launcher.hand_over`. Returns whether an attempt came before the runner left."""
        head, descriptors, _, _ = socket.recv_fds(self.link, SIZE.size, 3)
        if not head:
            return False
        (size,) = SIZE.unpack(head)
        request = self.link.recv(size, socket.MSG_WAITALL)
        if len(request) < size:
            return False
        self.attempt = Attempt(json.loads(request))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds makes them inheritable, whatever its flags
        listener, self.attempt.log, self.attempt.record = descriptors
        self.listener = socket.socket(fileno=listener)
        self.rows = [Row() for _ in self.attempt.steps]
        for source in (self.listener, self.link):
            source.setblocking(False)
            self.poller.register(source, select.POLLIN)
        return True

    def run(self) -> None:
        """Run the steps and record how the job ended."""
        if self.attempt.timeout is not None:
            # The monotonic clock: a job that is root may set the wall clock.
            self.deadline = time.monotonic() + self.attempt.timeout
        for number in range(len(self.rows)):
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.timed_out = self.ending = True
            if self.ending:
                self.rows[number].state = "skipped"
            else:
                self.take(number)
        # Only after a request for the end does somebody wait for the leftover processes to end.
        left = self.end_leftovers() if self.ending else 0
        self.finish({**self.end(), "left": left})
        self.kill_leftovers()

    def end(self) -> dict[str, object]:
        """Return how the job ended: as the first step that failed did."""
        number = deciding(self.rows)
        if self.timed_out:
            return {"kind": "timed_out", "code": self.rows[number].code if number is not None else 0}
        if number is None:
            return {"kind": "exited", "code": 0}
        return {**self.ends[number], "step": number}

    def take(self, number: int) -> None:
        """Run a step, or skip it if its conditions do not hold."""
        row, step = self.rows[number], self.attempt.steps[number]
        if not wanted(number, self.attempt.steps, self.rows, self.attempt.environment):
            row.state = "skipped"
            self.mark(number, "skipped")
            self.record()
            return
        self.mark(number, "begins")
        began = time.monotonic()
        try:
            self.start(number)
        except OSError as error:
            code = 127 if error.errno == errno.ENOENT else 126
            end: dict[str, object] = {"kind": "start_failed", "errno": error.errno, "text": error.strerror}
        else:
            code, end = self.see_to_its_end(began, step["timeout"])
        row.seconds, row.code = time.monotonic() - began, code
        timed_out = end["kind"] == "step_timed_out"
        if self.ending:
            row.state = "interrupted"
        elif code or timed_out:
            row.state, row.allowed = "timed_out" if timed_out else "failed", allows(step, code, timed_out=timed_out)
        else:
            row.state = "succeeded"
        self.ends[number] = end
        self.mark(number, row.state)
        self.record()

    def see_to_its_end(self, began: float, timeout: float | None) -> tuple[int, dict[str, object]]:
        """Wait for the end of the running script; return its exit code, as a shell would, and how it ended."""
        end = min((end for end in (self.deadline, timeout and began + timeout) if end), default=None)
        self.escalation = [] if end is None else [(end, signal.SIGTERM), (end + self.attempt.grace, signal.SIGKILL)]
        while self.status is None:
            self.wait_for_news()
        late = end is not None and len(self.escalation) < 2
        self.escalation = []
        # The step ends with its script: take the written output, and do not wait for children that hold its stdout.
        self.pump(self.output, waiting_bytes(self.output))
        self.timed_out = late and end == self.deadline
        self.ending |= self.timed_out
        code = os.waitstatus_to_exitcode(self.status)
        kind = "step_timed_out" if late and not self.timed_out else "exited" if code >= 0 else "signaled"
        return code if code >= 0 else 128 - code, {"kind": kind, "code": abs(code)}

    def start(self, number: int) -> None:
        """Start a step's script in a session of its own."""
        os.chdir(self.attempt.workspace)
        command = self.attempt.command(number)
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, self.output_end, target) for target in (1, 2)]
        variables = self.attempt.variables(number)
        self.status = None
        try:
            self.script = os.posix_spawn(
                command[0], command, variables, file_actions=actions, setsid=True, setsigmask=(), setsigdef=SIGNALS
            )
        except OSError:
            self.status = 0
            raise
        self.rows[number].state = "running"
        self.record()

    def record(self) -> None:
        """Write the steps' progress to the record, and wake the followers."""
        own = {"supervisor": self.identity, "script": identity(self.script) if self.status is None else []}
        self.attempt.write_record({"kind": "running", **own, **self.progress()})
        self.tell()

    def progress(self) -> dict[str, object]:
        """Return the steps' progress; nothing for a job that is one script."""
        return {"steps": [row.to_json() for row in self.rows]} if self.attempt.steps[0]["name"] else {}

    def mark(self, number: int, what: str) -> None:
        """Write a line to the log that says that a step begins, or how it ended."""
        name, row = self.attempt.steps[number]["name"], self.rows[number]
        if not name:
            return
        exact = f" with exit code {row.code}" if what == "failed" else ""
        allowed = ", which is allowed" if row.allowed else ""
        after = "" if what in ("begins", "skipped") else f" after {row.seconds:.1f} s"
        self.pump(self.output, waiting_bytes(self.output))
        start = b"" if self.at_line_start() else b"\n"
        said = what.replace("_", " ") + exact + after + allowed
        line = f"runner: step {number + 1} of {len(self.rows)}, {name}: {said}\n"
        self.pump(self.marks, os.write(self.marks_end, start + line.encode()))

    def at_line_start(self) -> bool:
        """Whether the log is empty or ends with a line."""
        return self.logged == 0 or os.pread(self.attempt.log, 1, self.logged - 1) == b"\n"

    def become_detached(self) -> None:
        """Leave the connection's session, adopt the script's orphans, and turn signals into readable bytes."""
        for descriptor in (0, 1, 2):
            os.dup2(self.null, descriptor)
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.umask(0o022)
        enlarge(self.output)
        for descriptor in (self.output, self.marks, self.wakeup, self.wakeup_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self.wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poller = select.poll()
        for descriptor in (self.output, self.wakeup):
            self.poller.register(descriptor, select.POLLIN)

    def wait_for_news(self) -> None:
        """Wait for output, a dead child, a follower's message or a deadline, and handle it."""
        timeout = max(0.0, self.escalation[0][0] - time.monotonic()) * 1000 + 1 if self.escalation else None
        for descriptor, _ in self.poller.poll(timeout):
            if descriptor == self.output:
                self.pump(self.output, PIPE_SIZE)
            elif descriptor == self.wakeup:
                os.read(self.wakeup, 4096)
                self.reap()
            elif descriptor == self.listener.fileno():
                self.welcome()
            elif descriptor in self.links:
                self.obey(self.links[descriptor])
        while self.escalation and time.monotonic() >= self.escalation[0][0]:
            self.kill(self.escalation.pop(0)[1])

    def pump(self, source: int, count: int) -> None:
        """Move up to `count` bytes from a pipe to the log, or drop them once the log is full."""
        while count > 0:
            room = 0 if self.log_error else self.attempt.log_limit - self.logged
            removed = self.logged - os.fstat(self.attempt.log).st_size
            try:
                target = self.attempt.log if room > 0 else self.null
                moved = os.splice(source, target, min(count, room or count), flags=SPLICE_NONBLOCK)
            except BlockingIOError:
                return
            except OSError as error:  # above all a full disk: later output is dropped, so that the log has no hole
                self.log_error = error.strerror or str(error)
                continue
            count -= moved
            if room > 0:
                self.logged += moved
                self.removed += max(0, removed)  # now a hole: later output keeps its offset
                self.tell()
            else:
                self.dropped += moved

    def tell(self) -> None:
        """Wake the followers. A full socket means that its follower was woken already."""
        for link in self.links.values():
            with contextlib.suppress(OSError):
                link.send(b".")

    def welcome(self) -> None:
        """Accept a follower, and send it the log and the record: the job may have removed them from the folder."""
        with contextlib.suppress(OSError):
            link, _ = self.listener.accept()
            link.setblocking(False)
            socket.send_fds(link, [b"."], [self.attempt.log, self.attempt.record])
            if len(self.links) == MAX_LINKS:
                self.forget(next(iter(self.links.values())))  # the oldest: its connection may be long dead
            self.links[link.fileno()] = link
            self.poller.register(link, select.POLLIN)

    def obey(self, link: socket.socket) -> None:
        """Pass on the signals that a follower asks for."""
        try:
            words = link.recv(64)
        except OSError:
            words = b""
        if not words:
            self.forget(link)
        for number in words:
            self.ending = True
            self.mercy = min(self.mercy, 0 if number == signal.SIGKILL else time.monotonic() + self.attempt.grace)
            self.kill(number)

    def forget(self, link: socket.socket) -> None:
        """Close the link to a follower."""
        self.poller.unregister(link)
        del self.links[link.fileno()]
        link.close()

    def kill(self, number: int) -> None:
        """Signal the script's process group. The kernel does not reuse its id until the script is reaped.

        A `sudo` still belongs to its user: it takes the signal, and passes it on to the program that it runs.
        """
        if self.status is None:
            self.signalled = self.script
            with contextlib.suppress(OSError):
                os.killpg(self.script, number)

    def reap(self) -> int:
        """Collect dead children (the script and its adopted orphans), and return their number."""
        count = 0
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return count
            if pid == 0:
                return count
            count += 1
            if pid == self.script:
                self.status = status

    def end_leftovers(self) -> int:
        """Give the script's leftover processes the grace to end, then kill them; return how many are left.

        Each process gets TERM once: for many programs a second TERM means "at once".
        """
        if self.timed_out and self.deadline is not None:
            self.mercy = min(self.mercy, self.deadline + self.attempt.grace)
        told: set[int] = set()
        while (left := children()) and time.monotonic() < self.mercy:
            new = [pid for pid in left if pid not in told and not in_reach(pid, self.signalled)]
            signal_all(signal.SIGTERM, new)
            told.update(left)
            self.escalation = [(self.mercy, signal.SIGKILL)]  # only to limit the wait: the script is over
            self.wait_for_news()
        self.escalation = []
        return self.kill_leftovers()

    def kill_leftovers(self) -> int:
        """Kill every process that the script left behind, within `LEFTOVER_SECONDS`, and return how many are left.

        A process that loses its parent meanwhile becomes our child.
        """
        end = time.monotonic() + LEFTOVER_SECONDS
        while (left := children()) and (seconds := end - time.monotonic()) > 0:
            signal_all(signal.SIGKILL, left)
            if self.reap() == 0 and select.select([self.wakeup], [], [], seconds)[0]:
                os.read(self.wakeup, 4096)
        return len(left)

    def finish(self, end: dict[str, object]) -> None:
        """Write the final record, and only then tell the followers."""
        counts = {"logged": self.logged, "dropped": self.dropped, "removed": self.removed}
        self.attempt.write_record({**end, **counts, "log_error": self.log_error, **self.progress()})
        for _ in range(MAX_LINKS):  # late followers: the job may have removed the folder, their only other way
            self.welcome()
        for link in (self.listener, *self.links.values()):
            link.close()


def children() -> list[int]:
    """Return the ids of our children, including dead ones that are not collected yet."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children") as ids:
        return [int(pid) for pid in ids.read().split()]


def in_reach(pid: int, group: int) -> bool:
    """Whether our signals to a process group reach a process."""
    try:
        os.kill(pid, 0)
        return os.getpgid(pid) == group
    except OSError:  # above all a process of another user
        return False


def signal_all(number: int, pids: list[int]) -> None:
    """Signal processes; use root's help for those that became another user's."""
    refused = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except PermissionError:
            refused.append(str(pid))
        except OSError:
            pass
    if refused:
        run_briefly(["sudo", "-n", "sh", "-c", f'kill -{number} "$@"', "sh", *refused], HELP_SECONDS)


def run_briefly(command: list[str], seconds: float) -> None:
    """Run a helper to its end, or kill it when it takes too long. The caller checks the result."""
    null = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    try:
        pid = os.posix_spawnp(command[0], command, {"PATH": PATH}, file_actions=[null])
    except OSError:
        return
    descriptor = os.pidfd_open(pid)
    if select.select([descriptor], [], [], seconds)[0]:
        os.waitpid(pid, 0)
    else:
        with contextlib.suppress(OSError):  # a helper that is root by now cannot be killed
            os.kill(pid, signal.SIGKILL)  # collected like any other child
    os.close(descriptor)


def enlarge(pipe: int) -> None:
    """Make a pipe as large as allowed. Leave alone what is no pipe, and pipes beyond the user's share."""
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
