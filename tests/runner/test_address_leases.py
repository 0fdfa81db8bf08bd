"""Leases of sandboxes that someone else started, on real ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.address_leases import AddressLeases
from runner.addresses import record as record_module
from runner.addresses.address import Address
from runner.errors import InputError, LeaseError, LeaseLostError, LeaseUnreachableError
from sandbox.identity import new_identity
from tests.foreign import Foreign, Foreigners
from tests.runner.lease_conformance import LeaseConformance, lend, token_of
from tests.waiting import eventually, until

pytestmark = pytest.mark.anyio

NewSource = Callable[..., AddressLeases]


@pytest.fixture
def new_source(foreign: tuple[Foreign, Foreign], new_foreign: Foreigners, tmp_path: Path) -> Iterator[NewSource]:
    """Makes sources for the two sandboxes, or for others, that share what is known."""
    made: list[AddressLeases] = []

    def new(*sandboxes: Foreign, key: str = new_foreign.key.private) -> AddressLeases:
        chosen = sandboxes or foreign
        addresses = [Address.parse(one.address) for one in chosen]
        host_keys = [one.host_key for one in chosen]
        made.append(AddressLeases(addresses, host_keys, key, tmp_path / "state", "/home/sandbox/runner-jobs/attempts"))
        return made[-1]

    yield new
    for source in made:
        leave(source)


def leave(source: AddressLeases) -> None:
    """Let go of everything, as the end of the process does."""
    for place in source._places:
        place.entry.unlock()


class TestConformance(LeaseConformance):
    """Leases of addresses."""

    @pytest.fixture
    def leases(self, new_source: NewSource) -> AddressLeases:
        return new_source()


STRAYS = """\
(setsid sleep 11111 &)
sudo sh -c '(setsid sleep 22222 &)'
docker network create left >/dev/null; docker volume create left >/dev/null
mkdir -p ~/runner-jobs/attempts/a; touch ~/kept
"""


def leave_strays(sandbox: Foreign) -> None:
    """Do what a job does that leaves things behind, as its user."""
    sandbox.started.await_docker()
    sandbox.started.sh(f"( {STRAYS} ) </dev/null >/dev/null 2>&1")
    assert sandbox.runs("sleep 11111")
    assert sandbox.runs("sleep 22222")


def assert_swept(sandbox: Foreign) -> None:
    assert not sandbox.runs("sleep 11111")
    assert not sandbox.runs("sleep 22222")
    assert "left" not in sandbox.execute("docker network ls; docker volume ls")


async def test_what_a_job_leaves_running_is_ended_as_far_as_root(
    new_source: NewSource, foreign: tuple[Foreign, Foreign]
) -> None:
    foreign[0].started.await_docker()
    leases = new_source(foreign[0])
    lease = await lend(leases, "a")
    leave_strays(foreign[0])
    await lease.kill()
    assert_swept(foreign[0])
    leave_strays(foreign[0])
    await lease.give_back(used=True)
    assert_swept(foreign[0])
    left = foreign[0].execute("ls -d ~sandbox/runner-jobs/attempts/a ~sandbox/kept 2>/dev/null || true").split()
    assert left == ["/home/sandbox/kept"]
    foreign[0].started.sh("docker version")  # what was there before goes on


GOES_ON = """\
(cd / && tar -hcf - usr/bin/sleep lib64 usr/lib/*/libc.so.6) | docker import - left:1 >/dev/null
docker run -d --restart always left:1 /usr/bin/sleep 33333
(setsid sh -c 'while :; do docker volume create; done' &)
"""


async def test_what_goes_on_to_leave_things_in_docker_leaves_nothing(
    new_source: NewSource, foreign: tuple[Foreign, Foreign]
) -> None:
    foreign[0].started.await_docker()
    lease = await lend(new_source(foreign[0]), "a")
    foreign[0].started.sh(f"( {GOES_ON} ) </dev/null >/dev/null 2>&1")
    until("a container runs", lambda: foreign[0].runs("sleep 33333"))
    until("it leaves volumes", lambda: foreign[0].execute("docker volume ls -q") != "")
    await lease.give_back(used=True)
    assert foreign[0].execute("docker ps -aq; docker volume ls -q") == ""


async def test_a_job_whose_runner_is_gone_is_waited_for_and_then_ended(
    new_source: NewSource, foreign: tuple[Foreign, Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign[0].started.await_docker()
    gone = new_source(foreign[0])
    await lend(gone, "a")
    leave_strays(foreign[0])
    leave(gone)
    leases = new_source(foreign[0])
    with pytest.raises(LeaseError, match="kept for a job whose runner is not heard of"):
        await lend(leases, "b", wait=0.0)
    monkeypatch.setattr(record_module, "TERM", -100.0)
    again = await lend(leases, "b")
    assert_swept(foreign[0])
    with pytest.raises(LeaseLostError):
        await leases.resume("a", token_of("a"))
    monkeypatch.undo()
    await again.give_back(used=False)


async def test_a_lease_outlives_the_process_that_had_it(new_source: NewSource) -> None:
    gone = new_source()
    before = await lend(gone, "a")
    leave(gone)
    leases = new_source()
    after = await leases.resume("a", token_of("a"))
    after.access.socket.close()
    assert (after.sandbox, after.generation) == (before.sandbox, before.generation)
    with pytest.raises(LeaseError, match="Another process"):
        await gone.resume("a", token_of("a"))
    await after.give_back(used=True)


async def test_what_is_known_of_each_address_is_told(
    new_source: NewSource, foreign: tuple[Foreign, Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = new_source()
    lease = await lend(leases, "a")
    lent, free = sorted(await leases.sandboxes(), key=lambda one: one.state)
    assert (lent.name, lent.state, lent.trust_key, lent.attempt) == (lease.sandbox, "leased", "team", "a")
    assert (free.state, free.trust_key, free.attempt, free.profile) == ("ready", None, None, None)
    monkeypatch.setattr(record_module, "TERM", -1.0)
    assert {one.state for one in await leases.sandboxes()} == {"orphaned", "ready"}
    await lease.condemn("It was left broken.")
    condemned = min(await leases.sandboxes(), key=lambda one: one.state)
    assert (condemned.state, condemned.reason, condemned.attempt) == ("condemned", "It was left broken.", None)
    wrong = new_source(foreign[0 if free.name == foreign[0].address else 1], key=foreign_key())
    with pytest.raises(LeaseUnreachableError):
        await lend(wrong, "b")
    [resting] = await wrong.sandboxes()
    assert (resting.state, "refused the login key" in (resting.reason or "")) == ("unreachable", True)


async def test_condemned_stays_condemned_until_somebody_says_otherwise(
    new_source: NewSource, foreign: tuple[Foreign, Foreign], tmp_path: Path
) -> None:
    await (await lend(new_source(foreign[0]), "a")).condemn("It broke.")
    later = new_source(foreign[0])
    with pytest.raises(
        LeaseError, match=r"was condemned: It broke\. Recreate it with a new host key .* remove "
    ) as said:
        await lend(later, "b")
    [path] = (tmp_path / "state").glob("*.json")
    assert str(path) in str(said.value)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    await (await lend(later, "b")).give_back(used=False)


async def test_a_sandbox_of_which_nobody_can_tell_is_condemned(new_source: NewSource, new_foreign: Foreigners) -> None:
    """The trap: a job that locks us out could leave anything running."""
    broken = new_foreign.start()
    leases = new_source(broken)
    lease = await lend(leases, "a")
    broken.execute("rm /run/sandbox/authorized_keys")
    with pytest.raises(LeaseError, match="may still run"):
        await lease.kill()
    await lease.give_back(used=True)
    with pytest.raises(LeaseError, match=r"was condemned: .*refused the login key"):
        await lend(leases, "b")


async def test_what_is_not_fit_for_a_job_yet_is_not_condemned(
    new_source: NewSource, foreign: tuple[Foreign, Foreign], new_foreign: Foreigners, tmp_path: Path
) -> None:
    """A wrong --identity is no fault of the sandbox, and a service may ask again."""
    leases = new_source(foreign[0], key=new_foreign.key.private)
    wrong = new_source(foreign[0], key=foreign_key())
    with pytest.raises(
        LeaseUnreachableError,
        match=r"is not fit for a job now: .*refused the login key, which is the one of --identity",
    ):
        await lend(wrong, "a")
    await (await lend(leases, "a")).give_back(used=False)
    known_wrong = Foreign(foreign[0].started, foreign[0].user, 22, foreign[1].host_key)
    with pytest.raises(LeaseUnreachableError, match="another host key"):
        await lend(new_source(known_wrong), "a")


def foreign_key() -> str:
    return new_identity("somebody").client.private


async def test_two_processes_of_this_host_never_share_one(
    new_source: NewSource, foreign: tuple[Foreign, Foreign], tmp_path: Path
) -> None:
    """And one that is killed leaves no lock behind."""
    leases = new_source(foreign[0])
    lock = leases._places[0].entry._lock_path
    with locked_elsewhere(lock), pytest.raises(LeaseError, match="is busy"):
        await lend(leases, "a", wait=0.0)
    await (await lend(leases, "a")).give_back(used=False)


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process has the lock, and is killed at the end."""
    code = "import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"\n"
        yield
        other.kill()


async def test_a_request_that_is_given_up_midway_leaves_the_sandbox_free(
    new_source: NewSource, foreign: tuple[Foreign, Foreign]
) -> None:
    leases = new_source(foreign[0])
    entry = leases._places[0].entry
    asking = asyncio.create_task(lend(leases, "a"))
    await eventually(lambda: entry.is_ours)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not entry.is_ours
    await (await lend(leases, "b", "others")).give_back(used=False)


async def test_one_sandbox_under_two_names_is_refused(new_source: NewSource, foreign: tuple[Foreign, Foreign]) -> None:
    with pytest.raises(InputError, match="have the same host key"):
        new_source(foreign[0], foreign[0])


async def test_a_profile_is_a_keepers(new_source: NewSource) -> None:
    with pytest.raises(LeaseError, match="There is no profile large here"):
        await new_source().lend("a", token_of("a"), "large", "team", 0.0, 0.0)


async def test_a_plain_openssh_server_will_do(new_source: NewSource, new_foreign: Foreigners) -> None:
    """No sudo, no Docker: what the job's user left is ended, and the rest of the machine is left alone."""
    plain = new_foreign.start_plain()
    plain.execute("setsid sleep 33333 >/dev/null 2>&1 &")
    lease = await lend(new_source(plain), "a")
    plain.execute("setsid sleep 44444 >/dev/null 2>&1 &", user="ci")
    plain.execute("setsid sleep 55555 >/dev/null 2>&1 &")
    assert plain.runs("sleep 44444")
    await lease.kill()
    assert [plain.runs(f"sleep {seconds}") for seconds in (33333, 44444, 55555)] == [True, False, True]
    await lease.give_back(used=True)
    plain.execute("usermod --non-unique --uid 0 ci")
    with pytest.raises(LeaseError, match="its user is root, whose every process would be ended"):
        await lend(new_source(plain), "b")
    assert plain.runs("sleep 33333")
