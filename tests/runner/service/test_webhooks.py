"""Webhooks are signed as receivers expect it and sent at least once, and no job ever waits for a receiver."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.job import Job
from runner.outcome import ScriptFailed
from runner.service import signing, webhooks
from runner.service.signing import headers, key_of, shown, verdict, wait_after
from runner.service.webhooks import Webhooks
from runner.steps import Step, StepProgress, StepState
from runner.store.deliveries import Delivery
from runner.store.jobs import Jobs, Result
from tests.runner.api.test_app import client, new_service
from tests.runner.service.conftest import Host
from tests.runner.service.state import State, locked, service_of
from tests.waiting import eventually

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).parents[3] / "docs" / "webhooks.md"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@dataclass
class Receiver:
    """A server of our own that keeps what it gets, and answers as a test wants."""

    status: str = "204 No Content"
    more: bytes = b"content-length: 0\r\n\r\n"
    """Sent after the status line in place of an end."""
    hang: bool = False
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")[1:-2]
                found = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                self.got.append((found, await reader.readexactly(int(found["content-length"]))))
                if self.hang:
                    await reader.read()  # until the other side has had enough
                    return
                writer.write(f"HTTP/1.1 {self.status}\r\n".encode() + self.more)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(**how: object) -> AsyncIterator[Receiver]:
    receiver = Receiver(**how)  # type: ignore[arg-type]
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret-path"
    try:
        yield receiver
    finally:
        server.close()


def state_of(folder: Path, *receivers: Receiver) -> tuple[State, Jobs]:
    """A state folder whose outcomes are told to receivers."""
    state = State(folder)
    state.jobs = Jobs(state.database, state.seal, [receiver.url for receiver in receivers])
    return state, state.jobs


def end(jobs: Jobs) -> str:
    """Have a job come to its end."""
    job_id, _ = jobs.add(Job(steps=(Step("test", b"false"),)))
    assert jobs.take(job_id)
    jobs.settle(job_id, Result(ScriptFailed(3), 0, b"", (StepProgress("test", StepState.FAILED, 3),)))
    return job_id


@asynccontextmanager
async def sending(state: State, *receivers: Receiver, give_up: float = 3600.0) -> AsyncIterator[Webhooks]:
    urls = [receiver.url for receiver in receivers]
    told = Webhooks(state.deliveries, urls, key_of(SECRET), timeout=0.5, give_up=give_up)
    working = asyncio.create_task(told.work())
    try:
        yield told
    finally:
        working.cancel()
        await asyncio.wait([working])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "FIRST_WAIT", 0.05)


def verify() -> Callable[[str, dict[str, str], bytes], None]:
    """The function that the documentation gives to receivers."""
    [program] = [block.split("```")[0] for block in DOCS.read_text().split("```python\n")[1:]]
    names: dict[str, Callable[[str, dict[str, str], bytes], None]] = {}
    exec(program, names)
    return names["verify"]


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The example of its specification's own libraries."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    got = headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert got["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(max_size=60), st.integers(0, 59), st.integers(1, 255))
def test_the_documented_check_takes_what_is_genuine_and_nothing_else(body: bytes, place: int, change: int) -> None:
    check, now = verify(), int(time.time())
    sent = dict(headers(key_of(SECRET), "job-1-finished", now, body))
    check(SECRET, sent, body)
    if place < len(body):
        with pytest.raises(ValueError, match="signature"):
            check(SECRET, sent, body[:place] + bytes([body[place] ^ change]) + body[place + 1 :])
    for odd in ({"webhook-id": "job-2-finished"}, {"webhook-timestamp": str(now - 1)}, {"webhook-signature": "v1,"}):
        with pytest.raises(ValueError, match="signature"):
            check(SECRET, {**sent, **odd}, body)
    with pytest.raises(ValueError, match="old"):
        check(SECRET, dict(headers(key_of(SECRET), "job-1-finished", now - 400, body)), body)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_***"])
def test_a_secret_that_is_none_is_told_without_it(secret: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        key_of(secret)
    assert not secret[6:] or secret[6:] not in str(caught.value)


@given(st.integers(1, 10_000))
def test_each_wait_is_longer_up_to_the_longest(tries: int) -> None:
    assert 0 < wait_after(tries) <= wait_after(tries + 1) <= signing.LONGEST_WAIT


def test_what_an_answer_means_and_what_of_an_address_is_shown() -> None:
    assert [verdict(status) for status in (200, 204, 299)] == [""] * 3
    assert "redirects are not followed" in verdict(302)
    assert verdict(500) == "it answered 500"
    assert shown("https://hooks.example.com:8443/T0/B0/secret?token=x") == "https://hooks.example.com:8443"


async def test_who_is_told_can_check_it(tmp_path: Path) -> None:
    async with receiving() as receiver:
        state, jobs = state_of(tmp_path, receiver)
        job = end(jobs)
        async with sending(state, receiver):
            await eventually(lambda: len(receiver.got) == 1)
            await eventually(lambda: state.deliveries.next(receiver.url) is None)
        [(found, body)] = receiver.got
        verify()(SECRET, found, body)
        message = json.loads(body)
        assert (message["type"], message["data"]["id"]) == ("job.finished", job)
        assert message["data"]["outcome"]["exit_code"] == 3
        assert message["data"]["steps"] == [{"name": "test", "state": "failed", "exit_code": 3, "allowed": False}]
        assert found["webhook-id"] == f"job-{job}-finished"


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"status": "500 No"}, "it answered 500"),
        ({"status": "302 There", "more": b"location: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"}, "redirects"),
        ({"hang": True}, "did not answer within 0.5 s"),
        ({"status": "200 OK", "more": b"x" * 1_000_000}, "cannot be reached"),
        ({"status": "nonsense"}, "cannot be reached"),
    ],
    ids=["error", "redirect", "silent", "endless head", "no HTTP"],
)
async def test_what_is_not_taken_is_told_and_tried_again(tmp_path: Path, how: dict[str, object], problem: str) -> None:
    async with receiving(**how) as receiver:
        state, jobs = state_of(tmp_path, receiver)
        end(jobs)
        async with sending(state, receiver):
            await eventually(lambda: any(one.tries for one in state.deliveries.in_trouble()))
            [trouble] = state.deliveries.in_trouble()
            assert problem in trouble.problem
            receiver.hang, receiver.status, receiver.more = False, "200 OK", Receiver.more
            await eventually(lambda: not state.deliveries.in_trouble())
        assert len({found["webhook-id"] for found, _ in receiver.got}) == 1
        assert len({body for _, body in receiver.got}) == 1


async def test_an_endless_body_is_not_read(tmp_path: Path) -> None:
    """The trap: what answers 200 and never ends would be read for ever, or into memory."""
    async with receiving(status="200 OK", more=b"content-length: 99999999999\r\n\r\n" + b"x" * 100_000) as receiver:
        state, jobs = state_of(tmp_path, receiver)
        end(jobs)
        async with sending(state, receiver), asyncio.timeout(10):
            await eventually(lambda: state.deliveries.next(receiver.url) is None)
        assert len(receiver.got) == 1


async def test_one_receiver_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    async with receiving(hang=True) as stuck, receiving() as well:
        state, jobs = state_of(tmp_path, stuck, well)
        for _ in range(20):
            end(jobs)
        async with sending(state, stuck, well):
            await eventually(lambda: len(well.got) == 20)


async def test_what_was_not_taken_is_sent_by_the_next_life(tmp_path: Path) -> None:
    async with receiving(hang=True) as receiver:
        state, jobs = state_of(tmp_path, receiver)
        job = end(jobs)
        async with sending(state, receiver):
            await eventually(lambda: len(receiver.got) == 1)
        receiver.hang = False
        async with sending(State(tmp_path), receiver):
            await eventually(lambda: State(tmp_path).deliveries.next(receiver.url) is None)
        assert [found["webhook-id"] for found, _ in receiver.got] == [f"job-{job}-finished"] * 2


async def test_a_message_that_nobody_takes_is_given_up_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "FIRST_WAIT", 100.0)
    async with receiving(status="500 No") as receiver:
        state, jobs = state_of(tmp_path, receiver)
        job = end(jobs)
        async with sending(state, receiver, give_up=60.0):
            await eventually(lambda: any(one.due is None for one in state.deliveries.in_trouble()))
        service = new_service(tmp_path)
        async with client(service, tmp_path) as api:
            [view] = (await api.get("/v1/webhooks")).json()
        assert (view["job"], view["due"], view["problem"]) == (job, None, "it answered 500")
        assert "secret-path" not in str(view)


async def test_the_outcome_and_its_message_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    async with receiving() as receiver:
        state, jobs = state_of(tmp_path, receiver)
        job_id, _ = jobs.add(Job(b"true"))
        assert jobs.take(job_id)
        state.database._writer.execute("DROP TABLE delivery")
        with pytest.raises(Exception, match="cannot be written down"):
            jobs.settle(job_id, Result(ScriptFailed(1), 0, b""))
        entry = jobs.get(job_id)
        assert entry
        assert entry.result is None


def test_an_outcome_that_is_written_twice_is_told_once(tmp_path: Path) -> None:
    state = State(tmp_path)
    jobs = Jobs(state.database, state.seal, ["http://x/"])
    job = end(jobs)
    jobs.settle(job, Result(ScriptFailed(3), 0, b""))
    assert len(state.deliveries.due("http://x/", 10.0, 10)) == 1


def test_a_clock_that_was_ahead_delays_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path)
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: 4e9)
        end(Jobs(state.database, state.seal, ["http://x/"]))
    assert len(state.deliveries.due("http://x/", 7200.0, 10)) == 1


def test_only_so_many_that_were_given_up_are_kept(tmp_path: Path) -> None:
    state = State(tmp_path)
    jobs = Jobs(state.database, state.seal, ["http://x/"])
    for _ in range(110):
        end(jobs)
    given_up: list[Delivery] = state.deliveries.due("http://x/", 10.0, 200)
    for delivery in given_up:
        state.deliveries.failed(delivery, "no", None)
    assert [one.sequence for one in state.deliveries.in_trouble()] == [one.sequence for one in given_up[10:]]


async def test_a_locked_store_means_twice_and_never_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once by each life. The trap: it was sent every five seconds, for as long as the store was locked."""
    monkeypatch.setattr(webhooks, "_AGAIN", 0.05)
    async with receiving() as receiver:
        state, jobs = state_of(tmp_path, receiver)
        end(jobs)
        with locked(tmp_path):
            async with sending(state, receiver):
                await eventually(lambda: caplog.text.count("They are looked at again soon") >= 3)
        assert len(receiver.got) == 1
        async with sending(state, receiver):
            await eventually(lambda: state.deliveries.next(receiver.url) is None)
        assert len(receiver.got) == 2


async def test_a_message_that_is_on_its_way_is_not_sent_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: another one could not be struck off, and all that were due were sent anew."""
    monkeypatch.setattr(webhooks, "_AGAIN", 0.01)
    state, jobs = state_of(tmp_path, Receiver(url="http://x/"))
    end(jobs)
    end(jobs)
    told = Webhooks(state.deliveries, ["http://x/"], key_of(SECRET), timeout=5.0, give_up=3600.0)
    sent, arrived, again = list[int](), asyncio.Event(), asyncio.Event()

    async def post(_: httpx.AsyncClient, delivery: Delivery) -> str:
        sent.append(delivery.sequence)
        if delivery.sequence == 2:
            if sent.count(2) > 1:
                again.set()
            await arrived.wait()
        return ""

    monkeypatch.setattr(told, "_try", post)
    with locked(tmp_path):
        working = asyncio.create_task(told.work())
        with suppress(TimeoutError):  # it must not come
            await asyncio.wait_for(again.wait(), 0.2)
        arrived.set()
    await eventually(lambda: state.deliveries.next("http://x/") is None)
    working.cancel()
    await asyncio.wait([working])
    assert sorted(sent) == [1, 2]


async def test_a_job_of_the_service_is_told(host: Host) -> None:
    async with receiving() as receiver:
        state, _ = state_of(host.state, receiver)
        told = Webhooks(state.deliveries, [receiver.url], key_of(SECRET), timeout=5.0, give_up=3600.0)
        service = service_of(state, host.leases, settings=host.settings, webhooks=told)
        working = asyncio.create_task(service.work())
        record = await service.submit(Job(b"exit 3", trust_key="default"))
        await eventually(lambda: len(receiver.got) == 1)
        assert json.loads(receiver.got[0][1])["data"]["id"] == record.id
        service.stop()
        await asyncio.wait_for(working, 30)


def test_no_address_is_logged_by_the_library(caplog: pytest.LogCaptureFixture) -> None:
    """The trap: httpx logs each request with its whole address, where INFO is logged."""
    with caplog.at_level(logging.INFO):
        httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))).get("http://x/secret-path")
    assert "secret-path" not in caplog.text
