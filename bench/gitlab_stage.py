"""GitLab: what a stage and a whole trivial job cost over hooks that run bash on this machine.

    python -m bench.gitlab_stage --host … --host-key … --client-key …

A stage is the same script each time, in turn: by bash here, by our `run` hook in a sandbox, and by a fresh `ssh` with
the script on its input. A job is `true` under the simulator of gitlab-runner's manager, with hooks that run bash here
and with ours, which find a sandbox prepared in advance as `runner serve` keeps one. Prints one line of JSON and some
for people. The goals are a stage of at most 15 ms over bash at the median and 50 at the 99th percentile, and a job of
at most 100 ms over the other hooks.

What stands between is the start of a Python (`python` does nothing, `hook` is a hook that does nothing) and a message
to the sandbox and back; the official ssh executor needs neither the one nor a process at all. `--python` is the Python
that hooks run under: that of a distribution starts milliseconds sooner than one with a shared library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.access import Target, openssh, parser
from runner.config import model
from runner.gitlab import hook
from runner.gitlab.install import python_for_hooks
from runner.gitlab.jobs import Jobs
from runner.gitlab.server import Server
from runner.metrics import Metrics
from runner.serve import gitlab_options
from runner.service.standby import Standby
from tests.gitlab.manager import Config, Manager
from tests.gitlab.scripts import whole

HOOK_OPTIONS = ("-I", "-S")
BASH_HOOKS = Path(__file__).parent.parent / "tests" / "gitlab" / "bash_hooks" / "hooks"
PAUSE = 2.0
"""Seconds between two jobs: the next sandbox is prepared meanwhile. gitlab-runner asks for a job every three."""
SCRIPT = whole("".join(f"export CI_VARIABLE_{number}=value\n" for number in range(80)) + "true\n")
"""The variables of a small job, exported at each stage."""
JOB = {"steps": [{"name": "script", "script": ["true"]}], "variables": [{"key": "GIT_STRATEGY", "value": "none"}]}


@contextmanager
def serving(target: Target, folder: Path) -> Iterator[dict[str, str]]:
    """Serve hooks in a thread, and yield the hooks' environment."""
    path = folder / "gitlab.sock"
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        standby = Standby(target, two_are_ready, target.settings())
        options = replace(gitlab_options(model.Config()), socket=path, settings=target.settings())
        jobs = Jobs(target, folder / "jobs", options, standby=standby)
        server = Server(path, jobs, Metrics())
        server.open()
        loop.add_reader(told, jobs.abort, "the measurement is over")
        ready.set()
        await jobs.work()
        server.close()
        await standby.close()

    told, tell = os.pipe()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield {**os.environ, "RUNNER_GITLAB_SOCKET": str(path), "JOB_RESPONSE_FILE": str(folder / "response.json")}
    finally:
        os.write(tell, b".")
        thread.join()
        loop.close()


async def two_are_ready(_: str) -> int:
    """Return two as the number of ready sandboxes, for the standby."""
    return 2


def milliseconds(act: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1000


def in_turn(acts: Mapping[str, Callable[[], object]], rounds: int, pause: float = 0.0) -> dict[str, list[float]]:
    """Return the milliseconds of each call, without the first rounds, with `pause` seconds between two rounds."""
    taken = []
    for _ in range(rounds + 3):
        time.sleep(pause)
        taken.append({name: milliseconds(act) for name, act in acts.items()})
    return {name: [each[name] for each in taken[3:]] for name in acts}


def stages(target: Target, folder: Path, hooks: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Measure a stage in each way, in turn."""
    script = folder / "script"
    script.write_bytes(SCRIPT)
    job = {"job_info": {"project_id": 1}, "git_info": {"repo_url": "https://gitlab.example/bench/app.git"}}
    (folder / "response.json").write_text(json.dumps({"id": 1, "token": "t", **job}))
    with serving(target, folder) as environment:
        config = subprocess.run([*hooks, "config"], env=environment, check=True, capture_output=True)
        environment.update(json.loads(config.stdout)["job_env"])
        subprocess.run([*hooks, "prepare"], env=environment, check=True, capture_output=True)
        commands = {
            "bash": ["bash", str(script)],
            "python": [*hooks[:-1], "-c", "pass"],
            "hook": [*hooks, "usage"],
            "stage": [*hooks, "run", str(script), "build_script"],
            "ssh": ssh(target.arguments, folder),
        }

        def run(name: str) -> Callable[[], object]:
            return lambda: subprocess.run(
                commands[name], env=environment, input=SCRIPT, check=name != "hook", capture_output=True
            )

        return in_turn({name: run(name) for name in commands}, rounds)


def ssh(given: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command of a fresh OpenSSH client that runs its input."""
    command = openssh(folder, given.port, given.user, given.host_key.read_text(), given.client_key)
    return [*command, given.host, "bash"]


def jobs(target: Target, folder: Path, hooks: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Measure a whole job in each way, in turn."""
    with serving(target, folder) as environment:
        kinds = {
            "bash_job": Config((str(BASH_HOOKS),), {**os.environ, "BASH_HOOKS": str(folder / "bash")}),
            "job": Config(hooks, environment),
        }

        def run(name: str) -> Callable[[], object]:
            return lambda: succeed(kinds[name])

        return in_turn({name: run(name) for name in kinds}, rounds, pause=PAUSE)


def succeed(config: Config) -> None:
    """Run the job."""
    result = asyncio.run(Manager(config, {**JOB, "id": 1}).run())
    assert result.status == "success", result.log


def summary(taken: dict[str, list[float]]) -> dict[str, float]:
    """Return medians and the differences that the goals limit, in milliseconds."""
    numbers = {f"{name}_p50_ms": statistics.median(each) for name, each in taken.items()}
    numbers["stage_over_bash_p50_ms"] = numbers["stage_p50_ms"] - numbers["bash_p50_ms"]
    numbers["stage_over_bash_p99_ms"] = statistics.quantiles(taken["stage"], n=100)[98] - numbers["bash_p50_ms"]
    numbers["job_over_bash_p50_ms"] = numbers["job_p50_ms"] - numbers["bash_job_p50_ms"]
    return {name: round(value, 1) for name, value in numbers.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = parser("Cost of a GitLab stage and job.")
    arguments.add_argument("--rounds", type=int, default=50)
    arguments.add_argument("--python", default=python_for_hooks(), help="that hooks run under")
    given = arguments.parse_args(words)
    hooks = (given.python, *HOOK_OPTIONS, hook.__file__)
    target = Target(given)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        taken = stages(target, Path(one), hooks, given.rounds) | jobs(
            target, Path(other), hooks, max(3, given.rounds // 5)
        )
    numbers = summary(taken)
    print(json.dumps({"bench": "gitlab_stage", "rounds": given.rounds, **numbers}))
    print(
        f"A stage took {numbers['stage_over_bash_p50_ms']} ms over bash at the median and "
        f"{numbers['stage_over_bash_p99_ms']} at the 99th percentile; the goals are 15 and 50. "
        f"A hook that does nothing takes {numbers['hook_p50_ms']}, a Python {numbers['python_p50_ms']}, "
        f"a fresh ssh {numbers['ssh_p50_ms']}."
    )
    print(f"A whole job took {numbers['job_over_bash_p50_ms']} ms over hooks that run bash; the goal is 100.")


if __name__ == "__main__":
    main()
