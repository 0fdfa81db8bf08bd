"""The judgement of evidence: each reason, what no job can hide, and no verdict better than its reasons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.inspection.evidence import Entry, Events, Evidence, FileKind, Inherited, Network, Process
from sandbox.inspection.judge import RULES, ReasonKind, Verdict, VerdictKind, judge, not_inspected
from sandbox.inspection.places import JOB_FOLDERS
from tests.sandbox.inspection.evidence import FILE, FOLDER, READY, SSHD, at, entry, mount, now, without

WHITEOUT = entry(FileKind.DELETED, FILE)
PIECES = st.sampled_from(
    ["etc", "usr", "bin", "run", "tmp", "home", "sandbox", "docker", "passwd", "x", "var", "lib", "\x1b[31m", "é\\xff"]
)
PATHS = st.lists(PIECES, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
INHERITED = st.builds(
    Inherited, st.sampled_from(list(FileKind)[:4]), st.sampled_from([0o644, 0o755]), st.just(0), st.just(0)
)
ENTRIES = st.builds(
    Entry,
    st.sampled_from(FileKind), st.sampled_from([0o644, 0o755]), st.just(0), st.just(0),
    st.integers(1, 3), st.integers(1, 3), st.none() | INHERITED, st.booleans(),
)  # fmt: skip
LOOKS = st.builds(
    lambda entries, processes, complete: now(entries=entries, processes=tuple(processes), complete=complete),
    st.dictionaries(PATHS, ENTRIES, max_size=8),
    st.lists(st.sampled_from([*READY.processes, Process(11, 5, "S", "x", "/x", "mnt:[2]"), SSHD._replace(state="T")])),
    st.booleans(),
)


def kinds(look: Evidence, then: Evidence = READY) -> set[ReasonKind]:
    return {reason.kind for reason in judge(then, look).reasons}


def test_nothing_changed_is_clean() -> None:
    assert judge(READY, READY) == Verdict(VerdictKind.CLEAN, ())


@given(LOOKS)
def test_nothing_changed_is_clean_whatever_was_there(look: Evidence) -> None:
    stopped = any(process.state == "T" for process in look.processes)
    if look.complete and not stopped and len(set(look.processes)) == len(look.processes):
        assert judge(look, look).kind is VerdictKind.CLEAN


@given(LOOKS, LOOKS)
def test_a_verdict_is_as_bad_as_its_worst_reason_and_fit_for_a_terminal(then: Evidence, look: Evidence) -> None:
    verdict = judge(then, look)
    order = list(VerdictKind)
    assert verdict.kind is max(
        (reason.verdict for reason in verdict.reasons), key=order.index, default=VerdictKind.CLEAN
    )
    worst_first = [order.index(reason.verdict) for reason in verdict.reasons]
    assert worst_first == sorted(worst_first, reverse=True)
    assert all(reason.sentence.isprintable() and len(reason.sentence) < 1000 for reason in verdict.reasons)


@given(LOOKS, PATHS, ENTRIES)
def test_no_change_goes_unnoticed_but_where_services_write(then: Evidence, path: str, changed: Entry) -> None:
    """The rule of the design: outside the places that are told apart, an entry that was not there is never clean."""
    before = then.entries.get(path)
    if changed.kind is FileKind.DELETED or (before and before.kind is not FileKind.DELETED):
        return
    if (changed.image and changed.kind is FileKind.FOLDER) or path.startswith(("/run/docker", "/run/runc")):
        return
    look = now(entries={**then.entries, path: changed}, processes=then.processes)
    assert judge(then, look).kind is not VerdictKind.CLEAN


@pytest.mark.parametrize(
    ("path", "found", "expected"),
    [
        ("/etc/sandbox/authorized_keys", entry(ctime=2), ReasonKind.LOGIN),
        ("/etc/sandbox/authorized_keys", entry(inode=8), ReasonKind.LOGIN),
        ("/etc/ssh/sshd_config", entry(image=FILE), ReasonKind.LOGIN),
        ("/etc/ssh/sshd_config.d/new", entry(), ReasonKind.LOGIN),
        ("/etc/passwd", entry(image=FILE), ReasonKind.ACCOUNTS),
        ("/etc/passwd", WHITEOUT, ReasonKind.ACCOUNTS),
        ("/etc/pam.d", entry(FileKind.FOLDER, FOLDER, hides=True), ReasonKind.ACCOUNTS),
        ("/etc/profile.d/new.sh", entry(), ReasonKind.START_UP),
        ("/home/sandbox/.bashrc", entry(image=FILE), ReasonKind.START_UP),
        ("/home/sandbox/.bashrc", WHITEOUT, ReasonKind.START_UP),
        ("/home/sandbox/new", entry(), ReasonKind.LEFTOVERS),
        ("/home/sandbox", entry(FileKind.FOLDER, FOLDER), None),
        ("/home/sandbox", entry(FileKind.FOLDER, FOLDER, mode=0o777), ReasonKind.JOB_FOLDERS),
        ("/home/sandbox/workspace", entry(FileKind.LINK, FOLDER), ReasonKind.JOB_FOLDERS),
        ("/tmp", entry(FileKind.DELETED, FOLDER), ReasonKind.JOB_FOLDERS),
        ("/usr/bin/git", entry(image=FILE), ReasonKind.PROGRAMS),
        ("/usr/bin/git", WHITEOUT, ReasonKind.PROGRAMS),
        ("/usr/bin/new", entry(), ReasonKind.SYSTEM),
        ("/usr/local/bin/git", entry(), ReasonKind.SHADOWED),
        ("/usr/local/bin/git", entry(FileKind.LINK), ReasonKind.SHADOWED),
        ("/usr/libexec/docker/cli-plugins/new", entry(), ReasonKind.PROGRAMS),
        ("/usr/share/doc", entry(FileKind.FOLDER, FOLDER), None),
        ("/usr/share/doc", entry(FileKind.FOLDER, FOLDER, uid=1000), ReasonKind.PROGRAMS),
        ("/usr/lib/x.so", entry(image=FILE), ReasonKind.LIBRARIES),
        ("/usr/lib/new.so", entry(), ReasonKind.SYSTEM),
        ("/etc/ld.so.preload", entry(), ReasonKind.LIBRARIES),
        ("/etc/ld.so.cache", entry(image=FILE), ReasonKind.SYSTEM),
        ("/etc/cron.d/new", entry(), ReasonKind.SCHEDULED),
        ("/etc/systemd/system/new.service", entry(), ReasonKind.SCHEDULED),
        ("/etc/systemd/system/x.wants/new.service", entry(FileKind.LINK), ReasonKind.SYSTEM),
        ("/run/docker.sock", entry(FileKind.OTHER, inode=8), ReasonKind.INNER_DOCKER),
        ("/run/docker.sock", entry(FileKind.FILE), ReasonKind.INNER_DOCKER),
        ("/run/docker/plugins/new.sock", entry(FileKind.OTHER), ReasonKind.INNER_DOCKER),
        ("/run/docker/netns/default", entry(), None),
        ("/run/runc", entry(FileKind.FOLDER), None),
        ("/run/runc", entry(FileKind.LINK), ReasonKind.INNER_DOCKER),
        ("/var/lib/docker/vfs", entry(FileKind.FOLDER), ReasonKind.INNER_DOCKER),
        ("/var/lib/docker/containers/abc", entry(FileKind.FOLDER), ReasonKind.INNER_LEFTOVERS),
        ("/var/lib/docker/volumes/metadata.db", entry(ctime=9), None),
        ("/etc/hosts", entry(ctime=2), ReasonKind.NAMES),
        ("/dev/fd", entry(FileKind.LINK), ReasonKind.DEVICES),
        ("/etc", entry(FileKind.FOLDER, FOLDER, inode=8), ReasonKind.FOLDERS),
        ("/etc", entry(FileKind.FOLDER, FOLDER, hides=True), ReasonKind.FOLDERS),
        ("/etc", entry(FileKind.FOLDER, FOLDER, mode=0o700), ReasonKind.FOLDERS),
        ("/etc", entry(FileKind.FOLDER, FOLDER, ctime=9), None),
        ("/", entry(FileKind.FOLDER, FOLDER, mode=0o700), ReasonKind.FOLDERS),
        ("/srv", entry(FileKind.DELETED, FOLDER), ReasonKind.FOLDERS),
        ("/opt/new", entry(), ReasonKind.SYSTEM),
        ("/var/lib/dpkg/status", entry(image=FILE), ReasonKind.SYSTEM),
    ],
)  # fmt: skip
def test_what_a_change_in_a_place_means(path: str, found: Entry, expected: ReasonKind | None) -> None:
    assert kinds(at(path, found)) == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/sandbox/authorized_keys", ReasonKind.LOGIN),
        ("/run/docker.sock", ReasonKind.INNER_DOCKER),
        ("/var/lib/docker/overlay2", ReasonKind.INNER_DOCKER),
    ],
)
def test_what_was_made_at_the_start_and_is_gone(path: str, expected: ReasonKind) -> None:
    """The trap: what is only in the upper directory leaves no whiteout when it is removed."""
    assert kinds(without(path)) == {expected}


def test_what_is_gone_with_its_folder_is_told_once() -> None:
    look = without("/etc/sandbox/authorized_keys")
    del look.entries["/etc/sandbox"]
    look.entries["/etc/sandbox"] = entry(FileKind.DELETED, FOLDER)
    [reason, *_] = judge(READY, look).reasons
    assert "/etc/sandbox" in reason.sentence


def test_what_is_hidden_by_a_mount_is_not_said_to_be_removed() -> None:
    look = without("/etc/hosts")
    assert kinds(now(entries=look.entries, mounts=(*READY.mounts, mount("/etc", number=9)))) == {ReasonKind.MOUNTS}


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ((mount("/etc"),), ReasonKind.MOUNTS),
        ((mount("/"),), ReasonKind.MOUNTS),
        ((mount("/usr/share/new"),), ReasonKind.MOUNTS),
        ((mount("/proc/sys"),), ReasonKind.MOUNTS),
        ((mount("/var/lib"),), ReasonKind.MOUNTS),
        ((mount("/mnt/x"),), ReasonKind.OTHER_MOUNTS),
        ((mount("/tmp"),), ReasonKind.OTHER_MOUNTS),
        ((mount("/run/docker/netns/default", "nsfs"),), None),
        ((mount("/run/docker/netns/default", "tmpfs"),), ReasonKind.MOUNTS),
        ((mount("/var/lib/docker/overlay2/x/merged", "overlay"),), ReasonKind.INNER_LEFTOVERS),
        ((mount("/var/lib/docker/buildkit/executor/x/rootfs", "overlay"),), ReasonKind.INNER_LEFTOVERS),
        ((mount("/var/lib/docker/overlay2"),), ReasonKind.MOUNTS),
        ((mount("/dev"),), ReasonKind.MOUNTS),
    ],
)
def test_what_a_new_mount_means(mounts: tuple[object, ...], expected: ReasonKind | None) -> None:
    assert kinds(now(mounts=(*READY.mounts, *mounts))) == ({expected} if expected else set())


def test_a_mount_that_is_gone_or_has_other_options() -> None:
    assert kinds(now(mounts=READY.mounts[:-1])) >= {ReasonKind.MOUNTS}
    read_only = READY.mounts[0]._replace(options="ro")
    assert kinds(now(mounts=(read_only, *READY.mounts[1:]))) >= {ReasonKind.MOUNTS}


def test_mounts_shared_with_other_namespaces() -> None:
    shared = READY.mounts[0]._replace(propagation="shared")
    assert kinds(now(mounts=(shared, *READY.mounts[1:]))) == {ReasonKind.OTHER_MOUNTS}


@pytest.mark.parametrize(
    "changed",
    [SSHD._replace(start_time=101), SSHD._replace(program="/tmp/x"), SSHD._replace(mounts="mnt:[2]"),
     SSHD._replace(state="T"), SSHD._replace(state="t")],
)  # fmt: skip
def test_a_service_that_is_not_what_it_was(changed: Process) -> None:
    assert ReasonKind.SERVICES in kinds(now(processes=(changed, READY.processes[1])))


def test_processes_that_were_not_there() -> None:
    stranger = Process(11, 5, "S", "sleep\n\x1b[2J", "/x", "mnt:[2]")
    verdict = judge(READY, now(processes=(*READY.processes, stranger)))
    assert verdict.kind is VerdictKind.CLEANABLE
    assert [reason.kind for reason in verdict.reasons] == [ReasonKind.PROCESSES]
    assert verdict.reasons[0].sentence.isprintable()


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Network(("lo",), ()), ReasonKind.NETWORK),
        (Network(("eth0", "lo"), ()), ReasonKind.NETWORK),
        (READY.network._replace(interfaces=("eth0", "lo", "spy0")), ReasonKind.OTHER_NETWORK),
    ],
)
def test_what_a_change_of_the_network_means(network: Network, expected: ReasonKind) -> None:
    assert kinds(now(network=network)) == {expected}


def test_a_route_is_named_by_where_it_leads() -> None:
    look = now(network=READY.network._replace(routes=(("eth0", "000200C0", "00000000", "00FFFFFF"),)))
    sentences = [reason.sentence for reason in judge(READY, look).reasons]
    assert sentences[0].startswith("The route to 192.0.2.0 through eth0 was added; ")
    assert sentences[1].startswith("The route to everywhere through eth0 was removed; ")


def test_an_interface_that_is_being_made_is_left_to_the_cleaning() -> None:
    """The trap: `docker swarm init` returns before its network is there, whose interfaces change their names on the way
    (`vx-001000-kioec` for 20 ms); a look in between must not say that the job has made an interface of its own."""
    swarm = READY.network._replace(interfaces=("docker_gwbridge", "eth0", "lo", "vx-001000-kioec"))
    assert judge(READY, now(network=swarm)).kind is VerdictKind.CLEANABLE


def test_limits_that_were_hit_are_told_and_change_nothing() -> None:
    verdict = judge(READY, now(events=Events(1, 1)))
    assert verdict.kind is VerdictKind.CLEAN
    assert {reason.kind for reason in verdict.reasons} == {ReasonKind.OUT_OF_MEMORY, ReasonKind.TOO_MANY_PROCESSES}


def test_a_look_that_was_not_finished_is_damage() -> None:
    assert kinds(now(complete=False, entries={})) == {ReasonKind.TOO_MUCH}


@pytest.mark.parametrize("folder", JOB_FOLDERS)
def test_a_crowded_folder_of_the_jobs_is_emptied(folder: str) -> None:
    assert judge(READY, now(crowded=(folder,))).kind is VerdictKind.CLEANABLE


def test_no_answer_is_an_answer() -> None:
    verdict = not_inspected("it hung\n")
    assert verdict.kind is VerdictKind.DAMAGED
    assert str(verdict).isprintable()


def test_a_sentence_says_what_was_seen_and_why_that_matters() -> None:
    wrapped = {f"/usr/bin/{name}": entry(image=FILE) for name in ("git", "docker", "bash", "curl", "ls")}
    [reason] = judge(READY, now(entries={**READY.entries, **wrapped})).reasons
    assert reason.sentence.startswith("/usr/bin/git, /usr/bin/docker, /usr/bin/bash and 2 more were changed; ")
    assert "the next job would run something else" in reason.sentence


def test_every_kind_of_reason_has_a_rule() -> None:
    assert set(RULES) == set(ReasonKind)
