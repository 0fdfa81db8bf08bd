"""Leases from the keeper: the meaning of its answers for an attempt."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution import overdue_leases
from runner.execution.held import Held
from runner.execution.options import Settings
from runner.keeper_leases import KeeperLeases
from sandbox.errors import Fault, KeeperRefused, KeeperUnreachable, NotNow
from sandbox.errors import ProtocolError as KeeperProtocolError
from sandbox.keeper import protocol
from sandbox.keeper.client import Withdrawal
from sandbox.keeper.server import KeeperServer
from sandbox.state import State
from tests.runner.conftest import connected_pair
from tests.runner.lease_conformance import SOON, LeaseConformance, identity, lend
from tests.sandbox.keeper.conftest import World, connect, host, make  # noqa: F401 - fixtures
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

TOKEN = "t" * 32
GRANT = protocol.LeaseGrant(
    sandbox="s", generation=3, runtime="r", user="u", host_key="h", client_key="c", token=TOKEN, term=30
)


class Client:
    """Answers as a keeper's client does, or fails as a test says."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[object] = []
        self.release = threading.Event()
        self.release.set()
        self.ends: list[socket.socket] = []

    def _answer(self, *asked: object) -> None:
        self.asked.append(asked)
        assert self.release.wait(20)
        if self.error:
            raise self.error

    def _grant(self) -> tuple[protocol.LeaseGrant, socket.socket]:
        ours, theirs = connected_pair()
        self.ends.append(theirs)
        return GRANT, ours

    def lend(self, request: protocol.Lend, withdrawal: Withdrawal) -> tuple[protocol.LeaseGrant, socket.socket]:
        self._answer(request)
        return self._grant()

    def resume(self, token: str) -> tuple[protocol.LeaseGrant, socket.socket]:
        self._answer("resume", token)
        return self._grant()

    def renew(self, token: str) -> None:
        self._answer("renew", token)

    def kill(self, token: str) -> None:
        self._answer("kill", token)

    def give_back(self, token: str, *, used: bool) -> None:
        self._answer("return", token, used)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def leases(client: Client) -> KeeperLeases:
    leases = KeeperLeases(Path("/none"))
    leases._client = client  # type: ignore[assignment]
    return leases


async def test_the_token_and_the_patience_are_ours(leases: KeeperLeases, client: Client) -> None:
    lease = await leases.lend("a1", TOKEN, "p", "k", 5.0, 60.0)
    expected = protocol.Lend(attempt="a1", token=TOKEN, profile="p", trust_key="k", wait=5.0, patience=60.0)
    assert client.asked == [(expected,)]
    assert (lease.attempt, lease.sandbox, lease.generation, lease.term) == ("a1", "s", 3, 30)
    await lease.kill()
    assert client.asked[-1] == ("kill", TOKEN)
    close(client, lease.access.socket)


async def test_a_resumed_lease_is_the_same(leases: KeeperLeases, client: Client) -> None:
    lease = await leases.resume("a1", TOKEN)
    assert client.asked == [("resume", TOKEN)]
    assert (lease.attempt, lease.sandbox, lease.generation) == ("a1", "s", 3)
    await lease.renew()
    assert client.asked[-1] == ("renew", TOKEN)
    close(client, lease.access.socket)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeeperRefused("It is over."), LeaseLostError),
        (KeeperUnreachable("No keeper."), LeaseUnreachableError),
        (NotNow("It does not answer."), LeaseUnreachableError),
        (KeeperProtocolError("It broke off."), LeaseUnreachableError),
    ],
)
async def test_what_a_failed_resume_means(
    leases: KeeperLeases, client: Client, error: Exception, expected: type[LeaseError]
) -> None:
    client.error = error
    with pytest.raises(expected) as raised:
        await leases.resume("a1", TOKEN)
    assert type(raised.value) is expected


async def test_a_refused_kill_is_not_a_lost_lease(leases: KeeperLeases, client: Client) -> None:
    lease = await leases.resume("a1", TOKEN)
    client.error = KeeperRefused("Processes are left.")
    with pytest.raises(LeaseError) as raised:
        await lease.kill()
    assert type(raised.value) is LeaseError
    close(client, lease.access.socket)


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda leases: leases.lend("a1", TOKEN, "p", "k", 5.0, 60.0), ("return", TOKEN, False)),
        (lambda leases: leases.resume("a1", TOKEN), ("resume", TOKEN)),
    ],
    ids=["lend", "resume"],
)
async def test_an_answer_that_nobody_waits_for(
    leases: KeeperLeases, client: Client, ask: Callable[[KeeperLeases], asyncio.Future[object]], expected: object
) -> None:
    """The connection is closed; a new lease goes back, one that was there before stays."""
    client.release.clear()
    asking = asyncio.ensure_future(ask(leases))
    await eventually(lambda: len(client.asked) == 1)
    asking.cancel()
    client.release.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert client.asked[-1] == expected  # and not some time: our process may end with this
    await eventually(lambda: client.ends != [])
    assert await asyncio.to_thread(client.ends[0].recv, 1) == b""
    client.ends[0].close()


def close(client: Client, ours: socket.socket) -> None:
    """Close both ends of a connection."""
    ours.close()
    client.ends[0].close()


@contextmanager
def answering(world: World, folder: Path) -> Iterator[Path]:
    """Have a keeper answer on its socket, and yield that."""
    with KeeperServer(folder, world.keeper.verbs, None) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server.path
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("broken", [None, "It broke."])
async def test_a_sandbox_goes_back_as_soon_as_a_keeper_that_was_away_answers(
    make: Callable[..., World],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str | None,
) -> None:
    """The trap: it was kept for hours for an attempt that was over, and the runner took its slot for free."""
    monkeypatch.setattr(overdue_leases, "INTERVAL", 0.01)
    world = make(warm=1)
    with answering(world, tmp_path / "run") as path:
        lease = await KeeperLeases(path).lend("a1", TOKEN, "default", "team", 20.0, 24 * 3600.0)
        lease.access.socket.close()
        held = Held(lease, Settings(return_deadline=0.05))
    await held.hand_in(broken, used=True)
    assert world.states() == [State.LEASED]
    with answering(world, tmp_path / "run"):
        await eventually(lambda: State.LEASED not in world.states())
    assert [fault for _, fault in world.condemned()] == ([Fault.CONDEMNED_BY_RUNNER] if broken else [])


class TestConformance(LeaseConformance):
    """The keeper's leases, from a keeper with a made-up engine, over its socket."""

    @pytest.fixture
    def world(self, make: Callable[..., World]) -> World:  # noqa: F811
        return make(warm=2)

    @pytest.fixture
    def leases(self, world: World, tmp_path: Path) -> Iterator[KeeperLeases]:
        world.wait_for("two ready", lambda: world.states() == [State.READY] * 2)
        with answering(world, tmp_path / "run") as path:
            yield KeeperLeases(path)

    async def test_a_request_that_is_given_up_is_gone_at_once_here_and_there(
        self, leases: KeeperLeases, world: World
    ) -> None:
        """The trap: its thread waited on, for as long as was asked for, and a Python that ends waits for that."""
        lent = [await lend(leases, "a"), await lend(leases, "b")]
        waiting = asyncio.create_task(lend(leases, "c", "others", wait=600.0))
        await eventually(lambda: world.keeper._stock.wants != [])
        waiting.cancel()
        async with asyncio.timeout(SOON):
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await eventually(lambda: world.keeper._stock.wants == [])
        await lent[0].give_back(used=False)
        assert identity(await lend(leases, "d", "a third")) == identity(lent[0])

    async def test_its_sandboxes_are_told_with_whoever_has_them(self, leases: KeeperLeases) -> None:
        lease = await lend(leases, "a")
        lent, free = sorted(await leases.sandboxes(), key=lambda one: one.state)
        assert (lent.name, lent.generation, lent.profile) == (lease.sandbox, lease.generation, "default")
        assert (lent.state, lent.trust_key, lent.attempt, lent.reason) == ("leased", "team", "a", None)
        assert (free.state, free.trust_key, free.attempt) == ("ready", None, None)
        assert lent.seconds_in_state is not None


async def test_without_a_keeper_nobody_tells_of_sandboxes() -> None:
    with pytest.raises(LeaseUnreachableError, match="There is no keeper socket at /none"):
        await KeeperLeases(Path("/none")).sandboxes()


async def test_however_many_wait_for_a_sandbox_a_lease_is_renewed(client: Client, leases: KeeperLeases) -> None:
    # The trap: asyncio's own threads, of which a small host has six. Leases run out while all of them wait.
    lease = await leases.resume("a", TOKEN)
    client.release.clear()
    waiting = [asyncio.create_task(leases.lend(f"a{number}", TOKEN, "default", "team", 600, 0)) for number in range(40)]
    await eventually(lambda: len(client.asked) == 41)
    renewal = asyncio.create_task(lease.renew())
    await eventually(lambda: ("renew", TOKEN) in client.asked)
    client.release.set()
    await renewal
    for granted in await asyncio.gather(*waiting):
        granted.access.socket.close()
    lease.access.socket.close()
    for end in client.ends:
        end.close()


async def test_a_keeper_that_hangs_takes_no_thread_that_others_need(client: Client, leases: KeeperLeases) -> None:
    """The trap: six leases whose renewals hung took all of asyncio's own threads, and nothing was written any more."""
    lease = await leases.resume("a", TOKEN)
    client.release.clear()
    hanging = [asyncio.create_task(call()) for call in [lease.renew] * 40 + [lease.kill]]
    await eventually(lambda: len(client.asked) == 42)
    async with asyncio.timeout(SOON):
        assert await asyncio.to_thread(lambda: "free") == "free"
    client.release.set()
    await asyncio.gather(*hanging)
    close(client, lease.access.socket)
