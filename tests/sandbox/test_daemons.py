"""The daemons of a runtime: which they are, and what their end means."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import daemons, processes, procfs
from sandbox.daemons import Daemon, Daemons, lacking, lost
from sandbox.errors import Fault
from sandbox.processes import Process
from tests.sandbox.test_processes import stat
from tests.stand_ins import StandIn, both, service, unique
from tests.waiting import until

READ = procfs.read
SYSBOX = daemons.SERVICES["sysbox-runc"]
PROCESSES = st.builds(Process, st.integers(1, 5), st.integers(1, 5))
DAEMONS = st.frozensets(st.builds(Daemon, st.sampled_from(SYSBOX.programs), PROCESSES))

# -- what is decided --------------------------------------------------------------------------------------------------


@given(DAEMONS, st.frozensets(PROCESSES))
def test_a_sandbox_is_lost_exactly_when_one_of_its_own_daemons_has_ended(
    rests_on: frozenset[Daemon], there: frozenset[Process]
) -> None:
    fault = lost(rests_on, there)
    ended = {daemon.program for daemon in rests_on if daemon.process not in there}
    assert (fault is not None) == bool(ended)
    if fault:
        assert fault.fault is Fault.RUNTIME_LOST
        assert all(program in str(fault) for program in ended)


@given(st.frozensets(PROCESSES))
def test_of_which_nothing_is_known_is_never_lost(there: frozenset[Process]) -> None:
    assert lost((), there) is None


def test_the_same_id_at_another_time_is_another_process() -> None:
    """The trap: systemd starts it again at once, and process ids come again."""
    assert lost({Daemon("sysbox-fs", Process(7, 100))}, {Process(7, 101), Process(8, 100)})


@given(DAEMONS)
def test_what_lacks_is_named(running: frozenset[Daemon]) -> None:
    missing = set(SYSBOX.programs) - {daemon.program for daemon in running}
    sentence = lacking(SYSBOX, running)
    assert (sentence is None) == (not missing)
    if sentence:
        assert {program for program in SYSBOX.programs if program in sentence} == missing


# -- which they are ---------------------------------------------------------------------------------------------------


class Proc:
    """A made-up /proc of processes called sysbox-fs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int, start: int = 7, uid: int = 0, inner_pids: str = "", comm: str = "sysbox-fs") -> None:
        entry = self.folder / str(pid)
        entry.mkdir()
        (entry / "comm").write_text(f"{comm}\n")
        (entry / "stat").write_text(stat(start=start, command=comm))
        uids = "\t".join([str(uid)] * 4)
        (entry / "status").write_text(f"Name:\t{comm}\nState:\tS\nUid:\t{uids}\nNSpid:\t{pid}{inner_pids}\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(procfs, "PROC", str(tmp_path))
    return Proc(tmp_path)


def found() -> frozenset[Daemon]:
    return daemons.running(SYSBOX.programs)


def test_the_hosts_own_are_found_by_name(proc: Proc) -> None:
    proc.add(41)
    proc.add(42, start=9, comm="sysbox-mgr")
    proc.add(43, comm="sysbox-fsx")
    assert found() == {Daemon("sysbox-fs", Process(41, 7)), Daemon("sysbox-mgr", Process(42, 9))}


@pytest.mark.parametrize("job", [{"uid": 165536, "inner_pids": "\t12"}, {"inner_pids": "\t12"}, {"uid": 165536}])
def test_a_jobs_process_called_sysbox_fs_is_none(proc: Proc, job: dict[str, object]) -> None:
    """The trap: it would stand for a daemon that does not run, or its end would end everybody's jobs."""
    proc.add(41, **job)  # type: ignore[arg-type]
    assert found() == frozenset()
    proc.add(99, start=50)
    assert found() == {Daemon("sysbox-fs", Process(99, 50))}


def test_of_several_it_is_the_first_and_not_its_helper(proc: Proc) -> None:
    """sysbox-fs starts itself again for what it does inside a sandbox."""
    proc.add(7, start=90)
    proc.add(80, start=8)
    assert found() == {Daemon("sysbox-fs", Process(80, 8))}


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(proc: Proc) -> None:
    proc.add(41)
    (proc.folder / "41" / "status").unlink()
    assert found() == frozenset()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    made = StandIn(tmp_path, unique("fs"))
    yield made
    made.end()


def test_a_real_one_is_found_and_a_real_jobs_of_the_name_is_not(stand_in: StandIn, tmp_path: Path) -> None:
    job = StandIn(tmp_path / "inside", stand_in.program)
    job.start_inside("unshare", "--pid", "--fork", "--kill-child")
    try:
        until("the job's runs", lambda: stand_in.program in commands())
        assert stand_in.running is None
        stand_in.start()
        assert stand_in.running
    finally:
        job.end()


def commands() -> Iterator[str]:
    """What runs, by name, wherever."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield comm.read_text().strip()


# -- what is known of them --------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandIn, StandIn]]:
    monkeypatch.setattr(daemons, "SEARCH_INTERVAL", 0.0)
    with both(tmp_path, started=False) as made:
        yield made


def looked(known: Daemons) -> str | None:
    known.look(["ours", "other"])
    return known.refusal(["ours"])


def test_while_one_does_not_run_nothing_may_be_made_and_then_it_may(pair: tuple[StandIn, StandIn]) -> None:
    fs, mgr = pair
    known = Daemons(lambda: True, {"ours": service(pair)})
    for one in pair:
        one.start()
    assert looked(known) is None
    for one in pair:
        one.end()
    refusal = looked(known) or ""
    assert f"{fs.program} and {mgr.program} do not run" in refusal
    assert "`systemctl start stand-in`" in refusal
    fs.start()
    assert f": {mgr.program} does not run" in (looked(known) or "")
    mgr.start()
    assert looked(known) is None
    assert known.of("ours") == {fs.running, mgr.running}
    fs.end()
    assert f": {fs.program} does not run" in (looked(known) or "")
    assert known.refusal(["other"]) is None
    assert known.of("other") == frozenset()


def test_one_that_never_ran_is_not_missed(pair: tuple[StandIn, StandIn]) -> None:
    """The trap: where it has another name, nothing would ever be lent."""
    fs, mgr = pair
    known = Daemons(lambda: True, {"ours": service(pair)})
    assert looked(known) is None
    fs.start()
    assert looked(known) is None
    assert known.of("ours") == {fs.running}
    fs.end()
    assert f": {fs.program} does not run" in (looked(known) or "")
    assert mgr.program not in (looked(known) or "")


def test_one_that_was_replaced_between_two_looks_is_another(pair: tuple[StandIn, StandIn]) -> None:
    for one in pair:
        one.start()
    known = Daemons(lambda: True, {"ours": service(pair)})
    assert looked(known) is None
    before = known.of("ours")
    assert daemons.check(before) is None
    pair[0].restart()
    fault = daemons.check(before)
    assert fault
    assert (fault.fault, pair[0].program in str(fault)) == (Fault.RUNTIME_LOST, True)
    assert looked(known) is None
    assert known.of("ours") == {pair[0].running, pair[1].running} != before


def test_who_does_not_see_the_host_knows_nothing(pair: tuple[StandIn, StandIn]) -> None:
    known = Daemons(lambda: False, {"ours": service(pair)})
    assert looked(known) is None
    assert known.of("ours") == frozenset()


def test_where_no_runtime_rests_on_anything_nobody_is_asked() -> None:
    def asked() -> bool:
        raise AssertionError

    known = Daemons(asked, {"sysbox-runc": SYSBOX})
    known.look(["runc", "userns-runc"])
    assert known.refusal(["runc"]) is None


def test_what_cannot_be_read_is_no_end(pair: tuple[StandIn, StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a keeper without a file descriptor left would throw everybody's sandboxes away."""

    def unreadable(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    for one in pair:
        one.start()
    known = Daemons(lambda: True, {"ours": service(pair)})
    assert looked(known) is None
    monkeypatch.setattr(procfs, "read", unreadable)
    assert looked(known) is None
    assert daemons.check(known.of("ours")) is None
    monkeypatch.setattr(procfs, "read", READ)
    monkeypatch.setattr(processes, "of_host", unreadable)
    assert looked(Daemons(lambda: True, {"ours": service(pair)})) is None
    pair[0].end()
    assert f": {pair[0].program} does not run" in (looked(known) or "")


def test_a_search_is_not_made_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes through every process of the host, and a busy keeper looks ten times a second."""
    searches = Mock(return_value={})
    monkeypatch.setattr(processes, "of_host", searches)
    known = Daemons(lambda: True, {"ours": SYSBOX})
    for _ in range(2):
        looked(known)
    assert searches.call_count == 1
