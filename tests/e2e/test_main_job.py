"""The main job: a script runs over SSH in a docker-in-docker sandbox, and a broken sandbox is recreated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from sandbox import host
from sandbox.errors import Fault
from sandbox.template import LABEL_INSTALLATION, LABEL_NAME
from tests import programs
from tests.e2e.conftest import DEADLINE, RUNNER, Keeper, leased, run, run_json, start, words_of_run
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_scripts_exit_code_is_ours(keeper: Keeper, code: int) -> None:
    result = run(keeper, f"echo out; exit {code}")
    assert (result.returncode, result.stdout) == (code, "out\n"), result.stderr


def test_a_script_that_kills_itself_is_not_a_lost_sandbox(keeper: Keeper) -> None:
    outcome = run_json(keeper, "kill -9 $$")
    assert (outcome["outcome"], outcome["signal"], outcome["exit_code"]) == ("killed", 9, 137)


def test_arguments_and_environment_arrive_as_they_were_given(keeper: Keeper) -> None:
    odd = 'a "b"\n$(c) \\ü'
    result = run(keeper, 'printf "%s|" "$@" "$ODD"', "--env", f"ODD={odd}", args=("one", "two words", "--three"))
    assert result.stdout == f"one|two words|--three|{odd}|"


def test_options_may_stand_behind_the_script_and_its_arguments_behind_the_separator(keeper: Keeper) -> None:
    words = ["run", "-", "--keeper", str(keeper.socket), "--timeout", "60", "--json", "--", "a", "--json", "--", "b"]
    result = programs.run(programs.runner, *words, given='printf "%s|" "$@"; exit 3', timeout=DEADLINE)
    assert result.returncode == 3, result.stderr
    assert (json.loads(result.stdout)["exit_code"], "a|--json|--|b|" in result.stderr) == (3, True)


def test_a_secret_can_be_passed_on_without_being_in_our_arguments(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "s3cret")
    assert run(keeper, 'echo "$SECRET_OF_THE_TEST"', "--env", "SECRET_OF_THE_TEST").stdout == "s3cret\n"


def test_a_sandbox_asks_the_hosts_resolvers_itself(keeper: Keeper) -> None:
    """And not the engine's for its network, on which it is alone; the next job finds the same."""
    expected = [f"nameserver {address}" for address in host.look().nameservers] or ["nameserver 127.0.0.11"]
    for _ in range(3):  # more than there are sandboxes
        assert run(keeper, "grep ^nameserver /etc/resolv.conf").stdout.splitlines() == expected


def test_becoming_root_is_not_restricted(keeper: Keeper) -> None:
    assert run(keeper, "sudo id -u; sudo mount -t tmpfs none /mnt && echo mounted").stdout == "0\nmounted\n"


def test_the_example_builds_an_image_and_runs_a_container(keeper: Keeper) -> None:
    result = run(keeper, (EXAMPLES / "build-and-run.sh").read_text())
    assert result.returncode == 0, result.stderr
    assert "Hello from a container in the sandbox" in result.stdout


def test_compose_works_inside(keeper: Keeper) -> None:
    script = """
        cp "$(command -v busybox)" .
        printf 'FROM scratch\\nCOPY busybox /bin/sh\\nENTRYPOINT ["/bin/sh"]\\n' >Dockerfile
        cat >compose.yaml <<'YAML'
        services:
          web:
            build: .
            command: ["httpd", "-f", "-p", "80"]
          client:
            image: busybox-of-the-test
            build: .
            depends_on: [web]
            command: ["sh", "-c", "until nc -w 1 web 80 </dev/null; do :; done; echo reached"]
        YAML
        sed -i 's/ENTRYPOINT.*/ENTRYPOINT ["\\/bin\\/busybox"]/; s/\\/bin\\/sh$/\\/bin\\/busybox/' Dockerfile
        echo 'RUN ["/bin/busybox", "--install", "-s", "/bin"]' >>Dockerfile
        docker compose up --quiet-pull --abort-on-container-exit --exit-code-from client
        docker compose down
    """
    result = run(keeper, textwrap.dedent(script))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "reached" in result.stdout


def test_killing_sshd_in_the_middle_loses_the_sandbox_and_never_fails_the_script(keeper: Keeper) -> None:
    """The trap: asyncssh's `run()` returns normally when the server dies."""
    outcome = run_json(keeper, "sudo pkill -KILL sshd; sleep 60")
    assert (outcome["outcome"], outcome["exit_code"]) == ("sandbox_lost", 75)
    assert run(keeper, "echo fine").stdout == "fine\n"


def test_removing_the_container_in_the_middle_loses_the_sandbox(
    keeper: Keeper, docker_client: docker.DockerClient
) -> None:
    process = start(keeper, "sleep 60")
    container = docker_client.containers.get(leased(keeper).name)
    container.remove(force=True)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 75, stderr
    assert run(keeper, "echo fine").stdout == "fine\n"


def test_the_next_job_never_notices_a_wrecked_sandbox(keeper: Keeper) -> None:
    wrecked = run(keeper, (EXAMPLES / "wreck.sh").read_text())
    assert wrecked.returncode == 75, wrecked.stderr
    hello = run(keeper, (EXAMPLES / "hello.sh").read_text())
    assert hello.returncode == 0, hello.stderr
    assert "with Docker 26.1" in hello.stdout


def test_twenty_jobs_in_a_row_on_two_sandboxes_see_nothing_of_each_other(keeper: Keeper) -> None:
    script = """
        [ -z "$(ls -A .)$(ls -A /tmp)" ] || { ls -A . /tmp; exit 1; }
        [ -z "$(docker ps -aq)$(docker volume ls -q)" ] || { echo "containers left"; exit 1; }
        touch workspace-file; sudo touch /tmp/root-file root-owned; docker volume create left >/dev/null
        nohup sleep 1000 >/dev/null 2>&1 &
        sudo setsid sleep 1000 >/dev/null 2>&1 &
    """
    for number in range(20):
        result = run(keeper, script)
        assert result.returncode == 0, f"job {number}: {result.stdout}{result.stderr}"


def test_a_background_child_that_holds_stdout_does_not_hold_up_the_job(keeper: Keeper) -> None:
    """The trap: waiting for the end of the output instead of the end of the script."""
    result = run(keeper, "setsid sleep 1000 & echo done", "--timeout", "60")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_a_timeout_ends_the_script(keeper: Keeper) -> None:
    outcome = run_json(keeper, "trap '' TERM; while :; do sleep 1; done", "--timeout", "1")
    assert (outcome["outcome"], outcome["exit_code"]) == ("timed_out", 124)


def test_a_gigabyte_of_log_takes_no_memory(keeper: Keeper) -> None:
    measured = textwrap.dedent("""
        import resource, subprocess, sys
        code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stdin=open("script"))
        print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    """)
    folder = keeper.folder
    (folder / "script").write_text("head -c 1G /dev/zero")
    command = [sys.executable, "-c", measured, *RUNNER, *words_of_run(keeper)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=True)
    code, mebibytes = map(int, result.stdout.split())
    assert code == 0, result.stderr
    assert mebibytes < 120, f"{mebibytes} MiB"


def test_a_sandbox_never_serves_two_trust_keys(keeper: Keeper) -> None:
    plant = "sudo touch /usr/local/planted"
    look = "[ ! -e /usr/local/planted ] && echo clean"
    for _ in range(2):
        assert run(keeper, plant, "--trust-key", "one").returncode == 0
    for key in ("two", "three", "two"):
        result = run(keeper, look, "--trust-key", key)
        assert result.stdout == "clean\n", (key, result.stderr)


def test_untrusted_jobs_always_get_a_fresh_sandbox(keeper: Keeper) -> None:
    for _ in range(3):
        result = run(keeper, "[ ! -e /usr/local/planted ] && sudo touch /usr/local/planted", "--trust-key", "untrusted")
        assert result.returncode == 0, result.stderr
    assert keeper.last_condemned().fault is Fault.RECREATE_POLICY


def test_a_container_that_was_finished_too_late_is_removed(
    keeper: Keeper, docker_client: docker.DockerClient, sandbox_image: str
) -> None:
    """The trap: a create that timed out for us and succeeded in the engine."""
    labels = {LABEL_INSTALLATION: keeper.client.listing().installation, LABEL_NAME: "sandbox-late"}
    docker_client.containers.create(sandbox_image, name="sandbox-late", labels=labels)
    late: dict[str, str | list[str] | bool] = {"name": "sandbox-late"}
    until("it is gone", lambda: not docker_client.containers.list(all=True, filters=late, ignore_removed=True))


def test_the_next_keeper_takes_over_what_a_killed_one_left_and_a_second_term_does_not_wait_for_the_jobs(
    new_keeper: Callable[..., Keeper],
) -> None:
    keeper = new_keeper(warm=1)
    keeper.start()
    [before] = keeper.ready()
    assert keeper.process is not None
    keeper.process.kill()
    keeper.process.wait(DEADLINE)
    keeper.start()
    assert [after.name for after in keeper.ready()] == [before.name]
    assert run(keeper, "docker info --format '{{.Driver}}'").stdout == "overlay2\n"

    job = start(keeper, "sleep 1000")
    assert keeper.process is not None
    keeper.process.send_signal(signal.SIGTERM)
    until("it waits for the job", lambda: "waiting for 1 running jobs" in keeper.log)
    keeper.stop()
    _, stderr = job.communicate(timeout=DEADLINE)
    assert job.returncode == 75, stderr
