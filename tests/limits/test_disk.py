"""The watcher sees the space that real sandboxes take on the host's disk, and stops them in time. Needs root."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from sandbox import freezer
from sandbox.disk.watch import ALARM, RELIEF, DiskWatch, Usage
from sandbox.disk.watcher import DiskWatcher, Inside, OnDisk, measure, rooms
from sandbox.errors import Fault
from sandbox.inspection import inspector
from tests.e2e.conftest import DEADLINE, Keeper, leased, run, run_json, start
from tests.foreign import Foreigners
from tests.programs import Program
from tests.waiting import until

MIB = 1024**2
FASTEST = 256 * MIB
PACE = 100 * MIB

WRITER = f"""
    import time
    began, wrote = time.monotonic(), 0
    with open("file", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * {MIB})
            wrote += {MIB}
            time.sleep(max(0.0, wrote / {PACE} - (time.monotonic() - began)))
"""
VOLUMES = "/var/lib/docker/volumes"
# Each takes 64 MiB in a way of its own, as a job would, says so, and waits.
TAKES = {
    "home": "head -c 64M /dev/zero >file",
    "root": "sudo head -c 64M /dev/zero | sudo tee /usr/local/file >/dev/null",
    "reserved": "fallocate -l 64M file",
    "many files": "mkdir many; cd many; head -c 64M /dev/zero | split -b 64K -a 4",
    "inner volume": f"docker volume create vol; head -c 64M /dev/zero | sudo tee {VOLUMES}/vol/_data/f >/dev/null",
    "deleted": "exec 3>file; rm file; head -c 64M /dev/zero >&3",
    "hidden by a mount": "mkdir m; head -c 64M /dev/zero >m/file; sudo mount -t tmpfs none m",
}


def sandbox_of(client: docker.DockerClient, name: str, limit: int = 2**60) -> OnDisk:
    container = client.containers.get(name)
    volume = client.api.inspect_volume(name)["Mountpoint"]
    assert container.id is not None
    return OnDisk(True, limit, container.id, (container.attrs["GraphDriver"]["Data"]["UpperDir"], volume))


@contextmanager
def job(keeper: Keeper, script: str) -> Iterator[Program]:
    process = start(keeper, script)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def measured(sandbox: OnDisk) -> Usage:
    usage = measure(sandbox)
    assert usage is not None
    assert usage.complete
    return usage


@pytest.mark.parametrize("way", TAKES)
def test_whatever_a_job_takes_is_seen_on_the_host(small: Keeper, docker_client: docker.DockerClient, way: str) -> None:
    with job(small, f"{{ {TAKES[way]}; }}\necho taken\nsleep 1000") as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("taken\n", ""):
            pass
        usage = measured(sandbox_of(docker_client, leased(small).name))
    assert 64 * MIB <= usage.amount.bytes < 128 * MIB


class Freezing:
    """Stands in for the keeper: one leased sandbox, which stands still and ends as the keeper's do."""

    def __init__(self, client: docker.DockerClient, name: str, sandbox: OnDisk, place: Path | None = None) -> None:
        self.place = place or Path(sandbox.trees[0])
        """Where it writes."""
        self.container = client.containers.get(name)
        self.name = name
        self.sandbox = sandbox
        self.frozen = threading.Event()
        self.condemned: list[tuple[Fault, str, int]] = []
        self._freezer = freezer.Freezer()
        self._cgroup = freezer.group_of(self.container.attrs["State"]["Pid"], sandbox.container_id)

    def sandboxes(self) -> Mapping[str, OnDisk]:
        return {} if self.condemned else {self.name: self.sandbox}

    def freeze(self, name: str) -> None:
        self._freezer.freeze(self._cgroup)
        self.frozen.set()

    def thaw(self, name: str) -> None:
        self._freezer.thaw(self._cgroup)

    def condemn(self, name: str, fault: Fault, sentence: str) -> None:
        free = rooms([self.place])[0].free.bytes
        self.condemned.append((fault, sentence, free))
        self.container.kill()  # the keeper sees that, and removes it

    def evict(self, name: str, sentence: str) -> None:
        raise AssertionError(sentence)


def test_a_job_that_writes_without_end_is_stopped_before_the_reserve_and_loses_its_sandbox_only(
    small: Keeper, docker_client: docker.DockerClient
) -> None:
    others = {sandbox.name for sandbox in small.ready()}
    with job(small, f"python3 - <<'PYTHON'\n{textwrap.dedent(WRITER)}\nPYTHON\n") as process:
        name = leased(small).name
        keeper = Freezing(docker_client, name, sandbox_of(docker_client, name))
        root = Path(docker_client.info()["DockerRootDir"])
        reserve = rooms([root])[0].free.bytes - int((RELIEF + 0.5) * FASTEST)
        watcher = DiskWatcher(DiskWatch(FASTEST, reserve), keeper, [root])
        thread = threading.Thread(target=watcher.run)
        thread.start()
        try:
            until("it is condemned", lambda: keeper.condemned)
            until("there is room again", lambda: watcher.refusal is None)
        finally:
            watcher.stop()
            thread.join(DEADLINE)
        [(fault, sentence, free)] = keeper.condemned
        assert keeper.frozen.is_set()
        assert fault is Fault.HOST_DISK
        assert reserve <= free <= reserve + ALARM * FASTEST, sentence
        process.kill()  # it would tell that its sandbox was lost, after as long as it takes for that to be certain
    small.settle()
    assert others - {name} <= {sandbox.name for sandbox in small.ready()}
    assert run(small, "echo fine").stdout == "fine\n"


def test_a_job_that_fills_a_folder_that_sysbox_mounts_is_stopped_before_the_reserve_of_that_file_system(
    new_foreign: Foreigners, docker_client: docker.DockerClient
) -> None:
    """Here a file system of the engine's making stands for it, so that it is another than the engine's own."""
    reserve, kubelet = 200 * MIB, "/var/lib/kubelet"
    size = reserve + int((RELIEF + 0.5) * FASTEST)
    foreign = new_foreign.start(tmpfs={kubelet: f"size={size},mode=1777"})
    foreign.started.container.reload()
    pid, container = foreign.started.container.attrs["State"]["Pid"], foreign.started.container
    assert container.id
    inside = Inside.recorded(inspector.record(container.id, pid, time.monotonic() + DEADLINE))
    upper = container.attrs["GraphDriver"]["Data"]["UpperDir"]
    place = Path(f"/proc/{pid}/root{kubelet}")
    keeper = Freezing(docker_client, container.id, OnDisk(True, 2**60, container.id, (upper,), inside), place)
    root = Path(docker_client.info()["DockerRootDir"])
    watcher = DiskWatcher(DiskWatch(FASTEST, reserve), keeper, [root], [place])
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        until("both are watched", lambda: len(watcher.rooms) == 2)
        container.exec_run(["python3", "-c", textwrap.dedent(WRITER)], workdir=kubelet, detach=True)
        until("it is condemned", lambda: keeper.condemned)
        until("its folders are gone with it", lambda: len(watcher.rooms) == 1 and watcher.refusal is None)
    finally:
        watcher.stop()
        thread.join(DEADLINE)
    [(fault, sentence, free)] = keeper.condemned
    assert fault is Fault.HOST_DISK
    assert f"are left at {place}" in sentence
    assert "MiB there since it was last measured" in sentence
    assert reserve <= free <= reserve + ALARM * FASTEST, sentence


def test_what_a_job_writes_to_the_containers_log_is_bounded(small: Keeper, docker_client: docker.DockerClient) -> None:
    """The engine keeps the log outside of what is counted, and a root inside can write to it."""
    name = run(
        small, "hostname; yes 'a line for the log' | head -c 40M | sudo tee /proc/1/fd/1 >/dev/null"
    ).stdout.strip()
    log = Path(docker_client.containers.get(name).attrs["LogPath"])
    assert log.stat().st_size > 0
    assert sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*")) < 21 * 10**6, "two files of 10 MB"


def test_a_job_over_its_profiles_disk_is_ended_with_the_sentence(new_keeper: Callable[..., Keeper]) -> None:
    keeper = new_keeper(config='[profiles.default]\nwarm = 1\ndisk = "256MiB"\n', warm=1)
    keeper.start()
    outcome = run_json(keeper, "head -c 1G /dev/zero >file; sleep 120")
    assert outcome["outcome"] == "sandbox_lost"
    assert "its profile allows 256 MiB (`disk`)" in str(outcome["message"])
    assert keeper.last_condemned().fault is Fault.DISK_LIMIT
    assert run(keeper, "echo fine").stdout == "fine\n"
    keeper.stop()
