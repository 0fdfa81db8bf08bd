"""The space of one sandbox on the host's disk, counted on the host's side, whatever a job made there. Needs root."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.disk import measure, watcher
from sandbox.disk.watch import Usage
from sandbox.disk.watcher import Inside, OnDisk
from sandbox.inspection import gather
from sandbox.inspection.evidence import Baseline, Mount
from sandbox.processes import Process
from tests.sandbox.inspection.evidence import READY, mount

MIB = 1024**2


def usage_of(*trees: Path, seconds: float = 20.0) -> Usage:
    found = watcher.measure(OnDisk(True, 0, "no-such-container", tuple(map(str, trees))), seconds)
    assert found is not None
    return found


def fill(path: Path, size: int) -> Path:
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with 3 MiB in three files, one of them deep."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("one", "a/two", "a/b/three"):
        fill(tmp_path / name, MIB)
    return tmp_path


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file system of its own below a folder of the test."""
    below = tmp_path / "mounted"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(below)], check=True)
    yield below
    subprocess.run(["umount", "--lazy", str(below)], check=True)


def test_blocks_and_files_of_all_trees_are_added_up(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    fill(other / "four", MIB)
    found = usage_of(tree, other)
    assert found.complete
    assert 4 * MIB <= found.amount.bytes < 4.1 * MIB
    assert found.amount.files == 4 + 4, "four files, four folders"


def test_it_agrees_with_du(tree: Path) -> None:
    said = subprocess.run(["du", "-s", "--block-size=1", str(tree)], capture_output=True, text=True, check=True)
    assert usage_of(tree).amount.bytes == int(said.stdout.split()[0])


def test_a_sparse_file_counts_what_was_written_of_it(tree: Path) -> None:
    """The trap: adding up sizes, which an exabyte that takes nothing would take over any limit."""
    before = usage_of(tree).amount.bytes
    os.truncate(tree / "one", 2**43)
    assert usage_of(tree).amount.bytes - before < MIB


def test_what_is_reserved_and_not_written_counts(tree: Path) -> None:
    with (tree / "reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 50 * MIB)
    assert usage_of(tree).amount.bytes > 53 * MIB


def test_a_file_with_many_names_counts_once(tree: Path) -> None:
    before = usage_of(tree).amount
    for number in range(100):
        (tree / "a" / f"link{number}").hardlink_to(tree / "one")
    after = usage_of(tree).amount
    assert after.files == before.files
    assert after.bytes - before.bytes < 64 * 1024, "but the folder that holds the names"


def test_links_pipes_and_devices_are_not_followed_or_opened(tree: Path) -> None:
    (tree / "etc").symlink_to("/usr")
    (tree / "loop").symlink_to(tree)
    (tree / "self").symlink_to("self")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "whiteout", 0o020000, 0)
    found = usage_of(tree)
    assert found.complete
    assert found.amount.bytes < 4 * MIB


def test_names_may_be_any_bytes(tree: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m", b"x" * 255):
        (Path(os.fsdecode(os.fsencode(tree) + b"/" + name))).mkdir()
        fill(Path(os.fsdecode(os.fsencode(tree) + b"/" + name + b"/in it")), MIB)
    assert usage_of(tree).amount.bytes > 7 * MIB


def test_what_is_mounted_below_is_not_counted(tree: Path, mounted: Path) -> None:
    """The trap: the overlays of inner containers show the same files again."""
    before = usage_of(tree).amount
    fill(mounted / "more", 10 * MIB)
    assert usage_of(tree).amount == before


def test_a_tree_that_is_deeper_than_any_path_is_followed_until_its_bound(tmp_path: Path) -> None:
    """Longer than PATH_MAX, made step by step as a job would."""
    script = (
        "import os,sys\nos.chdir(sys.argv[1])\n"
        "for i in range(1500):\n"
        "    os.mkdir('d'*100); os.chdir('d'*100)\n"
        "    if i == 900: open('file', 'wb').write(b'x' * 1024**2)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    found = usage_of(tmp_path)
    assert not found.complete
    assert found.amount.bytes > MIB
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


def test_when_its_time_is_over_it_tells_what_it_has(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / str(number)).touch()
    found = usage_of(tmp_path, seconds=0.0)
    assert not found.complete
    assert found.amount.files < 3000


def test_a_tree_that_changes_while_it_is_counted_is_no_error(tmp_path: Path) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(50):
                (tmp_path / f"d{number}" / "e").mkdir(parents=True, exist_ok=True)
            for number in range(50):
                (tmp_path / f"d{number}" / "e").rmdir()
                (tmp_path / f"d{number}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(5):
            assert usage_of(tmp_path).complete
    finally:
        stop.set()
        thread.join()


INSIDE = """
import subprocess, sys
print("there", flush=True)
for line in sys.stdin:
    subprocess.run(line, shell=True, check=True)
    print("done", flush=True)
"""


class Namespace:
    """A process with a mount namespace of its own, and a folder that only a mount there shows."""

    def __init__(self, process: subprocess.Popen[str], point: Path) -> None:
        self.process = process
        self.point = point
        self.root = Path(f"/proc/{process.pid}/root")
        self.run(f"mount -t tmpfs -o size=64m tmpfs {point}")
        self.start = gather.start_of(process.pid)
        self.mounts = tuple(Mount(*mount) for mount in gather.mounts_of(process.pid) if mount[3] == str(point))

    def run(self, command: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() in ("there\n", "done\n")

    def fill(self, name: str, mib: int) -> None:
        self.run(f"head -c {mib}M /dev/zero >{self.point}/{name}")

    def usage(self, start: int | None = None) -> int:
        inside = Inside(self.process.pid, self.start if start is None else start, self.mounts)
        found = watcher.measure(OnDisk(True, 0, "no-such-container", (), inside))
        assert found is not None
        assert found.complete
        return found.amount.bytes


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    (tmp_path / "point").mkdir()
    command = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", INSIDE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield Namespace(process, tmp_path / "point")
        process.kill()


def test_what_only_a_mount_of_the_sandbox_shows_is_counted(namespace: Namespace) -> None:
    """The trap: sysbox mounts folders of its own, and what a job puts there is in no tree that the keeper knows."""
    assert namespace.usage() == 0
    namespace.fill("file", 3)
    assert namespace.usage() == 3 * MIB


def test_what_is_on_several_file_systems_is_told_apart(namespace: Namespace, tree: Path) -> None:
    namespace.fill("file", 5)
    inside = Inside(namespace.process.pid, namespace.start, namespace.mounts)
    found = watcher.measure(OnDisk(True, 0, "no-such-container", (str(tree),), inside))
    assert found is not None
    major, minor = map(int, namespace.mounts[0].device.split(":"))
    assert found.parts[os.makedev(major, minor)].bytes == 5 * MIB
    assert found.amount == usage_of(tree).amount.plus(found.parts[os.makedev(major, minor)])


def test_what_a_job_mounts_there_is_not_entered_or_counted_twice(namespace: Namespace) -> None:
    namespace.fill("file", 3)
    namespace.run(f"mkdir {namespace.point}/a {namespace.point}/b && head -c 2M /dev/zero >{namespace.point}/a/more")
    assert namespace.usage() == 5 * MIB
    namespace.run(f"mount --bind {namespace.point}/a {namespace.point}/b")
    assert namespace.usage() == 5 * MIB


def test_another_mount_at_the_same_point_is_not_entered(namespace: Namespace) -> None:
    namespace.run(f"mount -t tmpfs tmpfs {namespace.point}")
    namespace.fill("file", 3)
    assert namespace.usage() == 0


def test_a_link_on_the_way_is_not_followed(namespace: Namespace, tmp_path: Path) -> None:
    """The trap: it would lead to a folder of the host, and the mount that is meant is elsewhere by now."""
    namespace.fill("file", 3)
    (tmp_path / "elsewhere").mkdir()
    above = os.open(namespace.root, os.O_PATH)
    try:
        os.close(measure._open_beneath(above, str(namespace.point)))
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(OSError, match="Not a directory"):
            measure._open_beneath(above, str(tmp_path / "link" / "point"))
    finally:
        os.close(above)


def test_a_process_that_took_the_id_of_the_first_one_is_not_looked_into(namespace: Namespace) -> None:
    namespace.fill("file", 3)
    assert namespace.usage(start=namespace.start + 1) == 0


def test_a_first_process_that_has_ended_is_no_error(namespace: Namespace) -> None:
    namespace.process.kill()
    namespace.process.wait()
    assert namespace.usage() == 0


def test_the_mounts_that_sysbox_makes_by_itself_are_the_ones() -> None:
    kubelet = mount("/var/lib/kubelet", "ext4")
    recorded = Baseline("c0ffee", 7, replace(READY, mounts=(*READY.mounts, kubelet)))
    assert Inside.recorded(recorded) == Inside(7, READY.init_start, (kubelet,))


HOLDER = """
import mmap, os, sys, time
file = open(sys.argv[1], "w+b")
file.write(b"x" * 8 * 1024**2); file.flush()
os.unlink(sys.argv[1])
again = os.dup(file.fileno())
unnamed = os.open(os.path.dirname(sys.argv[1]), os.O_TMPFILE | os.O_RDWR)
os.write(unnamed, b"x" * 4 * 1024**2)
memory = os.memfd_create("memory")
os.write(memory, b"x" * 32 * 1024**2)
print("there", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds 12 MiB on the disk without a name, half of it by two descriptors, and 32 MiB of memory."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "deleted")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_files_without_a_name_are_found_by_who_holds_them_open(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a deleted file that is still written to is in no folder."""
    assert usage_of(tmp_path).amount.bytes < MIB
    monkeypatch.setattr("sandbox.processes.of_container", lambda _: frozenset({Process(holder.pid, 1)}))
    found = usage_of(tmp_path)
    assert found.complete
    assert 12 * MIB <= found.amount.bytes < 13 * MIB


def test_a_process_that_has_ended_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    monkeypatch.setattr("sandbox.processes.of_container", lambda _: frozenset({Process(process.pid, 1)}))
    assert usage_of(tmp_path).complete


def test_a_tree_that_is_gone_has_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert watcher.measure(OnDisk(True, 0, "c0ffee", (str(tmp_path / "gone"),))) is None
    assert "the disk usage of container c0ffee is not known: it ended with 1: FileNotFoundError" in caplog.text


def test_the_measuring_function_itself_in_this_process(tree: Path) -> None:
    """What the child runs, without the child."""
    found = measure.measure({"trees": [str(tree)], "inside": None, "pids": [os.getpid()], "seconds": 20})
    assert found["complete"]
    sizes = {device: size for device, size, _ in found["parts"]}
    assert sizes[tree.stat().st_dev] >= 3 * MIB
