"""One GitLab job in this life of the service: answers its hooks' requests, one at a time, on its sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NoReturn

from runner import outcome as outcomes
from runner.errors import DetachedError, GitLabError, LeaseError, LeaseLostError, RunnerError
from runner.execution.cancellation import Cancellation
from runner.execution.flight import first, stop
from runner.execution.lease import LeaseSource
from runner.execution.options import Note, Settings
from runner.gitlab import credentials
from runner.gitlab.install import FORCE_KILL, GRACEFUL_KILL
from runner.gitlab.options import Options
from runner.gitlab.record import Lease, Record, State
from runner.gitlab.stages import Stage
from runner.gitlab.tenancy import Tenancy
from runner.gitlab.trust import remark, trust_key
from runner.gitlab.turn import Listener, Turn
from runner.gitlab.wire import Done, End, SystemFailed
from runner.gitlab.workplace import Workplace
from runner.logs import Action, Events
from runner.placement import Wanted
from runner.service.standby import PATIENCE, Standby

_events = Events(__name__)

LOCK_DEADLINE: Final = float(GRACEFUL_KILL + FORCE_KILL)
"""Seconds that a hook waits for another hook of the same job, whose cancelled stage may still be ending."""
_BEYOND: Final = 3600.0
_MAX_PATIENCE: Final = 7 * 24 * 3600.0
"""The longest time in seconds that a sandbox is kept without a word from the runner; a keeper grants no more."""
_RETRY: Final = 1.0
_MAX_TEXT: Final = 2000
_MAX_TOLD: Final = 5
"""The most sentences in the job's log about the way to a sandbox."""
_NO_MORE: Final = ""
"""Marks the end of these sentences."""


class Live:
    """One job, from `config` to its end or to the next life of the service."""

    def __init__(self, record: Record, leases: LeaseSource, options: Options, standby: Standby | None = None) -> None:
        self.record = record
        self._options = options
        self._settings = _settings(record.job.timeout, options)
        self._tenancy = Tenancy(leases, self._settings)
        self._standby = standby
        self._lock = asyncio.Lock()
        self._cancellation = Cancellation()
        self._workplace = Workplace(record.job, options, used=record.state in (State.PREPARED, State.RUNNING))
        self._over = self._left_behind = False
        """Whether the job ended, or was left to the next life."""
        self._regaining = asyncio.create_task(self._regain())
        """Asks for the lease of an earlier life."""
        self.hooks = 0
        """The number of connected hooks."""
        self._left = time.monotonic()
        self._background: set[asyncio.Task[None]] = set()

    # What hooks ask for.

    async def prepare(self, hook: Listener, cancellation: Cancellation, given: Mapping[str, str]) -> End:
        """Get a sandbox. Idempotent. `given`: the job's variables as gitlab-runner has them, expanded.

        Errors: GitLabError; DetachedError.
        """
        async with self._turn(hook, cancellation) as turn:
            if self.record.state in (State.PREPARED, State.RUNNING):
                return Done()
            await self._tenancy.end(None)  # after a try that an earlier life of the service did not finish
            self.record.move(State.PREPARING, lease=None, lost="")
            self.record.learn(given)
            self._workplace = Workplace(self.record.job, self._options, used=False)
            try:
                end = await self._prepare(turn, given.get(credentials.VARIABLE, ""))
            except RunnerError:
                await self._undo()
                raise
            if isinstance(end, Done):
                self.record.move(State.PREPARED)
            else:
                await self._undo()
            return end

    async def run(self, call: str, stage: Stage, offset: int, hook: Listener, cancellation: Cancellation) -> End:
        """Run a stage, or continue where its hook lost the connection. Errors: GitLabError; DetachedError."""
        async with self._turn(hook, cancellation) as turn:
            note = self.record.note
            if note.stage and note.stage.call != call and note.state is State.RUNNING:
                await turn.give_up(note.stage)  # the stage's hook ended while there was no service
                note = self.record.note
            if note.stage and note.stage.call == call:
                end = await turn.again(note.stage, offset)
                await self._workplace.after(turn, stage, end)
            elif note.lost:
                return SystemFailed(f"The sandbox of this job was lost before. {note.lost}")
            elif note.state is not State.PREPARED:
                return SystemFailed(f"The job is {note.state}: the stage {stage.name} cannot be run.")
            else:
                end = await self._workplace.run(turn, call, stage)
            if self.record.note.lost:
                self._do(self._tenancy.end(self.record.note.lost))
            return end

    # What the service does with the job.

    def end(self, by: str) -> None:
        """Mark the job as over, also for a later life. `finish` follows."""
        self._over = True
        _events.info(Action.OVER, f"over by {by}", gitlab_job=self.record.name)
        self._cancellation.request(by)
        try:
            self.record.move(State.OVER)
        except GitLabError as error:
            what = f"a restart would forget that it is over: {error}"
            _events.warning(Action.STORE_FAILED, what, gitlab_job=self.record.name)

    async def finish(self) -> None:
        """Give the sandbox back once nothing runs any more, and forget the job."""
        await asyncio.wait([self._regaining])
        async with self._lock:
            await self._tenancy.end(None)
            self.record.forget()

    async def leave(self) -> None:
        """Leave everything as it is, for the next life of the service."""
        self._over = self._left_behind = True
        self._cancellation.detach()
        await stop(self._regaining)
        async with self._lock:
            await self._tenancy.leave()

    async def _regain(self) -> None:
        """Take up an earlier life's lease, however long an answer takes. If its sandbox is gone, note it as lost."""
        while lease := self.record.note.lease:
            try:
                return await self._tenancy.regain(lease.attempt, lease.token)
            except LeaseLostError as error:
                return self.record.change(lost=str(error)[:_MAX_TEXT])
            except LeaseError:
                await asyncio.sleep(_RETRY)
        return None

    async def _undo(self) -> None:
        await self._tenancy.end(None)
        if not self._over:
            self.record.move(State.CONFIGURED, lease=None)

    @contextlib.contextmanager
    def heard_of(self) -> Iterator[None]:
        """Count a connected hook of the job."""
        self.hooks += 1
        try:
            yield
        finally:
            self.hooks -= 1
            self._left = time.monotonic()

    @property
    def idle(self) -> float:
        """Return the seconds since the last hook; 0 while one is connected."""
        return 0.0 if self.hooks else time.monotonic() - self._left

    @contextlib.asynccontextmanager
    async def _turn(self, hook: Listener, cancellation: Cancellation) -> AsyncIterator[Turn]:
        await first(self._regaining, cancellation.wait())
        if not self._regaining.done():
            _unwanted(cancellation)
        try:
            async with asyncio.timeout(LOCK_DEADLINE):
                await self._lock.acquire()
        except TimeoutError:
            raise GitLabError("Another hook of this job still runs.") from None
        try:
            if self._left_behind:
                raise DetachedError("The runner left.")
            if self._over:
                raise GitLabError("The job is over, and its sandbox was given back.")
            self._cancellation = cancellation
            place, limit = self._workplace, self._options.log_limit
            yield Turn(self.record, self._tenancy, hook, cancellation, place.environment, limit, place.sweep)
        finally:
            self._lock.release()

    async def _prepare(self, turn: Turn, logins: str) -> End:
        if sentence := remark(self.record.job):
            await turn.hook.tell(sentence)
        news: asyncio.Queue[str] = asyncio.Queue()
        telling = asyncio.create_task(_tell(turn.hook, news))
        taking = asyncio.create_task(self._take(news.put_nowait))
        try:
            await first(taking, turn.cancellation.wait())
            if not taking.done():
                taking.cancel()
                await asyncio.wait([taking])
            news.put_nowait(_NO_MORE)
            await telling
        finally:
            await stop(telling)
        if taking.cancelled():
            _unwanted(turn.cancellation)
        try:
            await turn.hook.out(f"{taking.result()}\n".encode())
        except RunnerError as error:
            return SystemFailed(f"There is no sandbox for this job: {error}")
        return await self._workplace.prepare(turn, logins)

    async def _take(self, tell: Callable[[str], None]) -> str:
        """Get a sandbox, prepared in advance or new, and return a sentence about it.

        `tell` writes to the job's log: a user who waits for minutes wants to know the reason.
        """
        wanted = Wanted(trust_key(self.record.job), self._options.profile)

        def on_ask(attempt: str, token: str) -> None:
            self.record.change(lease=Lease(attempt=attempt, token=token))

        if self._standby and self._settings.patience <= PATIENCE and (held := await self._standby.take(wanted)):
            with contextlib.suppress(LeaseLostError):
                await self._tenancy.adopt(held, on_ask)
                if caveat := held.held.lease.caveat:
                    tell(caveat)
                return held.sentence
        said = ""

        def note(news: Note) -> None:
            nonlocal said
            _events.info(news.action, news.text, gitlab_job=self.record.name)
            if news.action is Action.LEASED:
                said = news.text
            else:
                tell(news.text)

        await self._tenancy.take(wanted, on_ask, note)
        return said

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work that no hook waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _settings(timeout: float, options: Options) -> Settings:
    """Return settings by which a sandbox waits for the service's next life as long as its job may run, and longer."""
    patience = min(timeout + options.settings.grace + _BEYOND, _MAX_PATIENCE)
    return replace(options.settings, patience=patience)


async def _tell(hook: Listener, news: asyncio.Queue[str]) -> None:
    """Tell each sentence once, and only a few of them: a keeper may go away and come back many times."""
    told: set[str] = set()
    while (sentence := await news.get()) != _NO_MORE:
        if sentence not in told and len(told) < _MAX_TOLD:
            told.add(sentence)
            await hook.tell(sentence)


def _unwanted(cancellation: Cancellation) -> NoReturn:
    """Raise the error for a cancelled request: GitLabError or DetachedError."""
    if cancellation.cause is None:
        raise DetachedError("The runner left.")
    raise GitLabError(outcomes.sentence(cancellation.cause))
