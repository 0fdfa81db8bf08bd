"""The child's view of a real overlay, with the files that a hostile root leaves in it. Needs no engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.inspection import inspector
from sandbox.inspection.evidence import Baseline, Evidence, FileKind
from sandbox.inspection.judge import ReasonKind, Verdict, VerdictKind
from sandbox.inspection.places import IMPLICIT_FOLDERS

INIT = """
import ctypes, os, subprocess, sys
root, options = sys.argv[1:]
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root + "/dev"], check=True)
os.chroot(root)
os.chdir("/")
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@dataclass
class Box:
    """A process whose root is an overlay, as a sandbox's first process has one."""

    process: subprocess.Popen[str]
    upper: Path
    baseline: Baseline | None = None

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.process.pid}/root")

    def record(self) -> Baseline:
        self.baseline = inspector.record("no container", self.process.pid, time.monotonic() + 10).with_services(())
        return self.baseline

    def look(self) -> Verdict:
        assert self.baseline
        return inspector.inspect(self.baseline, time.monotonic() + 10)

    def kinds(self) -> set[ReasonKind]:
        return {reason.kind for reason in self.look().reasons}

    def mount(self, *words: str) -> None:
        """Mount something in the process's own mount namespace."""
        subprocess.run(["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--", "mount", *words], check=True)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An image of two layers, the upper one with a whiteout, as `docker build` makes them."""
    for name in ("base", "layer", "upper", "work", "root"):
        (tmp_path / name).mkdir()
    base = tmp_path / "base"
    for folder in ("etc/ssh", "usr/bin", "usr/local/bin", "home/sandbox/workspace", "root", "var/lib", "dev", "opt"):
        (base / folder).mkdir(parents=True)
    for sticky in ("tmp", "var/tmp"):
        (base / sticky).mkdir()
    for file in ("etc/passwd", "etc/ssh/sshd_config", "usr/bin/git", "home/sandbox/.bashrc", "etc/removed"):
        (base / file).write_text("image\n")
    (tmp_path / "layer" / "etc").mkdir()
    os.mknod(tmp_path / "layer" / "etc" / "removed", 0o600 | 0o020000, 0)
    options = f"lowerdir={tmp_path}/layer:{tmp_path}/base,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    command = [
        "unshare",
        "--mount",
        "--propagation=private",
        "--net",  # where other tests change nothing
        sys.executable,
        "-c",
        INIT,
        str(tmp_path / "root"),
        options,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield Box(process, tmp_path / "upper")
        process.kill()


def test_nothing_changed_is_clean(box: Box) -> None:
    (box.root / "run").mkdir()
    (box.root / "run" / "service.pid").touch()
    box.record()
    assert box.look() == Verdict(VerdictKind.CLEAN, ())


def test_the_baseline_knows_what_stays_and_what_is_found_by_name(box: Box) -> None:
    evidence = box.record().evidence
    assert evidence.upper == str(box.upper)
    assert len(evidence.lower) == 2
    assert evidence.commands == {"git"}
    assert (
        evidence.kept["/home/sandbox"] == (".bashrc", "workspace") or evidence.kept["/home/sandbox"][0] == "workspace"
    )
    assert "/var/lib/attempts" not in evidence.kept


def test_a_file_of_the_image_that_is_only_touched_is_seen(box: Box) -> None:
    """The trap: its times can be set back, all but the one that is looked at."""
    box.record()
    file = box.root / "usr" / "bin" / "git"
    before = file.stat()
    file.write_text("thief\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert box.kinds() == {ReasonKind.PROGRAMS}


def test_a_file_made_at_the_start_and_changed_in_place_is_seen(box: Box) -> None:
    file = box.root / "etc" / "ssh" / "given"
    file.write_text("ours\n")
    box.record()
    before = file.stat()
    file.write_text("them\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert box.kinds() == {ReasonKind.LOGIN}


def test_what_the_image_itself_removed_is_new_when_it_is_there(box: Box) -> None:
    box.record()
    (box.root / "etc" / "removed").touch()
    assert "/etc/removed was added" in str(box.look())


@pytest.mark.parametrize("folder", ["etc/ssh", "etc", "usr/bin"])
def test_a_folder_that_was_removed_and_made_again_is_seen(box: Box, folder: str) -> None:
    """The trap: overlayfs marks it with an attribute that only CAP_SYS_ADMIN reads."""
    box.record()
    shutil.rmtree(box.root / folder)
    (box.root / folder).mkdir()
    verdict = box.look()
    assert verdict.kind is VerdictKind.DAMAGED
    assert f"/{folder} was replaced" in str(verdict)


def test_a_folder_with_something_new_in_it_is_no_other_folder(box: Box) -> None:
    box.record()
    (box.root / "usr" / "bin" / "new").touch()
    assert box.kinds() == {ReasonKind.SYSTEM}


def test_mode_and_owner_of_a_folder(box: Box) -> None:
    box.record()
    (box.root / "etc").chmod(0o700)
    os.chown(box.root / "usr", 1000, 1000)
    assert box.kinds() == {ReasonKind.FOLDERS}


@pytest.mark.parametrize("mount_point", ["etc", "usr/bin", "etc/passwd"])
def test_what_a_job_mounted_is_never_entered(box: Box, mount_point: str, tmp_path: Path) -> None:
    box.record()
    if (box.root / mount_point).is_dir():
        box.mount("-t", "tmpfs", "tmpfs", str(box.root / mount_point))
    else:
        box.mount("--bind", "/dev/zero", str(box.root / mount_point))
    assert box.kinds() == {ReasonKind.MOUNTS}


def test_a_file_as_large_as_can_be_costs_nothing(box: Box) -> None:
    box.record()
    with (box.root / "opt" / "huge").open("wb") as huge:
        huge.truncate(15 << 40)
    began = time.monotonic()
    assert box.kinds() == {ReasonKind.SYSTEM}
    assert time.monotonic() - began < 2


def test_what_is_no_file_is_not_opened(box: Box) -> None:
    box.record()
    os.mkfifo(box.root / "etc" / "ssh" / "fifo")
    (box.root / "etc" / "ssh" / "loop").symlink_to("loop")
    (box.root / "etc" / "ssh" / "out").symlink_to("/etc")
    assert box.kinds() == {ReasonKind.LOGIN}


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\n\x1b[31m", b"\\xff", b"x" * 255])
def test_any_name_is_told_on_one_line(box: Box, name: bytes) -> None:
    box.record()
    os.close(os.open(os.fsencode(box.root) + b"/etc/ssh/" + name, os.O_CREAT | os.O_WRONLY))
    verdict = box.look()
    assert [reason.kind for reason in verdict.reasons] == [ReasonKind.LOGIN]
    assert str(verdict).isprintable()


def test_more_than_is_looked_at_is_damage(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.record()
    monkeypatch.setattr(inspector, "MOST_ENTRIES", 50)
    for number in range(60):
        (box.root / "opt" / str(number)).touch()
    assert ReasonKind.TOO_MUCH in box.kinds()


def test_folders_deeper_than_is_looked_at_are_damage(box: Box) -> None:
    box.record()
    deepest = box.root / "opt"
    for _ in range(110):
        deepest /= "d"
        deepest.mkdir()
    assert ReasonKind.TOO_MUCH in box.kinds()


def test_a_jobs_own_folders_are_not_searched(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a workspace of a million files would make every look slow."""
    box.record()
    monkeypatch.setattr(inspector, "MOST_ENTRIES", 1000)
    for folder in ("home/sandbox/workspace/a/b", "tmp/c", "root/d"):
        (box.root / folder).mkdir(parents=True)
        for number in range(300):
            (box.root / folder / str(number)).touch()
    for number in range(300):
        (box.root / "tmp" / str(number)).touch()
    assert box.kinds() == {ReasonKind.LEFTOVERS}


def test_what_is_left_in_a_folder_that_the_image_has_there_is_seen(box: Box) -> None:
    """The trap: cleaning keeps such a folder, and what is in it."""
    (box.upper / "root").mkdir(exist_ok=True)
    box.record()
    (box.root / "home" / "sandbox" / "workspace" / "left").touch()
    assert box.kinds() == {ReasonKind.LEFTOVERS}


def test_devices_are_looked_at_though_they_are_on_a_mount_of_their_own(box: Box) -> None:
    (box.root / "dev" / "fd").symlink_to("/proc/self/fd")
    box.record()
    (box.root / "dev" / "fd").unlink()
    assert box.kinds() == {ReasonKind.DEVICES}


@pytest.mark.parametrize("above", ["", "dev"])
@pytest.mark.parametrize("name", [".sysbox-procfs-3971741627", ".sysbox-sysfs-1"])
def test_what_a_killed_helper_of_sysbox_leaves_is_not_the_jobs(box: Box, above: str, name: str) -> None:
    """The trap: it runs among the job's processes, is ended with them, and cost each such job its sandbox."""
    (box.root / above / name.replace("1", "2")).mkdir(mode=0o700)
    box.record()
    (box.root / above / name).mkdir(mode=0o700)
    assert box.look() == Verdict(VerdictKind.CLEAN, ())
    (box.root / above / name.replace("1", "2")).rmdir()
    assert box.look() == Verdict(VerdictKind.CLEAN, ())
    (box.root / above / name / "hidden").touch()
    assert f"/{name}" in str(box.look())


@pytest.mark.parametrize(
    ("place", "make"),
    [
        (".sysbox-procfs-1", Path.touch),
        ("dev/.sysbox-sysfs-1", Path.touch),
        (".sysbox-procfs-1", lambda path: path.symlink_to("/var")),
        ("dev/.sysbox-procfs-1", lambda path: path.symlink_to("/opt")),
        (".sysbox-procfs-", Path.mkdir),
        (".sysbox-procfs-1x", Path.mkdir),
        (".sysbox-devfs-1", Path.mkdir),
        ("opt/.sysbox-procfs-1", Path.mkdir),
        ("etc/ssh/.sysbox-procfs-1", Path.mkdir),
    ],
)
def test_what_only_looks_like_it_counts(box: Box, place: str, make: Callable[[Path], None]) -> None:
    box.record()
    make(box.root / place)
    assert f"/{place} was added" in str(box.look())


def test_one_that_something_is_mounted_on_counts(box: Box) -> None:
    box.record()
    (box.root / ".sysbox-procfs-1").mkdir()
    box.mount("-t", "tmpfs", "tmpfs", str(box.root / ".sysbox-procfs-1"))
    assert ReasonKind.OTHER_MOUNTS in box.kinds()


def test_many_such_folders_are_not_looked_through(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: what counts for nothing would be looked at for ever."""
    box.record()
    monkeypatch.setattr(inspector, "MOST_ENTRIES", 50)
    for number in range(60):
        (box.root / f".sysbox-procfs-{number}").mkdir()
    assert ReasonKind.TOO_MUCH in box.kinds()


@pytest.mark.parametrize("point", IMPLICIT_FOLDERS)
def test_what_a_job_leaves_in_a_folder_that_sysbox_mounts_is_seen(box: Box, point: str, tmp_path: Path) -> None:
    """The trap: it is on a mount that was there at `ready`, and in no upper directory."""
    (tmp_path / "of the host").mkdir()
    inside = box.root / point.lstrip("/")
    inside.mkdir(parents=True)
    box.mount("--bind", str(tmp_path / "of the host"), str(inside))
    box.record()
    assert box.look().kind is VerdictKind.CLEAN
    (inside / "left").touch()
    verdict = box.look()
    assert (verdict.kind, f"{point}/left was added" in str(verdict)) == (VerdictKind.USED, True)


def test_such_a_folder_without_a_mount_is_told_once_and_as_what_it_is(box: Box, tmp_path: Path) -> None:
    (tmp_path / "base" / "var" / "lib" / "kubelet").mkdir()
    (tmp_path / "base" / "var" / "lib" / "kubelet" / "brought").touch()
    box.record()
    (box.root / "var" / "lib" / "kubelet" / "left").touch()
    assert "/var/lib/kubelet/left was added" in str(box.look())
    assert "brought" not in str(box.look())


def test_a_first_process_that_ended_while_it_was_looked_at(box: Box) -> None:
    box.record()
    box.process.kill()
    box.process.wait()
    assert "first process is gone" in str(box.look())


def test_what_is_looked_at_grows_with_the_job_and_not_with_the_image(box: Box, tmp_path: Path) -> None:
    def seen() -> Evidence:
        return inspector.record("no container", box.process.pid, time.monotonic() + 10).evidence

    before = len(seen().entries)
    (box.root / "usr" / "bin" / "git").chmod(0o700)
    after = seen().entries
    assert len(after) - before <= 3  # the file and the folders above it
    assert after["/usr/bin/git"].kind is FileKind.FILE
