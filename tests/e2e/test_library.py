"""`from sandbox import Sandbox`, as a program uses it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandbox import CommandFailed, CommandTimedOut, ConnectionLost, OutputTooLarge, Sandbox, TransferRefused
from sandbox.adhoc.execution import MOST_OUTPUT
from sandbox.adhoc.store import Store, default_folder
from sandbox.errors import ImageMissing, NoSuchSandbox, TransferFailed
from tests.e2e.conftest import left_of
from tests.e2e.netns import network_of_engine
from tests.waiting import until

DOCS = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.fixture(scope="module", autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_runtime: str,
    sandbox_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[None]:
    """A state folder of its own; nothing is left on the engine at the end."""
    with pytest.MonkeyPatch.context() as patched, network_of_engine():
        patched.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patched.setenv("SANDBOX_RUNTIME", sandbox_runtime)
        patched.setenv("SANDBOX_IMAGE", sandbox_image)
        yield
        installation = Store(default_folder()).installation
        until("nothing is left", lambda: left_of(docker_client, installation) == [])


@pytest.fixture(scope="module")
def box(home: None) -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_says_how_it_ended(box: Sandbox) -> None:
    result = box.run("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    with pytest.raises(CommandFailed, match=r"ended with exit code 3: err") as caught:
        result.check()
    assert caught.value.exit_code == 3
    assert box.run("kill -KILL $$").exit_code == 255
    assert box.run("bash -c 'kill -KILL $$'").exit_code == 137


def test_a_list_is_one_program(box: Sandbox) -> None:
    assert box.run(["printf", "%s|", "a b", "$HOME", "c'd"]).stdout == "a b|$HOME|c'd|"


def test_environment_folder_and_input(box: Sandbox) -> None:
    result = box.run('pwd; echo "$WORD"; cat', cwd="/tmp", env={"WORD": "a 'b'\n\"$c\" é"}, stdin="given\n")
    assert result.stdout == "/tmp\na 'b'\n\"$c\" é\ngiven\n"
    assert box.run("true", cwd="/nowhere").exit_code == 126
    with pytest.raises(ValueError, match="A-B"):
        box.run("true", env={"A-B": "x"})


def test_a_secret_is_in_no_arguments(box: Sandbox) -> None:
    """Neither by `env` nor in the command itself; what the command starts with it is its own business."""
    shown = box.run(": secret-of-the-command; cat /proc/[0-9]*/cmdline | tr '\\0' ' '", env={"SECRET": "secret-of-env"})
    assert "sshd" in shown.stdout
    assert "secret-of" not in shown.stdout


def test_what_takes_too_long_is_ended_with_all_it_started(box: Sandbox) -> None:
    """Also what left its session, and what belongs to root: SSH itself would end neither."""
    script = "sleep 4001 & setsid sleep 4002 & sudo sleep 4003 & trap '' TERM; wait; sleep 4004"
    with pytest.raises(CommandTimedOut, match="took too long"):
        box.run(script, timeout=1.0)
    assert box.run("pgrep -f 'sleep 400[0-9]' | grep -v $$").stdout == ""


def test_a_child_in_the_background_holds_nothing_up(box: Sandbox) -> None:
    assert box.run("sleep 4010 & echo done").stdout == "done\n"
    assert box.run("pkill -f 'sleep 4010'").exit_code == 0


def test_too_much_output_is_no_end_of_memory(box: Sandbox) -> None:
    with pytest.raises(OutputTooLarge, match="stream"):
        box.run(f"head -c {MOST_OUTPUT + 1_000_000} /dev/zero; sleep 4020")
    assert box.run("pgrep -f 'sleep 402[0]'").stdout == ""


def test_lines_come_as_they_are_printed(box: Sandbox) -> None:
    """The command waits for what is done on its first line."""
    seen = []
    for line in box.stream(
        "echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two >&2; printf 'thr\\xc3\\xa9e'"
    ):
        seen.append(line)
        if line == "one":
            box.run("touch /tmp/go").check()
    assert seen == ["one", "two", "thrée"]


def test_a_stream_that_fails_says_so_at_its_end(box: Sandbox) -> None:
    lines = box.stream("echo wrong; exit 4")
    assert next(iter(lines)) == "wrong"
    with pytest.raises(CommandFailed, match="exit code 4: wrong"):
        list(lines)
    unchecked = box.stream("exit 4", check=False)
    assert list(unchecked) == []
    assert unchecked.exit_code == 4


def test_a_stream_that_is_left_ends_its_command(box: Sandbox) -> None:
    with box.stream("echo first; sleep 4030") as lines:
        assert next(iter(lines)) == "first"
    assert box.run("pgrep -f 'sleep 403[0]'").stdout == ""


def test_several_threads_at_once(box: Sandbox) -> None:
    printed: list[str] = []
    threads = [threading.Thread(target=lambda n=n: printed.append(box.run(f"echo {n}").stdout)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(printed) == [f"{number}\n" for number in range(8)]


# -- files and ports --------------------------------------------------------------------------------------------------


def test_files_and_folders_go_in_and_come_out(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "é").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "in" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "in" / "run").chmod(0o755)
    (tmp_path / "in" / "link").symlink_to("deep")
    box.put(tmp_path / "in")
    box.put(tmp_path / "in" / "run", "made/on/the/way/program")
    assert box.run("test -x in/run && made/on/the/way/program && readlink in/link").stdout == "deep\n"
    assert box.get("in", tmp_path / "out") == []
    assert (tmp_path / "out" / "link" / "é").read_bytes() == bytes(range(256)) * 1000
    assert os.access(tmp_path / "out" / "run", os.X_OK)
    box.get("in/run", tmp_path)
    assert (tmp_path / "run").read_text() == "#!/bin/sh\n"
    box.get("in/run", tmp_path / "run")  # a file is replaced
    with pytest.raises(TransferFailed, match="there already"):
        box.get("in", tmp_path)


def test_what_cannot_be_copied_is_told(box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(TransferFailed, match="no-such-thing"):
        box.get("no-such-thing", tmp_path)
    with pytest.raises(TransferFailed, match="There is no"):
        box.put(tmp_path / "no-such-thing")
    with pytest.raises(TransferFailed, match="/proc/nowhere"):
        box.put(tmp_path, "/proc/nowhere/x")
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_out_are_left_out(box: Sandbox, tmp_path: Path) -> None:
    box.run(
        "mkdir -p linked/deep && ln -s /etc/passwd linked/a && ln -s ../.. linked/deep/b && ln -s deep linked/c"
    ).check()
    assert sorted(box.get("linked", tmp_path / "got")) == ["linked/a", "linked/deep/b"]
    assert (tmp_path / "got" / "c").is_dir()
    box.run("ln -sf /etc/shadow alone").check()
    with pytest.raises(TransferFailed, match="symbolic link"):
        box.get("alone", tmp_path)


def test_a_tar_that_lies_writes_nothing(box: Sandbox, tmp_path: Path) -> None:
    """After root in it, the sandbox's tar is a job's."""
    lie = io.BytesIO()
    with tarfile.open(fileobj=lie, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"))
    box.run("cat > /tmp/lie; printf '#!/bin/sh\\ncat /tmp/lie\\n' > /tmp/tar", stdin=lie.getvalue()).check()
    box.run("sudo install /tmp/tar /usr/local/bin/tar").check()
    try:
        with pytest.raises(TransferRefused, match="outside of its folder"):
            box.get("in", tmp_path / "deep" / "out")
    finally:
        box.run("sudo rm /usr/local/bin/tar").check()
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def test_a_port_is_led_in(box: Sandbox) -> None:
    box.run(
        "mkdir -p www && echo served > www/page && cd www && nohup python3 -m http.server 8000 >/dev/null 2>&1 &"
    ).check()
    box.run("until curl -fsS localhost:8000/page; do sleep 0.05; done", timeout=30).check()
    with box.forward(8000) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=10) as answer:
        assert answer.read() == b"served\n"


# -- its life ---------------------------------------------------------------------------------------------------------


def test_a_broken_connection_is_told_and_reset_makes_a_new_one() -> None:
    with Sandbox(docker="lazy") as box:
        assert box.run("pgrep -x dockerd; docker version").check().stdout.startswith("Client:")
        before = box.record
        with pytest.raises(ConnectionLost):
            box.run("echo started; sudo pkill -KILL sshd; sleep 60")
        box.reset()
        assert box.record.access != before.access
        assert box.run("ls -A /tmp | grep -c sandbox-").exit_code == 1
    with pytest.raises(NoSuchSandbox, match="in its block"):
        box.run("true")


def test_what_a_killed_program_leaves_is_removed_and_no_command_is_needed(docker_client: docker.DockerClient) -> None:
    program = """
import os
from sandbox import Sandbox
box = Sandbox(docker="lazy", idle=1.0).start()
print(box.record.sandbox, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    name = done.stdout.strip()
    assert name.startswith("sandbox-")
    containers = docker_client.api.containers
    until("it is gone", lambda: containers(all=True, filters={"name": name}) == [], 120.0)


def test_a_missing_image_is_told_with_the_fix_and_leaves_nothing(docker_client: docker.DockerClient) -> None:
    with pytest.raises(ImageMissing, match="Build it"):
        Sandbox(image="no-such-image:1").start()
    names = {record.name for record in Store(default_folder()).records()}
    assert len(names) <= 1  # the shared one


# -- documentation ----------------------------------------------------------------------------------------------------


def test_the_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [block.split("```")[0] for block in DOCS.read_text().split("```python\n")[1:]]
    programs = [block for block in blocks if "def test_" not in block]
    assert len(programs) >= 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "hello.txt").write_text("hello\n")
    for number, block in enumerate(programs):
        exec(compile(block, f"library.md, block {number}", "exec"), {})


def test_the_documented_tests_pass_with_the_plugin(tmp_path: Path) -> None:
    [tests] = [block.split("```")[0] for block in DOCS.read_text().split("```python\n")[1:] if "def test_" in block]
    (tmp_path / "test_documented.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
