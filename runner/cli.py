"""The `runner` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from runner import outcome as outcomes
from runner import sources
from runner.commands import jobs, tokens
from runner.errors import BadJobError, InputError, RunnerError
from runner.execution.options import Settings
from runner.job import MAX_SCRIPT, Job
from runner.keeper_leases import DEFAULT_KEEPER
from runner.run import run_script
from runner.sources import Source

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run scripts in sandboxes: each may become root and break everything, and never reaches the host.",
)

app.add_typer(jobs.app)
app.add_typer(tokens.app, name="token")

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        envvar="RUNNER_ADDRESSES",
        help="USER@HOST:PORT of a sandbox that someone else started, in place of a keeper's; may be repeated.",
    ),
]
Identity = Annotated[
    Path | None, typer.Option(envvar="RUNNER_IDENTITY", help="Private key that the --address lets in.")
]
KnownHosts = Annotated[
    Path, typer.Option(envvar="RUNNER_KNOWN_HOSTS", help="Host keys of every --address, as ssh(1) keeps them.")
]
AddressState = Annotated[
    Path | None,
    typer.Option(envvar="RUNNER_ADDRESS_STATE", help="Folder for what is known of each --address, for all runners."),
]
Folder = Annotated[
    str | None,
    typer.Option(
        envvar="RUNNER_ADDRESS_FOLDER", help="Folder at the --address for jobs [default: /home/USER/runner-jobs]."
    ),
]
DEFAULT_KNOWN_HOSTS: Final = Path("~/.ssh/known_hosts").expanduser()
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
    address: Addresses = None,
    identity: Identity = None,
    known_hosts: KnownHosts = DEFAULT_KNOWN_HOSTS,
    address_state: AddressState = None,
    folder: Folder = None,
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
    source = _source(keeper, address, identity, known_hosts, address_state, folder)
    settings = source.adapt(Settings(lend_wait=wait, source_deadline=0))
    outcome = asyncio.run(run_script(source.leases, job, settings, as_json=as_json))
    raise typer.Exit(outcomes.exit_code(outcome))


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="HOST:PORT of the API.")] = DEFAULT_LISTEN,
    state: Annotated[Path, typer.Option(help="Folder for the API token, jobs, logs and outcomes.")] = DEFAULT_STATE,
    slots: Annotated[int, typer.Option(min=1, max=1000, help="Jobs at once.")] = 2,
    per_key: Annotated[int | None, typer.Option(min=1, help="Jobs of one trust key at once; as many as slots.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What jobs may ask for; several times for more.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="RUNNER_TLS_CERTIFICATE", help="Serve HTTPS with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="RUNNER_TLS_KEY", help="Its key (PEM).")] = None,
    keeper: KeeperSocket = DEFAULT_KEEPER,
    address: Addresses = None,
    identity: Identity = None,
    known_hosts: KnownHosts = DEFAULT_KNOWN_HOSTS,
    address_state: AddressState = None,
    folder: Folder = None,
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
    if (tls_certificate is None) != (tls_key is None):
        raise BadJobError("--tls-certificate and --tls-key belong together. Give both, or none for HTTP.")
    tls = (tls_certificate, tls_key) if tls_certificate and tls_key else None
    serving = _Serving(host, int(port), tls, state, slots, per_key, label or [])
    asyncio.run(_serve(serving, _source(keeper, address, identity, known_hosts, address_state, folder)))


@dataclass(frozen=True, slots=True)
class _Serving:
    """How to serve."""

    host: str
    port: int
    #: Certificate and key, for HTTPS.
    tls: tuple[Path, Path] | None
    state: Path
    slots: int
    per_key: int | None
    labels: list[str]


async def _serve(how: _Serving, source: Source) -> None:
    from runner.api.app import make_app  # noqa: PLC0415 - `runner run` does not pay for the web framework
    from runner.api.server import Tls  # noqa: PLC0415
    from runner.api.server import serve as serve_api  # noqa: PLC0415
    from runner.api.token import Token  # noqa: PLC0415
    from runner.service.home import Home  # noqa: PLC0415
    from runner.service.leases import NotedLeases  # noqa: PLC0415
    from runner.service.records import Records  # noqa: PLC0415
    from runner.service.service import SETTINGS, Service  # noqa: PLC0415
    from runner.service.standby import Standby  # noqa: PLC0415

    tls = Tls(*how.tls) if how.tls else None
    home = Home(how.state)
    records, token = Records(home.jobs, home.logs), Token(home.token)
    noted = NotedLeases(source.leases, home.leases, how.slots)
    standby = Standby(noted, source.ready) if source.ready else None
    service = Service(noted, records, how.slots, standby, source.adapt(SETTINGS), how.per_key, how.labels)
    where = f"{'https' if tls else 'http'}://{how.host}:{how.port}"
    logging.getLogger("runner").info("serving on %s; the API token is in %s", where, home.token)
    await serve_api(service, make_app(service, token, home.tokens), how.host, how.port, tls)
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


def _source(
    keeper: Path,
    address: list[str] | None,
    identity: Path | None,
    known_hosts: Path,
    address_state: Path | None,
    folder: str | None,
) -> Source:
    if not address:
        return sources.keeper(keeper)
    return sources.addresses(address, identity, known_hosts, address_state, folder)


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
