"""`sandbox up`, `run` and the rest, as a person at a terminal uses them. Without a keeper, except for borrowing."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.adhoc.store import Store, default_folder
from sandbox.network.ruleset import table_name
from tests import programs
from tests.e2e.conftest import DEADLINE, NETNS, Keeper, in_network_of_engine, left_of
from tests.programs import PIPE, Program
from tests.waiting import until

WITHOUT_NFT = "/usr/bin:/bin"


@dataclass(frozen=True)
class User:
    """Somebody with a state folder of their own."""

    environment: dict[str, str]

    @property
    def store(self) -> Store:
        return Store(default_folder(self.environment))

    def run(self, *words: str, given: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return programs.run(
            programs.sandbox, *words, given=given, environment=self.environment, netns=NETNS, cwd=cwd, timeout=DEADLINE
        )

    def start(self, *words: str, out: int, terminal: int | None = None) -> Program:
        return programs.start(
            programs.sandbox, *words, environment=self.environment, netns=NETNS,
            stdin=terminal, stdout=out, stderr=terminal,
        )  # fmt: skip

    def own(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.run("ls", "--json").stdout)["adhoc"]
        return {one["name"]: one for one in listed}


@pytest.fixture(scope="module")
def user(
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_runtime: str,
    sandbox_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[User]:
    """At the end, `rm --all` has left nothing: no container, network or volume, and no firewall table."""
    state = str(tmp_path_factory.mktemp("state"))
    settings = {"XDG_STATE_HOME": state, "SANDBOX_RUNTIME": sandbox_runtime, "SANDBOX_IMAGE": sandbox_image}
    made = User({**os.environ, **settings})
    yield made
    assert made.run("rm", "--all").returncode == 0
    assert left_of(docker_client, made.store.installation) == []
    assert "No such file" in nft(made)


@pytest.fixture(scope="module")
def box(user: User) -> str:
    """A sandbox that is up."""
    done = user.run("up", "box")
    assert done.returncode == 0, done.stderr
    assert "creating… booting… ready in" in done.stderr
    assert done.stdout == "box is there for 8h, or 1h after nobody is connected. Get in: sandbox shell box\n"
    return "box"


def names(user: User) -> set[str]:
    return {record.name for record in user.store.records()}


def nft(user: User) -> str:
    table = ["nft", "list", "table", "inet", table_name(user.store.installation)]
    done = subprocess.run([*in_network_of_engine(), *table], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


# -- one to come back to ----------------------------------------------------------------------------------------------


def test_it_is_listed_inspected_and_entered(user: User, box: str) -> None:
    own = user.own()[box]
    assert (own["state"], own["walls"], own["docker"]) == ("running", True, "eager")
    assert f"{box} " in user.run("ls").stdout
    assert "key" not in user.run("inspect", box, "--json").stdout
    inside = user.run("shell", box, "cat; docker ps --quiet; exit 7", given="typed\n")
    assert (inside.returncode, inside.stdout, inside.stderr) == (7, "typed\n", "")
    assert user.run("shell", box, "--", "echo", "--", "a").stdout == "-- a\n"


def test_walls_stand_around_it_and_are_put_back(user: User, box: str) -> None:
    reach = "g=$(ip route show default | cut -d ' ' -f 3); timeout 1 bash -c \"echo >/dev/tcp/$g/80\" 2>&1; echo $?"
    assert user.run("shell", box, reach).stdout == "124\n"  # dropped, not refused
    nft_table = ["nft", "delete", "table", "inet", table_name(user.store.installation)]
    subprocess.run([*in_network_of_engine(), *nft_table], check=True)
    until("the reaper has put them back", lambda: "drop" in nft(user), 60.0)


def test_files_are_copied_by_name(user: User, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    assert user.run("cp", str(tmp_path / "file"), f"{box}:deep/copy").returncode == 0
    assert user.run("cp", f"{box}:deep", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back" / "copy").read_text() == "content\n"
    done = user.run("cp", f"{box}:deep", str(tmp_path / "back" / "copy" / "x"))
    assert (done.returncode, done.stderr.startswith("sandbox: ")) == (74, True)
    assert user.run("cp", f"{box}:deep", str(tmp_path)).returncode == 0
    done = user.run("cp", f"{box}:deep", str(tmp_path))
    assert (done.returncode, "is there already" in done.stderr) == (74, True)
    assert user.run("cp", "a", "b").returncode == 78


def test_many_files_are_copied_without_a_word(user: User, box: str, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(400):
        (tmp_path / "many" / str(number)).write_text("x" * 1000)
    for words in ((str(tmp_path / "many"), f"{box}:many"), (f"{box}:many", str(tmp_path / "back"))):
        done = user.run("cp", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "back").iterdir())) == 400


@pytest.mark.parametrize("words", [["{box}:no/such", "x"], ["file", "{box}:/proc/no/"], ["file", "{box}:/proc/no/x"]])
def test_what_cannot_be_copied_is_told_with_its_cause(user: User, box: str, tmp_path: Path, words: list[str]) -> None:
    """The trap: tar's own sentence was now and then taken by what only waited for its end."""
    (tmp_path / "file").touch()
    done = user.run("cp", *(word.format(box=box) for word in words), cwd=tmp_path)
    assert (done.returncode, "No such file" in done.stderr) == (74, True), done.stderr


def test_ssh_and_scp_just_work(user: User, box: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(user.run("ssh-config", box).stdout)
    ssh = [*in_network_of_engine(), "ssh", "-F", str(tmp_path / "config"), f"{box}.sandbox", "id -un; cat"]
    done = subprocess.run(ssh, input="given", capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("sandbox\ngiven", "")
    scp = [*in_network_of_engine(), "scp", "-F", str(tmp_path / "config"), str(tmp_path / "config"), f"{box}.sandbox:c"]
    subprocess.run(scp, check=True, timeout=60)
    assert user.run("shell", box, "grep -c HostName c").stdout == "1\n"


def test_a_terminal_is_one_inside_and_is_as_it_was_afterwards(user: User, box: str) -> None:
    """Ctrl-C is the command's, not ours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 77))
    before = termios.tcgetattr(theirs)
    script = "stty size; trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    process = user.start("shell", box, script, out=theirs, terminal=theirs)
    printed = b""
    while b"ready" not in printed:
        printed += os.read(ours, 4096)
    os.write(ours, b"\x03")
    while b"interrupted" not in printed:
        printed += os.read(ours, 4096)
    assert process.wait(30) == 9
    assert b"33 77\r\n" in printed
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_ctrl_c_at_a_terminal_ends_a_command_with_its_usual_code(user: User, box: str) -> None:
    ours, theirs = pty.openpty()
    process = user.start("shell", box, "echo ready; exec sleep 600", out=theirs, terminal=theirs)
    printed = b""
    while b"ready" not in printed:
        printed += os.read(ours, 4096)
    os.write(ours, b"\x03")
    assert process.wait(30) == 130
    os.close(ours)
    os.close(theirs)


def test_hold_and_reset(user: User, box: str, docker_client: docker.DockerClient) -> None:
    before = user.store.get(box)
    assert user.run("hold", box, "--for", "2").returncode == 0
    assert user.store.get(box).idle is None
    docker_client.containers.get(str(before.sandbox)).kill()
    for verb in ("shell", "hold"):
        done = user.run(verb, box)
        told = f"sandbox: The sandbox {box} is stopped. `sandbox reset {box}` makes it anew.\n"
        assert (done.returncode, done.stderr) == (69, told), verb
    done = user.run("reset", box)
    assert done.returncode == 0, done.stderr
    after = user.store.get(box)
    assert before.access is not None
    assert after.access is not None
    assert after.access.host_key != before.access.host_key
    assert after.idle == 3600.0


def test_one_that_is_still_being_made_can_be_held(user: User) -> None:
    making = user.start("up", "early", "--docker", "lazy", out=PIPE)
    until("it is being made", lambda: "early" in names(user), DEADLINE)
    assert user.store.get("early").access is None
    assert user.run("hold", "early", "--for", "24").returncode == 0
    making.communicate(timeout=DEADLINE)
    assert making.returncode == 0
    held = user.store.get("early")
    assert held.access is not None
    assert held.idle is None
    assert held.ends - held.made > 20 * 3600
    assert user.run("shell", "early", "true").returncode == 0


def test_two_users_do_not_meet(user: User, box: str, tmp_path: Path) -> None:
    other = User({**user.environment, "XDG_STATE_HOME": str(tmp_path)})
    assert other.own() == {}
    for verb in ("shell", "rm"):
        done = other.run(verb, box)
        assert (done.returncode, done.stderr.startswith(f"sandbox: There is no sandbox {box}")) == (66, True), verb


def test_its_time_to_live_ends_it_and_no_command_is_needed(user: User, docker_client: docker.DockerClient) -> None:
    done = user.run("up", "brief", "--ttl", "2s", "--docker", "lazy", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    name = f"sandbox-{told['installation']}-{told['generation']}"
    assert "PRIVATE" not in done.stdout
    containers = docker_client.api.containers
    until("it is gone", lambda: containers(all=True, filters={"name": name}) == [], DEADLINE)
    until("its name is free", lambda: "brief" not in names(user))


# -- one for a command ------------------------------------------------------------------------------------------------


def test_a_command_with_files_in_and_out(user: User, tmp_path: Path) -> None:
    """The code is the command's, what it made comes out although it failed, and the sandbox is gone.

    Nobody used its Docker Engine, which was asked for lazily, so that never started.
    """
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "source").write_text("abc\n")
    before = names(user)
    script = "tr a-z A-Z < source > made; cat; pgrep -x dockerd; echo complaint >&2; exit 5"
    done = user.run(
        "run", "--mount-copy", "project", "--get", "made", "--docker", "lazy", script, given="typed\n", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (5, "typed\n")
    assert done.stderr.splitlines()[-1] == "complaint"
    assert (tmp_path / "made").read_text() == "ABC\n"
    assert names(user) == before


def test_a_second_build_takes_the_place_of_the_first(user: User, tmp_path: Path) -> None:
    """In the folder itself, as the page begins: what the first one made goes in with the rest."""
    (tmp_path / "only-here").touch()
    for number in ("1", "2"):
        script = f"ls; mkdir -p dist; rm -f dist/*; echo {number} > dist/{number}; echo {number} > log"
        files = ["--mount-copy", ".", "--get", "dist", "--get", "no-such", "--get", "log"]
        done = user.run("run", "--docker", "lazy", *files, script, cwd=tmp_path)
        assert (done.returncode, done.stdout.startswith("dist\n")) == (74, number == "2"), done.stderr
        assert "no-such: Cannot stat: No such file" in done.stderr  # and what comes after it is copied
        assert [path.name for path in (tmp_path / "dist").iterdir()] == [number]
        assert (tmp_path / "log").read_text() == f"{number}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"only-here", "dist", "log"}


def test_the_code_of_a_command_that_failed_is_told_although_nothing_can_be_copied(user: User, tmp_path: Path) -> None:
    done = user.run("run", "--docker", "lazy", "--get", "no-such", "exit 3", cwd=tmp_path)
    assert (done.returncode, "Cannot stat" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mount-copy", "nope"], "There is no nope to copy."),
        (["--get", "a/out", "--get", "b/out"], "More than one --get would be out here."),
        (["--get", ".."], "'..' names no file or folder."),
    ],
)
def test_files_that_cannot_be_are_refused_before_a_sandbox_is_made(
    user: User, tmp_path: Path, words: list[str], said: str
) -> None:
    nowhere = User({**user.environment, "DOCKER_HOST": "unix:///nowhere.sock"})
    done = nowhere.run("run", *words, "true", cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (74, True), done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_it_started(user: User, number: signal.Signals, code: int) -> None:
    before = names(user)
    process = user.start("run", "--docker", "lazy", "echo running; sleep 600", out=PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert names(user) == before


def test_without_nft_it_says_that_there_are_no_walls_and_closes_nothing_silently(user: User, tmp_path: Path) -> None:
    bare = User({**user.environment, "PATH": WITHOUT_NFT, "XDG_STATE_HOME": str(tmp_path)})
    done = bare.run("run", "--docker", "lazy", "--", "echo", "a b")
    assert (done.returncode, done.stdout) == (0, "a b\n")
    assert "no walls stand around" in done.stderr
    (tmp_path / "mine.toml").write_text("[profiles.closed]\nnetwork = 'none'\n")
    refused = bare.run("run", "--config", str(tmp_path / "mine.toml"), "--profile", "closed", "true")
    assert refused.returncode == 78
    assert "closes what only walls can" in refused.stderr
    assert names(bare) == set()


def test_a_warm_one_is_borrowed_from_a_keeper(user: User, keeper: Keeper) -> None:
    done = user.run("run", "--keeper", str(keeper.socket), "hostname; exit 3", given="")
    assert done.returncode == 3
    name = done.stdout.strip()
    assert name in {sandbox.name for sandbox in keeper.client.listing().sandboxes}
    keeper.settle()  # it was given back
    listed = user.run("ls", "--keeper", str(keeper.socket), "--json").stdout
    assert {"adhoc", "sandboxes"} <= json.loads(listed).keys()


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        (["up", "x", "--image", "no-such-image"], {}, 69, "no-such-image is not on the Docker Engine. Build it"),
        (["up", "x"], {"SANDBOX_RUNTIME": "kata"}, 69, "The runtime kata is not registered"),
        (["up", "x", "--memory", "1MiB"], {}, 78, "memory: "),
        (["up", "x", "--ttl", "soon"], {}, 2, "write it as 90s"),
        (["up", "x"], {"DOCKER_HOST": "unix:///nowhere.sock"}, 69, "No Docker Engine answers"),
    ],
)
def test_what_is_wrong_is_told_with_the_next_step(
    user: User, words: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    wrong = User({**user.environment, **environment})
    done = wrong.run(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "x" not in names(wrong)  # nor does anything look after it for an hour


def test_a_name_is_taken_once(user: User, box: str) -> None:
    done = user.run("up", box)
    assert (done.returncode, "sandbox rm box" in done.stderr) == (66, True)
