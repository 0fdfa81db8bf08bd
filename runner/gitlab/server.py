"""The hooks' socket: one connection for each hook, and one table from a hook's verb to its handler."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from runner.errors import DetachedError, GitLabError, RunnerError, StateError
from runner.execution.cancellation import Cancellation
from runner.gitlab import wire
from runner.gitlab.jobs import Jobs
from runner.gitlab.live import Live
from runner.gitlab.managers import Manager, Managers
from runner.gitlab.stages import Stage, end_label, stage_label
from runner.gitlab.wire import Done, End, Request, SystemFailed, Verb
from runner.logs import Action, Events
from runner.metrics import Metrics

_events = Events(__name__)

REQUEST_DEADLINE: Final = 60.0
"""Seconds for a hook to send its request."""
TAKE_DEADLINE: Final = 3600.0
"""Seconds for a hook to take the output that it is sent: it passes it on to gitlab-runner, which may be slow."""
ACCEPT_PAUSE: Final = 0.5
"""Seconds after a failure before hooks are accepted again."""
_CHUNK: Final = 256 * 1024
_BACKLOG: Final = 128


class Hook:
    """One hook's connection, and the `Listener` for its output."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.cancellation = Cancellation()

    async def request(self) -> Request:
        """Return the hook's request. Errors: GitLabError, which the hook has been told."""
        try:
            words = await self._frame(b"Q")
            return wire.parse_request(words, await self._frame(b"B"))
        except GitLabError as error:
            await self._refuse(f"{error}")
            raise

    async def _refuse(self, why: str) -> None:
        """Answer an unreadable request, so that the hook does not retry. Reads the rest: only then the hook listens."""
        await self.finish(SystemFailed(why))
        with contextlib.suppress(OSError):
            while await self._reader.read(_CHUNK):
                pass

    async def listen(self) -> None:
        """Listen for gitlab-runner's request for the end, and for the hook's own end, which means the same."""
        while True:
            try:
                await self._frame(b"T")
            except (GitLabError, OSError, asyncio.IncompleteReadError):
                return self.cancellation.request("the end of its hook")
            self.cancellation.request("GitLab")

    async def out(self, data: bytes) -> None:
        """Send the stage's own output."""
        await self._pass_on(b"o", data)

    async def aside(self, data: bytes) -> None:
        """Send other output, which does not count towards a hook's offset."""
        await self._pass_on(b"a", data)

    async def _pass_on(self, kind: bytes, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            await self._send(wire.encode(kind, data[start : start + _CHUNK]))

    async def tell(self, sentence: str) -> None:
        """Send a line of the runner's own."""
        await self._send(wire.encode(b"e", f"runner: {sentence}\n".encode(errors="replace")))

    async def finish(self, end: End) -> None:
        """Send the last word."""
        await self._send(wire.encode_end(end))

    def close(self) -> None:
        """End the connection once the hook has taken everything."""
        self._writer.close()

    async def _frame(self, wanted: bytes) -> bytes:
        kind, size = wire.check_head(await self._reader.readexactly(wire.HEAD.size))
        if kind != wanted:
            raise GitLabError(f"The hook sent something out of turn. {wire.VERSIONS}")
        return await self._reader.readexactly(size)

    async def _send(self, data: bytes) -> None:
        """Send as fast as the hook takes the data. If the hook is gone or takes nothing for long, drop the data."""
        with contextlib.suppress(OSError, TimeoutError):
            self._writer.write(data)
            async with asyncio.timeout(TAKE_DEADLINE):
                await self._writer.drain()


class Server:
    """Listens from `open` to `close`."""

    def __init__(self, path: Path, jobs: Jobs, metrics: Metrics) -> None:
        self._path = path
        self._jobs = jobs
        self._metrics = metrics
        self._hooks: set[asyncio.Task[None]] = set()
        self._managers = Managers()
        jobs.on_end = self._managers.forget
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._accepting: asyncio.Task[None] | None = None
        self._handlers: Final[Mapping[Verb, Callable[[Request, Hook, Manager], Awaitable[End]]]] = {
            Verb.CONFIG: self._config,
            Verb.PREPARE: self._prepare,
            Verb.RUN: self._run,
            Verb.CLEANUP: self._cleanup,
        }

    def open(self) -> None:
        """Listen. Only the socket's owner and group reach it. Raises StateError."""
        try:
            self._path.unlink(missing_ok=True)
            self._listener.bind(str(self._path))
            self._path.chmod(0o660)
            self._listener.listen(_BACKLOG)
        except OSError as error:
            raise StateError(f"The hooks' socket {self._path} cannot be made: {error.strerror or error}.") from error
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept no more hooks. The connected hooks notice, and ask the next life."""
        if self._accepting:
            self._accepting.cancel()
        self._listener.close()
        for hook in self._hooks:
            hook.cancel()
        self._managers.close()

    async def _accept(self) -> None:
        """Accept hooks despite any error: a stop here would be noticed only at GitLab's next job."""
        told = ""
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            except OSError as error:  # for example too many open files, which passes
                if told != str(error):
                    _events.warning(Action.HOOK_UNREADABLE, f"no hook can be taken, trying again: {error}")
                told = str(error)
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            told = ""
            task = asyncio.create_task(self._serve(connection))
            self._hooks.add(task)
            task.add_done_callback(self._hooks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            try:
                async with asyncio.timeout(REQUEST_DEADLINE):
                    manager = await _greeting(connection)
                    stack.callback(manager.close)
                    hook = Hook(*await asyncio.open_unix_connection(sock=connection))
                    stack.callback(hook.close)
                    request = await hook.request()
            except (OSError, TimeoutError, EOFError, GitLabError) as error:
                _events.info(Action.HOOK_UNREADABLE, f"a hook's request cannot be read: {error}")
                connection.close()
                return
            listening = asyncio.create_task(hook.listen())
            stack.callback(listening.cancel)
            with contextlib.suppress(DetachedError):  # without a last word, the hook asks the next life
                await hook.finish(await self._timed(request, hook, manager))

    async def _timed(self, request: Request, hook: Hook, manager: Manager) -> End:
        began = time.monotonic()
        end = await self._answer(request, hook, manager)
        labels = (stage_label(request.stage) if request.verb is Verb.RUN else request.verb, end_label(end))
        self._metrics.gitlab_stage.labels(*labels).observe(time.monotonic() - began)
        return end

    async def _answer(self, request: Request, hook: Hook, manager: Manager) -> End:
        try:
            return await self._handlers[request.verb](request, hook, manager)
        except DetachedError:
            raise
        except RunnerError as error:
            return SystemFailed(str(error))
        except Exception as error:  # noqa: BLE001 - the hook gets an answer whatever the error
            _events.error(Action.DEFECT, "a hook met a defect in the runner", error=error)
            return SystemFailed("The runner met an error of its own. Please report it with the runner's log.")

    async def _config(self, request: Request, hook: Hook, manager: Manager) -> End:
        live, answer = self._jobs.configure(request.body)
        self._watch(live, manager)
        await hook.out(json.dumps(answer).encode())
        return Done()

    async def _prepare(self, request: Request, hook: Hook, manager: Manager) -> End:
        live = self._jobs.find(request.handle)
        self._watch(live, manager)
        with live.heard_of():
            await self._jobs.admit(live, hook, hook.cancellation)
            return await live.prepare(hook, hook.cancellation, wire.parse_variables(request.body))

    async def _run(self, request: Request, hook: Hook, manager: Manager) -> End:
        live = self._jobs.find(request.handle)
        self._watch(live, manager)
        with live.heard_of():
            stage = Stage(request.stage, request.body)
            return await live.run(request.call, stage, request.offset, hook, hook.cancellation)

    async def _cleanup(self, request: Request, hook: Hook, manager: Manager) -> End:  # noqa: ARG002 - as the others
        self._jobs.clean(request.handle, request.body)
        return Done()

    def _watch(self, live: Live, manager: Manager) -> None:
        self._managers.watch(live.record.name, manager, lambda: self._jobs.end(live, "the end of its gitlab-runner"))


async def _greeting(connection: socket.socket) -> Manager:
    """Receive the first byte, and the process that may come with it. Errors: OSError."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    finally:
        loop.remove_reader(connection)
    return Manager(descriptors[0] if descriptors else None)
