"""Tells others that a job has ended, at least once, over restarts of either side.

The messages are in the store. One task for each receiver sends its due messages, so that a slow or missing receiver
holds up no other. The operator alone chooses the receivers: no job names one, so no job can make the runner send
anything to an address inside the operator's network.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Final

import httpx

from runner import authorities
from runner.errors import StateError
from runner.logs import Action, Events
from runner.service.signing import LONGEST_WAIT, headers, shown, verdict, wait_after
from runner.store.deliveries import Deliveries, Delivery
from runner.store.threads import reading, writing

_events = Events(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log whole addresses

_AT_ONCE: Final = 8
"""Messages in flight to one receiver at once."""
_LOOK: Final = 60.0
"""Seconds between two looks at the store, unless `wake` is called."""
_AGAIN: Final = 5.0
"""Seconds before the store is read again after a failure."""


class Webhooks:
    """Sends the messages of the outbox to its receivers, for as long as `work` runs."""

    def __init__(
        self,
        deliveries: Deliveries,
        receivers: Collection[str],
        key: bytes,
        *,
        timeout: float,
        give_up: float,
        tried: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """One try takes at most `timeout` seconds; a message is given up after `give_up` seconds.

        `tried` is called after each try, with whether the message was taken.
        """
        self._deliveries = deliveries
        self._receivers = tuple(receivers)
        self._key = key
        self._timeout = timeout
        self._give_up = give_up
        self._tried = tried
        self._taken: set[int] = set()
        """The messages, by sequence, that were taken but are not yet struck off: none of them is sent again."""
        self._news = {receiver: asyncio.Event() for receiver in self._receivers}

    def wake(self) -> None:
        """Announce a new message in the outbox."""
        for news in self._news.values():
            news.set()

    async def work(self) -> None:
        """Send until cancelled; the next life sends the unfinished messages again."""
        async with self._client() as http, asyncio.TaskGroup() as all_:
            for receiver in self._receivers:
                all_.create_task(self._serve(http, receiver))
            all_.create_task(self._sweep())

    async def flush(self, seconds: float) -> None:
        """Send the due messages, for at most so many seconds."""
        async with self._client() as http:
            sending = [asyncio.create_task(self._send_due(http, receiver)) for receiver in self._receivers]
            if sending:
                _, late = await asyncio.wait(sending, timeout=seconds)
                for task in late:
                    task.cancel()
                await asyncio.gather(*sending, return_exceptions=True)

    def _client(self) -> httpx.AsyncClient:
        verify = authorities.needed(*self._receivers)
        return httpx.AsyncClient(timeout=self._timeout, follow_redirects=False, verify=verify)

    async def _serve(self, http: httpx.AsyncClient, receiver: str) -> None:
        news = self._news[receiver]
        while True:
            news.clear()
            try:
                while await self._send_due(http, receiver):
                    pass
                wait = await self._until_next(receiver)
            except StateError as error:
                _events.error(Action.STORE_FAILED, f"webhooks: {error} They are looked at again soon.")
                wait = _AGAIN
            try:
                await asyncio.wait_for(news.wait(), wait)
            except TimeoutError:
                continue

    async def _send_due(self, http: httpx.AsyncClient, receiver: str) -> bool:
        """Send some due messages; return whether there were any."""
        due = await reading(self._deliveries.due, receiver, 2 * LONGEST_WAIT, _AT_ONCE)
        ends = await asyncio.gather(*(self._send(http, delivery) for delivery in due), return_exceptions=True)
        for error in filter(None, ends):  # not earlier: else a message still in flight would be sent twice at once
            raise error
        return bool(due)

    async def _until_next(self, receiver: str) -> float:
        due = await reading(self._deliveries.next, receiver)
        return _LOOK if due is None else min(max(0.0, due - time.time()), _LOOK)

    async def _send(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        if delivery.sequence not in self._taken:
            problem = await self._try(http, delivery)
            self._tried(not problem)
            if problem:
                await self._put_off(delivery, problem)
                return
            self._taken.add(delivery.sequence)
        await writing(self._deliveries.delivered, delivery)
        self._taken.discard(delivery.sequence)

    async def _put_off(self, delivery: Delivery, problem: str) -> None:
        tries = delivery.tries + 1
        wait, now = wait_after(tries), time.time()
        given_up = now + wait > delivery.created + self._give_up
        then = "it is given up" if given_up else f"it is sent again in {wait:g} s"
        what = f"webhook: {shown(delivery.receiver)} did not take it (try {tries}): {problem}; {then}"
        _events.warning(Action.WEBHOOK_FAILED, what, job=delivery.job)
        await writing(self._deliveries.failed, delivery, problem, None if given_up else now + wait)

    async def _try(self, http: httpx.AsyncClient, delivery: Delivery) -> str:
        """Send a message once; return what was wrong, or nothing when it was taken. The answer's body is not read."""
        sent = headers(self._key, f"job-{delivery.job}-finished", int(time.time()), delivery.body)
        try:
            async with (
                asyncio.timeout(self._timeout),
                http.stream("POST", delivery.receiver, content=delivery.body, headers=sent) as answer,
            ):
                return verdict(answer.status_code)
        except (TimeoutError, httpx.TimeoutException):
            return f"it did not answer within {self._timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return f"it cannot be reached ({type(error).__name__})"

    async def _sweep(self) -> None:
        """Give up messages that nobody takes, also those for receivers that are no longer configured."""
        while True:
            try:
                if count := await writing(self._deliveries.give_up_older, self._give_up):
                    what = f"webhooks: {count} messages are given up: nobody took them in time"
                    _events.warning(Action.WEBHOOK_FAILED, what)
            except StateError as error:
                _events.error(Action.STORE_FAILED, f"webhooks: {error}")
            await asyncio.sleep(_LOOK)
