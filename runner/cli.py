"""The `runner` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from runner import outcome as outcomes
from runner.errors import BadJobError, InputError, RunnerError
from runner.execution.options import Settings
from runner.gitlab.cli import app as gitlab_app
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.options import Options as GitLabOptions
from runner.gitlab.store import CacheStore
from runner.job import MAX_SCRIPT, Job
from runner.keeper_leases import DEFAULT_KEEPER, KeeperLeases
from runner.run import run_script

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run scripts in sandboxes: each may become root and break everything, and never reaches the host.",
)

app.add_typer(gitlab_app, name="gitlab")

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DEFAULT_STATE: Final = Path("/var/lib/runner")
_EXIT_CODES: Final = ((BadJobError, 64), (InputError, 66))
"""By kind, as in sysexits.h: 64 usage, 66 no input; 69, something needed is not there, for the rest."""


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
    try:
        app()
    except RunnerError as error:
        print(f"runner: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 69))


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    script: Annotated[str, typer.Argument(help="The script's file; - for standard input.")],
    args: Annotated[list[str] | None, typer.Argument(help="The script's arguments, after --.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, or NAME to pass our own value on (better for secrets).")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds the script may take.")] = None,
    profile: Annotated[
        str, typer.Option(help="Profile of the sandbox, as the keeper's configuration names it.")
    ] = "default",
    trust_key: Annotated[
        str, typer.Option(help="Who may inherit what the script leaves; `untrusted` always gets a fresh sandbox.")
    ] = "default",
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for a free sandbox.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Outcome on stdout as JSON; the log goes to stderr.")] = False,
    keeper: KeeperSocket = DEFAULT_KEEPER,
) -> None:
    """Run a script in a sandbox, its log live, and exit with its exit code.

    Also: 124 timed out, 130 cancelled, 75 the sandbox was lost, 69 nothing could be started, 64 and 66 bad input,
    128+N ended by signal N. A script can exit with these numbers too; --json tells them apart.
    """
    job = Job(
        script=_read_script(script),
        args=tuple(args or ())[_separator(args) :],
        environment=_environment(env or []),
        profile=profile,
        trust_key=trust_key,
        timeout=timeout,
    )
    leases = KeeperLeases(keeper)
    outcome = asyncio.run(run_script(leases, job, Settings(lend_wait=wait, source_deadline=0), as_json=as_json))
    raise typer.Exit(outcomes.exit_code(outcome))


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="HOST:PORT of the API.")] = DEFAULT_LISTEN,
    state: Annotated[Path, typer.Option(help="Folder for the API token, jobs, logs and outcomes.")] = DEFAULT_STATE,
    slots: Annotated[int, typer.Option(min=1, max=1000, help="Jobs at once.")] = 2,
    keeper: KeeperSocket = DEFAULT_KEEPER,
    gitlab_socket: Annotated[
        Path | None, typer.Option(envvar="RUNNER_GITLAB_SOCKET", help="Where to listen for hooks of gitlab-runner.")
    ] = None,
    gitlab_grace: Annotated[
        float, typer.Option(min=0, max=300, help="Seconds between TERM and KILL for what a GitLab job's stage started.")
    ] = 5.0,
    gitlab_image: Annotated[
        list[str] | None, typer.Option(help="Pattern of images that GitLab jobs may use (again for more).")
    ] = None,
    gitlab_map_image: Annotated[
        list[str] | None, typer.Option(help="BEGINNING=REPLACEMENT in the names of their images (again for more).")
    ] = None,
    gitlab_pull_policy: Annotated[
        list[str] | None, typer.Option(help="For images of jobs that name none (again for more to try).")
    ] = None,
    gitlab_cache: Annotated[Path | None, typer.Option(help="Folder for caches of GitLab jobs.")] = None,
    gitlab_cache_bytes: Annotated[int, typer.Option(min=0, help="How much is kept there.")] = 20 * 1024**3,
    gitlab_helper: Annotated[
        Path | None, typer.Option(help="A gitlab-runner or gitlab-runner-helper that jobs are given.")
    ] = None,
) -> None:
    """Run as a service: take jobs over HTTP, run each in a sandbox, keep logs and outcomes.

    TERM drains: no more jobs are taken, and those that were taken end first. A second TERM, or QUIT, ends them.

    USR1 detaches, for a restart or an upgrade: the service exits within seconds and leaves running jobs running and
    waiting ones waiting. Started again with the same --state, it goes on with them. So it does after a crash.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadJobError(f"--listen {listen} is not HOST:PORT, such as {DEFAULT_LISTEN}.")
    options = GitLabOptions(
        socket=gitlab_socket,
        settings=Settings(grace=gitlab_grace),
        images=ImagePolicy.parse(gitlab_image or (), gitlab_map_image or (), gitlab_pull_policy or ()),
        caches=CacheStore(gitlab_cache, gitlab_cache_bytes) if gitlab_cache else None,
        helper=gitlab_helper,
    )
    asyncio.run(_serve(host, int(port), state, slots, KeeperLeases(keeper), options))


async def _serve(host: str, port: int, state: Path, slots: int, leases: KeeperLeases, gitlab: GitLabOptions) -> None:
    from runner.api.app import make_app  # noqa: PLC0415 - `runner run` does not pay for the web framework
    from runner.api.server import serve as serve_api  # noqa: PLC0415
    from runner.api.token import Token  # noqa: PLC0415
    from runner.gitlab.beside import beside  # noqa: PLC0415
    from runner.service.home import Home  # noqa: PLC0415
    from runner.service.leases import NotedLeases  # noqa: PLC0415
    from runner.service.records import Records  # noqa: PLC0415
    from runner.service.service import Service  # noqa: PLC0415
    from runner.service.standby import Standby  # noqa: PLC0415

    home = Home(state)
    records, token = Records(home.jobs), Token(home.token)
    noted = NotedLeases(leases, home.leases, slots)
    service = Service(noted, records, slots, Standby(noted, leases.ready))
    logging.getLogger("runner").info("serving on http://%s:%d; the API token is in %s", host, port, home.token)
    await serve_api(beside(service, leases, home.gitlab, gitlab), make_app(service, token), host, port)
    logging.shutdown()
    os._exit(0)  # all is on disk, and a thread that still waits for a sandbox would hold us up for minutes


@app.command()
def ping(
    url: Annotated[str, typer.Option(envvar="RUNNER_URL", help="Where the API is.")] = f"http://{DEFAULT_LISTEN}",
) -> None:
    """Exit with 0 when the service answers and takes jobs. For health checks."""
    import httpx  # noqa: PLC0415 - `runner run` does not pay for it

    try:
        answer = httpx.get(f"{url}/ready", timeout=5)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"No runner answers at {url}: {error}.") from error
    print(answer.text)
    if answer.status_code != 200:
        raise typer.Exit(1)


def _separator(args: list[str] | None) -> int:
    """How many of the words after the script are the `--` before its arguments."""
    return int(args is not None and args[:1] == ["--"])


def _read_script(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_SCRIPT + 1)
        with Path(name).open("rb") as file:
            return file.read(MAX_SCRIPT + 1)
    except OSError as error:
        raise InputError(f"The script {name} cannot be read: {error.strerror}.") from error


def _environment(settings: list[str]) -> dict[str, str]:
    environment = {}
    for setting in settings:
        name, given, value = setting.partition("=")
        if not given and name not in os.environ:
            raise BadJobError(f"--env {name}: there is no variable of that name here to pass on. Give {name}=VALUE.")
        environment[name] = value if given else os.environ[name]
    return environment


if __name__ == "__main__":
    main()
